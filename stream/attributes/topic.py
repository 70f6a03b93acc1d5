"""Records of a topic of attributes: the key is an id, the value what is said of it from now on.

    KafkaSource ──► Rows ──► [TopicAttributes.decode] ──► Attributes.say_all, Attributes.forget

The topic is a catalog as a file is, one that changes: usually a compacted topic, which keeps the newest
record of each key. So a record says all of its id: a field that it lacks has no value any more. A record
without a value (a tombstone) takes the id out of the catalog. What is said holds from the record's timestamp
on, and not before what was said of the id earlier in the topic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftgraph.stream.arrays import I64
from driftgraph.stream.attributes.attributes import ALWAYS_MS, Attributes
from driftgraph.stream.events import EMPTY, Decoded, Strings
from driftgraph.stream.formats.attribute_values import attribute_text
from driftgraph.stream.formats.event_rules import MISSING, Reason, Refusal, RowOrigin, Rows, id_of
from driftgraph.stream.formats.json_text import no_object, read_json
from driftgraph.stream.formats.paths import ABSENT, Steps, look_up
from driftgraph.stream.formats.record_keys import CONNECT, sole_value
from driftgraph.stream.kafka.partition import TOPIC_STRIDE
from driftgraph.stream.time.clock import TimeRules
from driftgraph.stream.window.adjacency import USER


@dataclass(frozen=True, slots=True)
class CatalogTopic:
    """A topic, whose attributes it has, and where each field's value is in a record."""

    topic: str
    side: int
    paths: tuple[Steps, ...]  # of the side's fields, in their order


@dataclass(frozen=True, slots=True)
class _Said:
    """What the good records of one read say of ids."""

    ids: list[str]
    times_ms: list[int]
    values: list[tuple[str, ...]]


class TopicAttributes:
    """Takes records into the tables of attributes: the decoder of a ``KafkaSource``, which finds no event.

    Always true: a bad record changes nothing but the count of its reason; what the tables hold does not
    depend on how the records are cut into reads.
    """

    def __init__(
        self,
        catalogs: Sequence[CatalogTopic],
        attributes: Attributes | None,
        times: TimeRules,
        reach_ms: Callable[[Strings], I64] | None = None,
    ) -> None:
        """``attributes`` get what is said; None: it is only judged. ``catalogs`` are in the source's order.

        ``reach_ms`` tells up to when each user is erased; None: nobody is.
        """
        self._catalogs = tuple(catalogs)
        self._attributes, self._times, self._reach_ms = attributes, times, reach_ms
        self.read = 0  # records since the start
        self.refused: Counter[tuple[str, str]] = Counter()  # those left out, by topic and reason
        self._first: dict[tuple[str, str], str] = {}  # the first of each: what was wrong, and where

    def decode(self, rows: Rows) -> Decoded:
        """Take the records of one read, whose partitions say of which topic each is.

        Raises:
            WindowError: The disk is full.
        """
        topic_of = rows.partition // TOPIC_STRIDE
        for number, catalog in enumerate(self._catalogs):
            self._take(catalog, rows, np.flatnonzero(topic_of == number).tolist())
        return Decoded(EMPTY)

    def warnings(self) -> list[str]:
        """A sentence for each reason why records were left out."""
        return [self.warning(kind) for kind in sorted(self.refused)]

    def warning(self, kind: tuple[str, str]) -> str:
        """A sentence for one topic and reason."""
        topic, reason = kind
        return (
            f"the topic {topic}: {self.refused[kind]:,} records say no attributes ({reason}) and were left "
            f"out, such as {self._first[kind]}"
        )

    def _take(self, catalog: CatalogTopic, rows: Rows, places: Sequence[int]) -> None:
        self.read += len(places)
        latest_ms = self._times.bounds().ceiling_ms
        found: dict[str, list[tuple[int, tuple[str, ...]]]] = {}  # by id: behind its newest tombstone
        gone: dict[str, None] = {}
        for place in places:
            at = rows.origin_of(place)
            answer = _answer(catalog, rows.payloads[place], at, latest_ms)
            if isinstance(answer, Refusal):
                kind = catalog.topic, answer.reason.value
                self.refused[kind] += 1
                self._first.setdefault(kind, f"{at.origin}: {answer.detail}")
                continue
            name, time_ms, values = answer
            if values is None:
                gone[name] = None
                found.pop(name, None)
            else:
                found.setdefault(name, []).append((time_ms, values))
        if self._attributes is None:
            return
        if gone:
            self._attributes.forget(catalog.side, Strings.of(gone))
        if found:
            self._say(catalog, found)

    def _say(self, catalog: CatalogTopic, found: dict[str, list[tuple[int, tuple[str, ...]]]]) -> None:
        assert self._attributes is not None
        names = Strings.of(found)
        newest_ms = self._attributes.newest_ms(catalog.side, names).tolist()
        erased_ms = [0] * len(found)
        if catalog.side == USER and self._reach_ms is not None:
            erased_ms = self._reach_ms(names).tolist()
        said = _Said([], [], [])
        for (name, records), before_ms, reach_ms in zip(found.items(), newest_ms, erased_ms, strict=True):
            since_ms = before_ms
            for time_ms, values in records:
                if time_ms > reach_ms:  # else it is from before the request to erase its user
                    since_ms = max(since_ms, time_ms)
                    said.ids.append(name)
                    said.times_ms.append(since_ms)
                    said.values.append(values)
        if said.ids:
            columns = [Strings.of(column) for column in zip(*said.values, strict=True)]
            self._attributes.say_all(
                catalog.side, Strings.of(said.ids), columns, np.array(said.times_ms, np.int64)
            )


def _answer(
    catalog: CatalogTopic, payload: bytes | None, at: RowOrigin, latest_ms: int | None
) -> tuple[str, int, tuple[str, ...] | None] | Refusal:
    """Id, time and values of a record, None for a tombstone; or why it says nothing."""
    name = id_of(MISSING if at.key is None else sole_value(at.key), "key")
    if isinstance(name, Refusal):
        return name
    time_ms = max(ALWAYS_MS, at.timestamp_ms or 0)
    if latest_ms is not None and time_ms > latest_ms:
        return Refusal(Reason.TIME_IN_FUTURE, f"the record's timestamp {time_ms} is ahead of the clock")
    value: Any = None if payload is None else read_json(payload)
    if isinstance(value, Refusal):
        return value
    if isinstance(value, dict) and value.keys() == CONNECT:
        value = value["payload"]
        payload = None if value is None else payload
    if payload is None:
        return name, time_ms, None
    if not isinstance(value, dict):
        return no_object(payload)
    texts = (look_up(value, steps) for steps in catalog.paths)
    return name, time_ms, tuple("" if one is ABSENT else attribute_text(one) for one in texts)
