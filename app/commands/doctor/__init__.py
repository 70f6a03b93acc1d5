"""The checks of ``driftgraph doctor``: whether configuration, services and machine suffice for a run."""
