"""Events that a site posts over HTTP: judged as the updater judges them, and put on the topic that it reads.

    POST /api/events ──► [PostedEvents.take] ──► the configured decoder ──► BatchProducer ──► topic
                                                  └─ every bad event with its position: none is sent then

A batch is sent whole or not at all, so that a client that sends it again after an error has no doubt about
its parts; events with an ``event_id`` are applied once however often they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from driftgraph.app.config.formats import event_rules, topic_decoder
from driftgraph.app.config.settings import Settings
from driftgraph.stream.errors import ConfigError, DriftgraphError
from driftgraph.stream.formats.event_rules import Decoder, RowOrigin, Rows
from driftgraph.stream.kafka.batch_producer import BatchProducer, Record
from driftgraph.stream.time.clock import Clock

EVENTS_MAX: Final = 1_000
BODY_BYTES_MAX: Final = 1 << 20  # what a topic takes as one message by default
ERRORS_MAX: Final = 100  # that an answer tells of; it counts the others
BINARY: Final = ("arrow", "registry")
FILES_ONLY: Final = ("csv", "taobao", "parquet")


class NotPostedError(DriftgraphError):
    """A batch cannot be read at all. The message says why."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch: the records of its good events, how many are left out, and what is wrong with the others."""

    records: Sequence[Record]
    ignored: int  # of a behavior that the configuration leaves out
    errors: Sequence[dict[str, Any]]


class PostedEvents:
    """Takes batches of events, one after the other. One thread uses it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._decoder: Decoder | None = None
        self._producer = BatchProducer(settings.kafka.librdkafka(), settings.kafka.topic)

    def take(self, body: bytes, *, is_lines: bool) -> tuple[int, dict[str, Any]]:
        """Judge a batch and send it; the status and the answer.

        Returns 200 after the brokers have acknowledged every event, 400 with each bad event, in which case
        nothing was sent.

        Raises:
            NotPostedError: The body is no batch of events.
            NotDeliveredError: Kafka did not take all of it.
            ConfigError: Events of the configured format cannot be posted.
        """
        found = self.judged(parts_of(body, is_lines=is_lines))
        if found.errors:
            shown = list(found.errors[:ERRORS_MAX])
            said = f"{len(found.errors)} of the events are not good, so none was sent"
            return 400, {
                "error": said,
                "delivered": 0,
                "errors": shown,
                "more": len(found.errors) - len(shown),
            }
        self._producer.send(found.records)
        return 200, {"delivered": len(found.records), "ignored": found.ignored}

    def judged(self, payloads: Sequence[bytes]) -> Judged:
        """What the updater would make of each payload."""
        if self._decoder is None:
            self._decoder = self._made()
        now_ms, ignored = self._clock.now_ms(), 0
        records, errors = list[Record](), list[dict[str, Any]]()
        for position, payload in enumerate(payloads):
            origin = RowOrigin(f"event {position}", timestamp_ms=now_ms)
            decoded = self._decoder.decode(_alone(payload, origin))
            if decoded.rejected:
                first = decoded.rejected[0]
                errors.append({"position": position, "reason": first.reason, "detail": first.detail})
            elif len(decoded.batch):
                records.append(Record(decoded.batch.user.to_list()[0].encode(), payload, now_ms))
            elif decoded.erased:
                records.append(Record(decoded.erased[0].user.encode(), payload, now_ms))
            else:
                ignored += 1
        return Judged(records, ignored, errors)

    def close(self) -> None:
        """Close the connection to Kafka."""
        self._producer.close()

    def _made(self) -> Decoder:
        name = self._settings.events.format
        if name in (*BINARY, *FILES_ONLY):
            raise ConfigError(
                f"events.format = {name} is not JSON, so events cannot be posted: produce them to the topic"
            )
        return topic_decoder(self._settings, event_rules(self._settings, self._clock))


def parts_of(body: bytes, *, is_lines: bool) -> list[bytes]:
    """The events of a body, each as it was written: a JSON array, or JSON lines.

    Raises:
        NotPostedError: It is neither, or there are too many.
    """
    if is_lines:
        parts = [line for line in (one.strip() for one in body.split(b"\n")) if line]
    else:
        try:
            parts = [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
        except (msgspec.MsgspecError, RecursionError) as error:
            raise NotPostedError(f"the body should be a JSON array of events: {error}") from error
    if not parts:
        raise NotPostedError("the body has no event")
    if len(parts) > EVENTS_MAX:
        raise NotPostedError(
            f"{len(parts):,} events came together; {EVENTS_MAX:,} are the most, send several batches"
        )
    return parts


def _alone(payload: bytes, origin: RowOrigin) -> Rows:
    return Rows([payload], lambda _: origin)
