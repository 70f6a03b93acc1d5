"""Puts the parts together: configuration, commands, the updater, the worker, Redis. Nothing imports it."""
