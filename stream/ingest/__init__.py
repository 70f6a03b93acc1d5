"""From decoded events to the window: lateness, repeats, erasure, append, expiry, in that order."""
