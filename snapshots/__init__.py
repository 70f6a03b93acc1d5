"""State that survives a restart, on disk and in Redis: written whole or not at all, verified before use.

A service that serves embeddings imports ``EmbeddingReader`` and ``connect``.
"""

from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.reader import EmbeddingReader

__all__ = ["EmbeddingReader", "connect"]
