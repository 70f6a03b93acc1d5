"""The window beside other stores of temporal graphs: the parts of ``benchmarks/window.py``."""
