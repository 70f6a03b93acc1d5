"""``driftgraph demo``: a synthetic shop, the whole job, and a report of it."""
