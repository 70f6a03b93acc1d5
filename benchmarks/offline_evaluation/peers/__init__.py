"""The recommenders that the product is compared with, written apart from its code."""
