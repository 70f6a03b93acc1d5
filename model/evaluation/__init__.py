"""Test-then-train metrics, baselines, and what moved between two generations."""
