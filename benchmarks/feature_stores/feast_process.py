"""Feast in an environment of its own, asked over standard input: it reads what we write, and writes beside.

    tests/snapshots/test_feast.py, publish_reads.py ──► a line of JSON ──► [Feast] ──► a line of JSON

    .venv/feast/bin/python benchmarks/feature_stores/feast_process.py HOST:PORT PROJECT

Requests::

    {"read": "user", "ids": […]}                    → embeddings and generations; null where Feast has none
    {"write": "user", "rows": [{"id", "embedding", "generation", "event_ms"}]}   → null
    {"time": "user", "ids": […], "batch", "turns"}  → seconds of each turn: one get_online_features
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["FEAST_USAGE"] = "False"  # nothing is sent to anybody

import pandas  # pyright: ignore[reportMissingImports]
from feast import FeatureStore, RepoConfig  # pyright: ignore[reportMissingImports]

VIEWS = Path(__file__).resolve().parents[2] / "examples" / "feast_views.py"
FEATURES = ("embedding", "generation")


class Peer:
    """A feature store with the views of the example."""

    def __init__(self, address: str, project: str, folder: str) -> None:
        views = runpy.run_path(str(VIEWS))
        self.namespace = views["NAMESPACE"]
        self.store = FeatureStore(
            config=RepoConfig(
                project=project,
                provider="local",
                registry=f"{folder}/registry.db",
                online_store={"type": "redis", "connection_string": address},
                offline_store={"type": "file"},
                entity_key_serialization_version=3,
            )
        )
        self.store.apply([views[name] for name in ("user", "item", "users", "items")])

    def ask(self, side: str, ids: list[str]) -> Any:
        """What Feast has of these ids."""
        return self.store.get_online_features(
            features=[f"{self.namespace}_{side}s:{feature}" for feature in FEATURES],
            entity_rows=[{f"{side}_id": entity_id} for entity_id in ids],
        )

    def answer(self, request: dict[str, Any]) -> Any:
        """The answer to one request."""
        if side := request.get("read"):
            found = self.ask(side, request["ids"]).to_dict()
            return {feature: found[feature] for feature in FEATURES}
        if side := request.get("write"):
            rows = pandas.DataFrame(request["rows"]).rename(columns={"id": f"{side}_id"})
            rows["event_timestamp"] = pandas.to_datetime(rows.pop("event_ms"), unit="ms", utc=True)
            self.store.write_to_online_store(f"{self.namespace}_{side}s", rows)
            return None
        ids, batch, seconds = request["ids"], request["batch"], list[float]()
        for turn in range(request["turns"]):
            first = turn * batch % len(ids)
            begun = time.perf_counter()
            self.ask(request["time"], ids[first : first + batch]).to_dict()
            seconds.append(time.perf_counter() - begun)
        return seconds


def main() -> None:
    """Answer until standard input ends."""
    address, project = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(address, project, folder)
        for line in sys.stdin:
            print(json.dumps(peer.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
