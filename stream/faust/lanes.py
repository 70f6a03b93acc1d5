"""Lanes of a Faust agent: queues that send what events become, and acknowledge the events only then.

    agent ──► [Lane.put] ──► chunk ──► work ──► sends, all answered by the broker ──► events acknowledged

So a crash at any point repeats events and loses none. Events of one key go through one lane, in order. A slow
event delays only its own lane, until that lane holds ``WAITING_MAX`` events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import faust
from aiokafka.errors import MessageSizeTooLargeError
from faust.types import EventT, TopicT

LOG = logging.getLogger("driftgraph.faust")

CHUNK_MAX: Final = 64  # events that are worked on together; a slow event delays the others of its chunk
WAITING_MAX: Final = 4_096  # events in a lane; then the agent waits and Faust stops fetching


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to send. ``instead`` is sent if the topic refuses this one as too large."""

    topic: TopicT
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()
    instead: Outgoing | None = None


Work = Callable[[Sequence[EventT[Any]]], Awaitable[list[Outgoing]]]


class Lane:
    """One queue of events, and the task that takes them from it.

    Always true: an event is acknowledged after all records that it became are; events are acknowledged in
    the order in which they came.
    """

    def __init__(self, work: Work, *, chunk_max: int = CHUNK_MAX, linger_s: float = 0) -> None:
        self._work = work
        self._linger_s = linger_s  # how long a chunk waits for further events
        self._chunk_max = chunk_max
        self._queue: asyncio.Queue[EventT[Any]] = asyncio.Queue(WAITING_MAX)

    async def put(self, event: EventT[Any]) -> None:
        """Add an event; waits while the lane is full."""
        await self._queue.put(event)

    async def run(self) -> None:
        """Work for ever. An error of ``work`` or of a send ends the lane, and the worker with it."""
        while True:
            events = [await self._queue.get()]
            if self._linger_s and self._queue.qsize() < self._chunk_max:
                await asyncio.sleep(self._linger_s)
            while len(events) < self._chunk_max and not self._queue.empty():
                events.append(self._queue.get_nowait())
            await _deliver(await self._work(events))
            for event in events:
                event.ack()


async def _deliver(messages: Sequence[Outgoing]) -> None:
    """Send all records and wait until the broker has them."""
    while messages:
        answers = [(message, await _sent(message)) for message in messages]
        too_large = [message for message, answer in answers if not await _arrived(message, answer)]
        messages = [message.instead for message in too_large if message.instead is not None]


async def _sent(message: Outgoing) -> Awaitable[Any] | None:
    """The future answer of the broker; None if the client itself refuses the record as too large."""
    try:
        return await message.topic.send(
            key=message.key,
            value=message.value,
            timestamp=(message.timestamp_ms + 0.5) / 1000,  # Faust cuts the fraction of a millisecond off
            headers=list(message.headers),
            force=True,
        )
    except Exception as error:
        if message.instead is not None and isinstance(error.__cause__, MessageSizeTooLargeError):
            return None
        raise


async def _arrived(message: Outgoing, answer: Awaitable[Any] | None) -> bool:
    """Whether the broker took the record; False if it is too large and has an ``instead``."""
    try:
        if answer is not None:
            await answer
    except MessageSizeTooLargeError:
        if message.instead is None:
            raise
        return False
    return answer is not None


def run_for_ever(app: faust.App, lanes: Sequence[Lane]) -> None:
    """Start the lanes with the app. An error of a lane ends the worker with an exit code that is not 0."""

    async def run_lanes() -> None:
        try:
            await asyncio.gather(*(lane.run() for lane in lanes))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            LOG.exception(
                "a lane ended: the worker stops, and repeats what is not acknowledged when it starts"
            )
            await app.crash(error)

    app.task(run_lanes)
