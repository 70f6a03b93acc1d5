"""Limits of the HTTP port, on real sockets: slow clients, many connections, large requests, many of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftgraph.app.web import limits
from driftgraph.app.web.limits import Bucket, Connections, Line, TooManyError
from driftgraph.app.web.openapi import ROUTES
from driftgraph.app.web.routes import BODY_WITHIN_S, PRIVATE_AT_ONCE
from tests.app.web.serving import TOKEN, Port, served, settings_of

PROMOTE = b"POST /api/promote HTTP/1.1\r\nHost: a\r\n"
WITHIN_S = limits.IDLE_S + 2 * limits.SWEEP_EVERY_S + 20  # the machine may be busy


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """Without a Redis: none of these asks it."""
    folder = tmp_path_factory.mktemp("web")
    with served(settings_of(folder, "redis://127.0.0.1:1", token=TOKEN)) as found:
        yield found


def connected(port: Port) -> socket.socket:
    host, _, number = port.address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(number)), timeout=WITHIN_S)


def all_of(line: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := line.recv(1 << 16):
            found += chunk
    return found


def test_slow_clients_are_cut_off_and_no_one_else_waits(port: Port) -> None:
    """One sends nothing, one half of its headers, one half of its body, one does not come again."""
    private = b"Authorization: Bearer " + TOKEN.encode() + b"\r\nContent-Type: application/json\r\n"
    with contextlib.ExitStack() as stack:
        silent, half, body, idle = (stack.enter_context(connected(port)) for _ in range(4))
        half.sendall(PROMOTE)
        body.sendall(PROMOTE + private + b"Content-Length: 9\r\n\r\n{")
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert port.ask("/livez")[0] == 200
        assert all_of(silent) == all_of(half) == b""
        assert b"200 OK" in all_of(idle)
        told = all_of(body)
        assert b"408 Request Timeout" in told
        assert f"has not come within {BODY_WITHIN_S:g} s".encode() in told


def test_more_connections_than_there_may_be_are_told_so(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(limits.CONNECTIONS_MAX):
            stack.enter_context(connected(port))
        with connected(port) as one_more:
            told = all_of(one_more)
    assert told.startswith(b"HTTP/1.1 503 Service Unavailable")
    assert b"connections are open already" in told
    assert port.ask("/livez")[0] == 200, "it is over with the connections"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 2_000 + b"\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", b"400"),
        (PROMOTE + b"Content-Length: -1\r\n\r\n", b"400"),
        (PROMOTE + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /api/../livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET http://b/livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
    ],
)
def test_odd_requests_are_refused(port: Port, request_: bytes, status: bytes) -> None:
    with connected(port) as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(request_)
        told = all_of(line)
    assert told.split(b" ", 2)[1:2] == [status], told[:200]
    assert port.ask("/livez")[0] == 200


@pytest.mark.parametrize("route", [one for one in ROUTES if one.body], ids=lambda one: one.name)
def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(port: Port, route: object) -> None:
    path, kind = route.path, next(iter(route.body))  # type: ignore[attr-defined]
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {kind}\r\n"
    part = b" " * (1 << 16)
    for said, sent in (
        ("Content-Length: 1114112", part),
        ("Transfer-Encoding: chunked", b"10000\r\n" + part + b"\r\n"),
    ):
        with connected(port) as line:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is refused before its end
                line.sendall(f"{head}{said}\r\n\r\n".encode())
                for _ in range(17):
                    line.sendall(sent)
            assert b"413 " in all_of(line)[:60], said


def test_who_tries_many_tokens_is_told_to_come_later(tmp_path: Path) -> None:
    with served(settings_of(tmp_path, "redis://127.0.0.1:1", token=TOKEN)) as port:
        guess = b"GET /api/events/recent/u1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess\r\n"
        with connected(port) as line:
            line.sendall((guess + b"\r\n") * PRIVATE_AT_ONCE * 2 + guess + b"Connection: close\r\n\r\n")
            told = all_of(line)
        assert told.count(b"HTTP/1.1 401 ") >= PRIVATE_AT_ONCE
        assert told.count(b"HTTP/1.1 429 ") == told.count(b"Retry-After: 1") > 0
        assert port.ask("/livez")[0] == 200, "probes are never told to come later"


# --- without sockets -------------------------------------------------------------------------------------


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    now = [100.0]
    bucket = Bucket(2.0, 3, lambda: now[0])
    for _ in range(3):
        bucket.take()
    with pytest.raises(TooManyError, match="more than 2 requests a second") as caught:
        bucket.take()
    assert caught.value.after_s == 0.5
    now[0] += 0.5
    bucket.take()
    now[0] += 1_000
    for _ in range(3):
        bucket.take()
    with pytest.raises(TooManyError):
        bucket.take()


def test_a_line_refuses_whom_it_cannot_serve_soon_and_hands_errors_on() -> None:
    async def run() -> None:
        line, goes_on = Line("Redis", 2), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> int:
            asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(30)
            return 7

        first, second = (asyncio.create_task(line.run(wait)) for _ in range(2))
        await asyncio.sleep(0)
        with pytest.raises(TooManyError, match="2 requests wait for Redis already"):
            await line.run(wait)
        goes_on.set()
        assert (await first, await second) == (7, 7)
        with pytest.raises(ZeroDivisionError):
            await line.run(lambda: 1 // 0)
        assert await line.run(int, "5") == 5
        line.close()

    asyncio.run(run())


def test_a_connection_that_is_being_answered_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that sends events for hours does."""
    monkeypatch.setattr(limits, "IDLE_S", 0.05)
    monkeypatch.setattr(limits, "SWEEP_EVERY_S", 0.01)

    class Transport:
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    class Protocol:
        def __init__(self) -> None:
            self.transport = Transport()

    class Server:
        connections = (Protocol(), Protocol())

    class Request:
        protocol = Server.connections[0]

    async def run() -> None:
        found = Connections()
        sweeping = asyncio.create_task(found.sweep(Server()))  # type: ignore[arg-type]
        with found.answering(Request()):  # type: ignore[arg-type]
            while not Server.connections[1].transport.aborted:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert not Request.protocol.transport.aborted
        while not Request.protocol.transport.aborted:
            await asyncio.sleep(0.01)
        sweeping.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))
