"""What an event's time may look like, the wall clock, durations, and the watermark."""
