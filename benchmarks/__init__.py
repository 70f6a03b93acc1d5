"""Benchmarks: each file here but ``report`` and ``traffic`` is a command that prints JSON.

A folder holds the parts of the commands that its docstring names.
"""
