"""Which events a fit trains on, against which other items, and which events it holds out."""
