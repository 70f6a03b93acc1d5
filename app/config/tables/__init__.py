"""Every table of driftgraph.toml: its keys with their types, limits, defaults and descriptions."""
