"""Both readers behind the calls of the blocking one, so that a test of a promise runs for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.keys import connect_async
from driftgraph.snapshots.reader import AsyncEmbeddingReader, EmbeddingReader
from driftgraph.snapshots.reading.drivers import Line
from tests.services_redis import NAMESPACE

MakeReader = Callable[..., EmbeddingReader]


class Awaited:
    """An ``AsyncEmbeddingReader`` whose calls are waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reader: AsyncEmbeddingReader) -> None:
        self.loop, self.reader = loop, reader

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.reader, name)
        return lambda *args, **named: self.loop.run_until_complete(method(*args, **named))


@pytest.fixture(params=["blocking", "asyncio"])
def make_reader(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> Iterator[MakeReader]:
    """Makes readers of the namespace ``shop``, of one kind, with clients of their own."""
    if request.param == "blocking":

        def make(client: redis.Redis, **options: Any) -> EmbeddingReader:
            return EmbeddingReader(client, namespace=NAMESPACE, **options)

        yield make
        return
    loop = asyncio.new_event_loop()
    opened = list[Any]()

    def make_async(client: redis.Redis, **options: Any) -> Any:
        settings = client.connection_pool.connection_kwargs
        url = f"redis://{settings['host']}:{settings['port']}" if "host" in settings else redis_server.url
        opened.append(connect_async(url))
        return Awaited(loop, AsyncEmbeddingReader(opened[-1], namespace=NAMESPACE, **options))

    yield make_async
    for one in opened:
        loop.run_until_complete(one.aclose())
    loop.close()


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of commands of each round trip from here on, of both kinds of readers."""
    from driftgraph.snapshots.reading import drivers

    trips = list[int]()
    send, send_async = Line.send, drivers._send_async

    def counted(line: Line, commands: list[Any]) -> list[Any]:
        trips.append(len(commands))
        return send(line, commands)

    async def counted_async(client: Any, commands: list[Any]) -> list[Any]:
        trips.append(len(commands))
        return await send_async(client, commands)

    monkeypatch.setattr(Line, "send", counted)
    monkeypatch.setattr(drivers, "_send_async", counted_async)
    return trips
