"""Generations in Redis: keys, atomic scripts, publish, checks, retention, and the lease of who may write."""
