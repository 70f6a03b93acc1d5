"""How a reader reads: questions as generators of commands, and a driver for each kind of client."""
