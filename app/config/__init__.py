"""The configuration: every table of driftgraph.toml, and the parts that are built from it."""
