"""The train loop: evaluate, fit, gate, save, publish; in the worker's process, or in lockstep with a replay."""
