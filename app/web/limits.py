"""Limits of the HTTP port: requests a second, requests that wait, connections, and clients that are slow.

    socket ──► [Entrance, Connections] ──► routes ──► [Bucket] ──► [Line] ──► Answers

The limits protect the process and the machine from mistakes and from one rude client; a proxy in front keeps
off those who come in thousands.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from aiohttp import web

CONNECTIONS_MAX: Final = 512
IDLE_S: Final = 10.0  # a connection without a whole request for so long is cut off, also with half of one
SWEEP_EVERY_S: Final = 1.0
T = TypeVar("T")


class TooManyError(Exception):
    """A limit is reached. ``after_s`` says when to come again."""

    def __init__(self, said: str, after_s: float) -> None:
        super().__init__(said)
        self.after_s = after_s


class Bucket:
    """At most ``rate`` requests a second in the long run, and ``burst`` of them at once."""

    def __init__(self, rate: float, burst: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._now_s = rate, burst, now_s
        self._left, self._seen_s = float(burst), now_s()

    def take(self) -> None:
        """Count one request.

        Raises:
            TooManyError: There is no room for it.
        """
        now_s = self._now_s()
        self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._rate)
        self._seen_s = now_s
        if self._left < 1:
            raise TooManyError(f"more than {self._rate:g} requests a second", (1 - self._left) / self._rate)
        self._left -= 1


class Line:
    """One thread for answers that wait for another system, one after the other."""

    def __init__(self, name: str, waiting_max: int) -> None:
        self._name, self._waiting_max, self._waiting = name, waiting_max, 0
        self._threads = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        """Do the work in the thread.

        Raises:
            TooManyError: So many wait already that this one would wait for long.
        """
        if self._waiting >= self._waiting_max:
            raise TooManyError(f"{self._waiting_max} requests wait for {self._name} already", 1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: work(*args, **named))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Begin nothing more; what is under way is waited for, some seconds at most."""
        self._threads.shutdown(cancel_futures=True)


class Connections:
    """Cuts off connections without a request for ``IDLE_S``: aiohttp lets headers take for ever."""

    def __init__(self) -> None:
        self._busy: set[asyncio.BaseProtocol] = set()
        self._idle_since: dict[asyncio.BaseProtocol, float] = {}

    @contextmanager
    def answering(self, request: web.Request) -> Iterator[None]:
        """The connection of a request is busy meanwhile, and is not cut off."""
        protocol = request.protocol
        self._busy.add(protocol)
        try:
            yield
        finally:
            self._busy.discard(protocol)
            self._idle_since.pop(protocol, None)

    async def sweep(self, server: web.Server) -> None:
        """Cut off idle connections, for ever."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now_s = time.monotonic()
            idle = [one for one in server.connections if one not in self._busy]
            self._idle_since = {one: self._idle_since.get(one, now_s) for one in idle}
            for one in idle:
                if now_s - self._idle_since[one] > IDLE_S and one.transport is not None:
                    one.transport.abort()  # a close would wait for a client that does not read


class Entrance(asyncio.Protocol):
    """Hands a new connection over to the server, or tells the client that there are too many.

    It counts when the connection is there, as asyncio makes the protocols of many connections at once before.
    """

    def __init__(self, server: web.Server, handler: Callable[[], web.RequestHandler]) -> None:
        self._server, self._handler = server, handler

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide."""
        assert isinstance(transport, asyncio.Transport)
        if len(self._server.connections) < CONNECTIONS_MAX:
            inside = self._handler()
            transport.set_protocol(inside)
            inside.connection_made(transport)
            return
        body = json.dumps(
            {"error": f"{CONNECTIONS_MAX} connections are open already; come again later"}
        ).encode()
        head = (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n"
        )
        transport.write(head % len(body) + body)
        transport.close()
