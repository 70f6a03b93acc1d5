"""Tensors: the graph attention network, its incremental trainer, its evaluation. Knows no Kafka, no Redis."""
