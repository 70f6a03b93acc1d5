"""``driftgraph run``: the updater, its worker's supervisor, and the standby."""
