"""The configuration: every table of driftgraph.toml, and the builders of other parts from it."""
