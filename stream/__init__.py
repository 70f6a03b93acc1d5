"""Events in, up to a time-windowed heterograph of them. Knows no model and no Redis."""
