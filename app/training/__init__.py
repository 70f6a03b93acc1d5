"""The train loop: evaluate, fit, gate, save, publish; in the worker's process, or in turns with a replay."""
