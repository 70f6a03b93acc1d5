"""The product's lists beside other recommenders, on logged events: the parts of ``benchmarks/quality.py``."""
