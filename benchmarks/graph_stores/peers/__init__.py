"""The stores that the window is compared with, a file for each library."""
