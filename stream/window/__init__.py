"""The time-windowed heterograph: records, rings, recent-K sampling, shared memory, external ids."""
