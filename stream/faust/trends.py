"""The trends half of the Faust app: counts canonical events, ranks items, and gives the lists to a sink.

    canonical topic ──► count ──► steps topic ──► trends ──► web views, sink

The steps topic has one partition, so that one worker has the whole ranking; the others redirect to it.
Counts are by steps of event time, in a table with a changelog. (Faust's own windowed tables keep the index
of their keys for ever.) A record of the steps topic that comes twice counts once. Canonical events that
``count`` reads again after a crash (those of its last commit interval of about 3 s) count again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import faust
import msgspec
from faust.types import EventT

from driftgraph.stream.faust.lanes import Lane, Outgoing, run_for_ever
from driftgraph.stream.faust.options import FaustOptions, Sink
from driftgraph.stream.faust.rising import Cell, Rising, counted, is_stale, key_of, rising, step_ms_of
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import RowOrigin, Rows

LOG = logging.getLogger("driftgraph.faust")

TOP: Final = 1_000  # items of a list: more than any site shows
RANK_EVERY_S: Final = 5.0  # the greatest age of a list
COUNT_CHUNK_MAX: Final = 4_096  # events counted together: those of one item in a step become one record
COUNT_LINGER_S: Final = 0.2  # trends may be so late


class _StepCount(msgspec.Struct, array_like=True):
    """A record of the steps topic: the number of events of a behavior with an item in a step."""

    behavior: str
    item: str
    step: int
    count: int


class TrendAgents:
    """Counts canonical events by behavior, item and step, ranks items, and gives the lists to the sink."""

    def __init__(self, app: faust.App, options: FaustOptions) -> None:
        self._app = app
        self._options = options
        self._behaviors = options.rules.behaviors.names
        self._step_ms = step_ms_of(options.window_ms)
        self._decoder = CanonicalJson(options.rules, options.names)
        self._canonical = app.topic(options.topic, value_type=bytes, key_type=bytes)
        self._steps = app.topic(
            f"{options.name}-faust-steps",
            value_type=bytes,
            key_type=bytes,
            internal=True,
            partitions=1,
            retention=max(86_400.0, 4 * options.window_ms / 1000),
        )
        as_json: Any = faust.Schema(key_serializer="json", value_serializer="json")
        self._table = app.Table("trends", partitions=1, schema=as_json)
        self._newest_step = 0
        self._lists: dict[str, list[Rising]] = {}

    def add_agents(self) -> None:
        """Add the two agents and the timer that ranks."""
        lane = Lane(self._step_counts, chunk_max=COUNT_CHUNK_MAX, linger_s=COUNT_LINGER_S)

        @self._app.agent(self._canonical, name="count")
        async def count(stream: Any) -> None:
            async for event in stream.noack().events():
                await lane.put(event)

        @self._app.agent(self._steps, name="trends")
        async def trends(stream: Any) -> None:
            async for event in stream.events():
                self._take(event)

        @self._app.timer(RANK_EVERY_S)
        async def rank() -> None:
            await self._rank()

        run_for_ever(self._app, [lane])

    async def _step_counts(self, events: Sequence[EventT[Any]]) -> list[Outgoing]:
        """Counts of a chunk of canonical events. Bad events are left out here; the updater reports them."""
        # in a thread: the first call may compile for seconds, and every call releases the interpreter's lock
        return await asyncio.get_running_loop().run_in_executor(None, self._counted, events)

    def _counted(self, events: Sequence[EventT[Any]]) -> list[Outgoing]:
        decoded = self._decoder.decode(
            Rows([event.message.value for event in events], lambda row: RowOrigin(str(row)))
        )
        batch = decoded.batch
        rows = zip(
            batch.relation.tolist(),
            batch.item.to_list(),
            (batch.time_ms // self._step_ms).tolist(),
            strict=True,
        )
        return [
            Outgoing(
                self._steps,
                None,
                msgspec.msgpack.encode(_StepCount(self._behaviors[relation], item, step, count)),
                step * self._step_ms,
            )
            for (relation, item, step), count in Counter(rows).items()
        ]

    def _take(self, event: EventT[Any]) -> None:
        try:
            counts = msgspec.msgpack.decode(event.message.value or b"", type=_StepCount)
        except msgspec.DecodeError as error:  # another program wrote it: trends go on without it
            LOG.warning("%s@%d is no count: %s", event.message.topic, event.message.offset, error)
            return
        offset = event.message.offset
        key = key_of(counts.behavior, counts.item)
        cell = counted(self._table.get(key), offset=offset, step=counts.step, count=counts.count)
        if cell is not None:
            self._table[key] = cell
        if counts.step > self._newest_step:  # once a step: remove cells that are in no window any more
            self._newest_step = counts.step
            for stale in [key for key, cell in self._table.items() if is_stale(cell, self._newest_step)]:
                del self._table[stale]

    async def _rank(self) -> None:
        """Make the lists anew and give them to the sink, if this worker has the table."""
        if self._app.in_recovery or self._app.rebalancing or not self._is_mine():
            return
        cells: list[tuple[str, Cell]] = list(self._table.items())
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, rising, cells, TOP)
        self._lists = {behavior: found.get(behavior, []) for behavior in self._behaviors}
        if self._options.sink is not None and any(self._lists.values()):  # else nothing that could be served
            await loop.run_in_executor(None, self._write, self._options.sink, self._lists)

    def _is_mine(self) -> bool:
        name = self._steps.get_topic_name()
        return any(tp.topic == name for tp in self._app.consumer.assignment())

    @staticmethod
    def _write(sink: Sink, lists: Mapping[str, Sequence[Rising]]) -> None:
        try:
            sink({behavior: {one.item: one.score for one in items} for behavior, items in lists.items()})
        except Exception as error:  # any error of a sink: trends go on, and the next round gives it all lists
            LOG.warning("trends are not written: %s", error)

    def add_views(self) -> None:
        """``/trends/`` names the behaviors, ``/trends/{behavior}/?n=20`` lists the items that rise."""

        @self._app.page("/trends/", name="behaviors")
        async def behaviors(view: Any, request: Any) -> Any:  # noqa: ARG001  Faust calls it so
            return view.json({"behaviors": list(self._behaviors)})

        @self._app.page("/trends/{behavior}/", name="rising")
        async def rising_items(view: Any, request: Any, behavior: str = "") -> Any:
            if behavior not in self._behaviors:
                return view.json(
                    {"error": f"no behavior {behavior!r}; there are: {', '.join(self._behaviors)}"},
                    status=404,
                )
            n = request.query.get("n", "20")
            if not (n.isascii() and n.isdigit() and len(n) <= 4 and 1 <= int(n) <= TOP):
                return view.json({"error": f"n should be 1 to {TOP}, got {n[:20]!r}"}, status=400)
            if not self._is_mine():
                return self._elsewhere(view, request)
            items = [
                {"item": one.item, "score": one.score, "now": one.now, "before": one.before}
                for one in self._lists.get(behavior, [])[: int(n)]
            ]
            return view.json({"behavior": behavior, "window_ms": self._options.window_ms, "items": items})

    def _elsewhere(self, view: Any, request: Any) -> Any:
        """Redirect to the worker that has the table."""
        found = self._app.router.table_metadata(self._table.name)
        owner = next((url for url, topics in found.items() if any(topics.values())), None)
        if owner is None:
            return view.json({"error": "no worker has the trends yet; try again in some seconds"}, status=503)
        return view.json(
            {"owner": owner}, status=307, headers={"Location": f"{owner.rstrip('/')}{request.path_qs}"}
        )
