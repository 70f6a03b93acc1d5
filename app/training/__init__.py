"""The train loop: evaluate, fit, gate, publish; in the worker's process, or in lockstep with a replay."""
