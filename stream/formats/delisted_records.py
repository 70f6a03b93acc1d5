"""Records of a topic of delisted items: the key is an item, and a record with a value delists it.

    KafkaSource ──► Rows ──► [DelistedRecords.decode] ──► items, of which DelistFeed tells Redis

The topic is usually compacted, so that it holds one record for each item that is delisted now. A record
without a value (a tombstone) lists the item again. What the value says does not matter.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from driftgraph.stream.events import EMPTY, Decoded
from driftgraph.stream.formats.event_rules import MISSING, Reason, Refusal, Rows, id_of
from driftgraph.stream.formats.json_text import read_json
from driftgraph.stream.formats.record_keys import CONNECT, sole_value

ITEMS_MAX: Final = 1_000_000  # ids in memory, some 100 MB: far above what Redis takes


class DelistedRecords:
    """Takes records into the set of delisted items: the decoder of a ``KafkaSource``, which finds no event.

    Always true: ``items`` are those whose last good record has a value; a bad record changes nothing but the
    count of its reason.
    """

    def __init__(self, topic: str) -> None:
        self.items = set[str]()
        self.read = 0  # records since the start
        self.refused: Counter[str] = Counter()  # those left out, by reason
        self._topic = topic
        self._first: dict[str, str] = {}  # the first of each reason: what was wrong, and where

    def decode(self, rows: Rows) -> Decoded:
        """Take the records of one read."""
        self.read += len(rows)
        for place, payload in enumerate(rows.payloads):
            at = rows.origin_of(place)
            answer = self._take(at.key, payload)
            if answer is not None:
                reason = answer.reason.value
                self._first.setdefault(reason, f"{at.origin}: {answer.detail}")
                self.refused[reason] += 1
        return Decoded(EMPTY)

    def _take(self, key: bytes | None, payload: bytes | None) -> Refusal | None:
        item = id_of(MISSING if key is None else sole_value(key), "key")
        if isinstance(item, Refusal):
            return item
        is_delisted = _has_value(payload)
        if isinstance(is_delisted, Refusal):
            return is_delisted
        if not is_delisted:
            self.items.discard(item)
        elif item in self.items or len(self.items) < ITEMS_MAX:
            self.items.add(item)
        else:
            return Refusal(Reason.BAD_SHAPE, f"the topic delists more than {ITEMS_MAX:,} items")
        return None

    def warnings(self) -> list[str]:
        """A sentence for each reason why records were left out."""
        return [self.warning(reason) for reason in sorted([*self.refused])]

    def warning(self, reason: str) -> str:
        """A sentence for one reason."""
        return (
            f"the topic {self._topic}: {self.refused[reason]:,} records delist no item ({reason}) and were "
            f"left out, such as {self._first[reason]}"
        )


def _has_value(payload: bytes | None) -> bool | Refusal:
    """Whether a record has a value. One that a serializer has made of nothing is refused, being unclear."""
    if payload is None:
        return False
    if payload.strip() in (b"", b"null"):
        return Refusal(
            Reason.BAD_SHAPE, f"the value is {payload!r}; a record without a value lists an item again"
        )
    if payload.startswith(b"{"):
        value = read_json(payload)
        if isinstance(value, dict) and value.keys() == CONNECT:
            return value["payload"] is not None
    return True
