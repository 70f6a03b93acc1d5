"""What a process shows and writes about itself: progress, tables, status files."""
