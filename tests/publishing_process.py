"""A process that publishes a generation and dies by SIGKILL at the n-th thing it sends to Redis."""

from __future__ import annotations

import os
import signal
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from redis.connection import Connection

from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.servers.failover import WatchedConnection
from driftgraph.snapshots.generations.store import GenerationStore
from tests.services_redis import NAMESPACE, publish


class Mortal:
    """Counts what is sent; after the ``dies_after``-th, the process is gone before it sees the answer."""

    sent: int = 0
    dies_after: int = 0  # 0: lives

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        super().send_packed_command(*args, **kwargs)  # type: ignore[misc]
        Mortal.sent += 1
        if Mortal.sent == Mortal.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalConnection(Mortal, Connection):
    """Of one server."""


class MortalWatchedConnection(Mortal, WatchedConnection):
    """Of the primary that Sentinels name."""


def run(url: str, number: int, dies_after: int, sent: Synchronized[int] | None = None) -> None:
    """Publish generation ``number`` with epoch 1; tell in ``sent`` how often something was sent."""
    client = connect(url)
    client.connection_pool.connection_class = MortalConnection
    store = GenerationStore(client, namespace=NAMESPACE, epoch=1, keep=2)
    client.ping()  # connects; the handshake is not counted
    Mortal.sent, Mortal.dies_after = 0, dies_after
    publish(store, number)
    if sent is not None:
        sent.value = Mortal.sent
    client.close()
