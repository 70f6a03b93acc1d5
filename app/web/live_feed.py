"""What the page shows as it happens: a sample of the facts each second, to every listener at once.

Answers.facts ──► [LiveFeed] ──► GET /api/stream, as server-sent events

A listener gets the samples of the last hour first (the event ``history``), then one ``now`` each second.
Nothing private is in either: they say what ``/api/status`` says, in numbers that can be drawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from driftgraph.app.console.output import finite
from driftgraph.app.console.troubles import Facts, Told
from driftgraph.app.web.answers import Answers
from driftgraph.app.web.limits import TooManyError

EVERY_S: Final = 1.0
KEPT: Final = 3_600  # samples: an hour
RATE_OVER: Final = 5  # samples: a rate is of the seconds that they span
LISTENERS_MAX: Final = 32
WRITTEN_WITHIN_S: Final = 10.0  # a listener that does not read is cut off; it comes again
HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store",
                  "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no"}  # fmt: skip
NUMBERS: Final = ("time_ms", "rate", "lag", "waiting", "p50_ms", "p99_ms")  # of a sample, beside its window

log = logging.getLogger(__name__)


class LiveFeed:
    """Samples the facts for as long as the application runs.

    Always true: ``KEPT`` samples are held at most, and a message is made once, however many listen. A slow
    listener misses messages and never holds up another: each gets the newest when it has taken the last.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.samples = deque[dict[str, Any]](maxlen=KEPT)
        self._read = deque[tuple[int, int, int]](maxlen=RATE_OVER + 1)  # pid, status time, messages read
        self._newest = b""
        self._told = asyncio.Event()  # replaced with each message
        self._listeners = 0
        self._is_over = False

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Sample while the application runs: a context of aiohttp's ``cleanup_ctx``."""
        sampling = asyncio.create_task(self._sample_for_ever())
        yield
        sampling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampling

    async def end(self, _: web.Application) -> None:
        """Let every listener go, so that the server can end."""
        self._is_over = True
        self._told.set()

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Send events until the listener goes, or the server ends.

        Raises:
            TooManyError: ``LISTENERS_MAX`` listen already.
        """
        if self._listeners >= LISTENERS_MAX:
            raise TooManyError(f"{LISTENERS_MAX} pages listen already", EVERY_S)
        self._listeners += 1
        answer = web.StreamResponse(headers=HEADERS)
        message = event("history", columns(self.samples)) + self._newest
        try:
            await answer.prepare(request)
            while not self._is_over:
                async with asyncio.timeout(WRITTEN_WITHIN_S):
                    await answer.write(message)
                await self._told.wait()
                message = self._newest
        except (ConnectionError, TimeoutError):  # the listener has gone, or does not read
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._listeners -= 1
        return answer

    # -----------------------------------------------------------------------------------------------------

    async def _sample_for_ever(self) -> None:
        while True:
            try:
                self.sample()
            except Exception:  # the next second may be better, and the page says since when there is no word
                log.exception("sampling for the page")
            await asyncio.sleep(EVERY_S)

    def sample(self) -> None:
        """Take one sample, and tell every listener."""
        facts = self._answers.facts()
        sample = {**sample_of(facts), "rate": self._rate(facts.updater)}
        self.samples.append(sample)
        self._newest = event("now", {**self._answers.now(facts), "sample": sample})
        told, self._told = self._told, asyncio.Event()
        told.set()

    def _rate(self, updater: Told | None) -> float | None:
        """Messages read a second, over the newest samples of one updater's life; None if not known."""
        if updater is None or "events" not in updater:
            self._read.clear()
            return None
        newest: tuple[int, int, int] = (updater["pid"], updater["time_ms"], updater["events"]["read"])
        if self._read and newest[0] != self._read[-1][0]:
            self._read.clear()  # another process counts from 0
        if not self._read or newest[1] > self._read[-1][1]:
            self._read.append(newest)
        _, since_ms, before = self._read[0]
        if newest[1] <= since_ms:
            return None
        return round((newest[2] - before) * 1_000 / (newest[1] - since_ms), 1)


def sample_of(facts: Facts) -> dict[str, Any]:
    """The numbers that the charts draw; None for what nobody says."""
    updater, worker = facts.updater or {}, facts.worker or {}
    refresh = worker.get("refresh") or {}
    fresh = (refresh.get("freshness") or {}).get("event") or {}
    return {
        "time_ms": facts.now_ms,
        "lag": sum(updater["lag"].values()) if "lag" in updater else None,
        "waiting": refresh.get("waiting"),
        "p50_ms": fresh.get("p50_ms"),
        "p99_ms": fresh.get("p99_ms"),
        "window": dict(updater.get("window") or {}),
    }


def columns(samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples as columns, the window's by relation; a relation that a sample lacks is None there."""
    kept = list(samples)
    relations = list(dict.fromkeys(name for one in kept for name in one["window"]))
    found: dict[str, Any] = {name: [one[name] for one in kept] for name in NUMBERS}
    found["window"] = {name: [one["window"].get(name) for one in kept] for name in relations}
    return found


def event(name: str, value: object) -> bytes:
    """A server-sent event."""
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()
