"""Checkpoints on disk: of the window, and of the trainer."""
