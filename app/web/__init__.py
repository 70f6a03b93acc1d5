"""One HTTP port: whether it lives, whether it is ready, its metrics, and what Redis serves, as JSON."""
