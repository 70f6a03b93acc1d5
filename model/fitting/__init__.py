"""The parts of a fit: how a model begins, one step of it, the gate, and what is saved."""
