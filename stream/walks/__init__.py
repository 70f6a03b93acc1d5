"""Walks over the window at a cut: paths between items, similar users, and the index that makes many cheap."""
