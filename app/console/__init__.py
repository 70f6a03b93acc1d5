"""The output of a process about itself: progress, tables, status files."""
