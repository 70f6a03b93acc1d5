"""How numba compiles our loops and keeps what it compiled, and the loops over bytes that many rooms need."""
