"""The product's network in DGL and in PyG, for ``benchmarks/train.py``."""
