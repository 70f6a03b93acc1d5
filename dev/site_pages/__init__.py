"""Writes the pages and the picture of the documentation that come from the code."""
