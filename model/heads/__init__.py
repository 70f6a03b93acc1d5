"""How probable each behavior is once an item is shown: labels, features, calibrated heads, their metrics."""
