"""Items and users of a catalog who have no event, as a reader finds them in Redis."""

from __future__ import annotations

from pathlib import Path

import redis

from driftgraph.app.training.cycle import Worker
from driftgraph.model.options import ListLengths
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from tests.model.attributes.test_attributes import ITEMS, block_of
from tests.model.attributes.test_without_events import COLD, fitted_catalog
from tests.services_redis import NAMESPACE


def test_a_reader_has_lists_for_users_and_items_of_whom_only_attributes_are_known(
    store: GenerationStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    graph, _, trainer = fitted_catalog()
    lengths = ListLengths(lists=ITEMS, similar=10)
    worker = Worker(graph, trainer, store, checkpoints=tmp_path, lengths=lengths)
    worker.publish(graph.moment())
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    stranger = reader.recommend("u900", top=10)
    assert (stranger.source, stranger.event_ms, len(stranger.items)) == ("list", 0, 10)
    in_block = [block_of(int(name[1:])) for name, _ in stranger.items]
    assert sum(in_block) < 5, "of its camp's block, by its words alone"
    assert reader.recommend("u901", top=10).source == "trending", "of whom nothing is known at all"
    for item in COLD:
        found = reader.similar(f"i{item}", top=10)
        assert (found.source, len(found.items)) == ("list", 10)
        near = [block_of(int(name[1:])) for name, _ in found.items]
        assert near.count(block_of(item)) >= 8, found
        scores = [score for _, score in found.items]
        assert scores == sorted(scores, reverse=True)
        assert all(-1.001 <= score <= 1.001 for score in scores), "cosines"
    assert reader.similar("i999", top=10).source == "unknown"
