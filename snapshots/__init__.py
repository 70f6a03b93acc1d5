"""What survives a restart: written whole or not at all, verified before it is used."""
