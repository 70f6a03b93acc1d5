"""The worker's own process: how it starts, its loop, and the threads beside the loop."""
