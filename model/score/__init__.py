"""The score that lists are ranked by: its parts, its learned weights, and the lists."""
