"""What readers get: a generation by external id, and the refresh that keeps it fresh."""
