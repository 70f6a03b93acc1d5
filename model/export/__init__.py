"""The window at a cut as files of other libraries."""
