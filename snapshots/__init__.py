"""What survives a restart, on disk and in Redis: written whole or not at all, verified before it is used.

``EmbeddingReader`` and ``connect`` are what a service imports that serves embeddings.
"""

from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader

__all__ = ["EmbeddingReader", "connect"]
