"""State that survives a restart, on disk and in Redis: written whole or not at all, verified before use.

A service that serves embeddings imports a reader and ``connect`` or ``connect_async``.
"""

from driftgraph.snapshots.answers import Batch, Chances, Recommendation, SimilarItems
from driftgraph.snapshots.generations.keys import StoreError, connect, connect_async
from driftgraph.snapshots.reader import AsyncEmbeddingReader, EmbeddingReader

__all__ = [
    "AsyncEmbeddingReader",
    "Batch",
    "Chances",
    "EmbeddingReader",
    "Recommendation",
    "SimilarItems",
    "StoreError",
    "connect",
    "connect_async",
]
