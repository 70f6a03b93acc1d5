"""Measurements. Each file runs by itself and prints JSON; ``report`` gives them one form."""
