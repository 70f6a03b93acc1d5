"""Records of a topic of dead letters: which headers say why, and from a record back to a letter.

topic.KafkaDeadLetters ──► [connect_headers] ──► records ──► [letter_of, offsets_done] ──► TopicLetterBox
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from confluent_kafka import Message

from driftgraph.stream.dead_letters.letters import (
    ATTEMPTS_HEADER,
    CONNECT_PREFIX,
    OWN_PREFIX,
    Letter,
    origin_of,
)
from driftgraph.stream.events import Rejected

_REASON, _ORIGIN, _KEPT = OWN_PREFIX + "reason", OWN_PREFIX + "origin", OWN_PREFIX + "kept_ms"
TRUNCATED: Final = OWN_PREFIX + "payload.bytes"  # how long the payload was before it was cut
TIMESTAMP: Final = OWN_PREFIX + "timestamp_ms"  # the event's timestamp, if the topic refuses it
DONE: Final = OWN_PREFIX + "done"  # the value names offsets of letters


def letter_of(message: Message, done: bool) -> Letter:
    """The letter that a record is."""
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    said = {name: (value or b"").decode(errors="replace") for name, value in headers}
    value, key = message.value(), message.key()
    kind, time_ms = message.timestamp()
    topic, partition, offset = (
        said.get(CONNECT_PREFIX + part, "") for part in ("topic", "partition", "offset")
    )
    named = f"{topic}[{partition}]@{offset}" if topic else ""
    rejected = Rejected(
        reason=said.get(_REASON) or said.get(CONNECT_PREFIX + "exception.class.name") or "unknown",
        detail=said.get(CONNECT_PREFIX + "exception.message", ""),
        payload=_bytes(value),
        origin=said.get(_ORIGIN) or named,
        key=None if key is None else _bytes(key),
        headers=tuple(
            (n, None if v is None else _bytes(v))
            for n, v in headers
            if n == ATTEMPTS_HEADER or not _is_said(n)
        ),
        timestamp_ms=_number(said.get(TIMESTAMP)) or (time_ms if kind else None),
    )
    size = _number(said.get(TRUNCATED)) or len(rejected.payload)
    place = f"{message.partition()}-{message.offset()}"
    return Letter(place, rejected, _number(said.get(_KEPT)) or 0, size, done)


def connect_headers(rejected: Rejected, now_ms: int) -> list[tuple[str, bytes]]:
    """The headers in which Kafka Connect tells a failure, and further ones that a retry needs."""
    topic, partition, offset = origin_of(rejected) or ("", "", "")
    said = {
        CONNECT_PREFIX + "topic": topic,
        CONNECT_PREFIX + "partition": str(partition),
        CONNECT_PREFIX + "offset": str(offset),
        CONNECT_PREFIX + "connector.name": "driftgraph",
        CONNECT_PREFIX + "task.id": "0",
        CONNECT_PREFIX + "stage": "VALUE_CONVERTER",
        CONNECT_PREFIX + "class.name": "driftgraph.stream.formats.event_rules",
        CONNECT_PREFIX + "exception.class.name": rejected.reason,
        CONNECT_PREFIX + "exception.message": rejected.detail,
        _REASON: rejected.reason,
        _ORIGIN: rejected.origin,
        _KEPT: str(now_ms),
    }
    return [(name, value.encode(errors="replace")) for name, value in said.items()]


def _is_said(name: str) -> bool:
    return name.startswith(CONNECT_PREFIX) or name in (_REASON, _ORIGIN, _KEPT, TRUNCATED, TIMESTAMP)


def offsets_done(message: Message) -> Sequence[int] | None:
    """The offsets that a record names as done; None for a letter."""
    headers = cast("list[tuple[str, Any]]", message.headers() or [])
    if not any(name == DONE for name, _ in headers):
        return None
    try:
        return msgspec.json.decode(_bytes(message.value()), type=list[int])
    except msgspec.MsgspecError:
        return []  # another program's record: it names no letters


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
