"""Where events go that could not be applied: kept with their reason, so that they can be tried again.

Decoded.rejected ──► [DeadLetters.put] ──► flush ──► only then the position may pass them
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from driftgraph.app.errors import DriftgraphError
from driftgraph.stream.decode import Reason
from driftgraph.stream.events import PAYLOAD_BYTES_KEPT, Rejected

FILE_BYTES_MAX: Final = 64 << 20  # of one file: some 100,000 letters
FILES_MAX: Final = 16  # the oldest file goes first: 1 GiB of dead letters at most
MEMORY_LETTERS_MAX: Final = 10_000
FLUSH_TIMEOUT_S: Final = 30.0  # Kafka's own delivery timeout is longer; ingestion must hear of it before
_NAME: Final = re.compile(r"dead-letters-(\d{6,})\.jsonl")
_ORIGIN: Final = re.compile(r"(.+)\[(\d+)\]@(\d+)", re.DOTALL)
_TRUNCATED: Final = "driftgraph.payload.bytes"  # header: how long the payload was before it was cut


class DeadLetterError(DriftgraphError):
    """When dead letters cannot be kept, so that the events behind them must not pass."""


class DeadLetters(Protocol):
    """A place for rejected events.

    Always true: after ``flush`` returns, all letters put before it are safe; ``counts`` has all of them.
    """

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put so far, by reason."""
        ...

    def put(self, rejected: Rejected) -> None:
        """Take one letter; it is safe after the next ``flush``."""
        ...

    def flush(self) -> None:
        """Make all letters safe.

        Raises:
            DeadLetterError: If they cannot be. Nothing is lost then, as the position has not passed them.
        """
        ...

    def close(self) -> None:
        """Flush, and let go of files and connections. May be called twice."""
        ...


class MemoryDeadLetters:
    """Keeps the newest ``MEMORY_LETTERS_MAX`` letters, each with the first 64 KiB of its payload."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.letters: deque[Rejected] = deque(maxlen=MEMORY_LETTERS_MAX)

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put so far, by reason; also those that were dropped since."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Keep one letter; the oldest goes when there are too many."""
        self._counts[rejected.reason] += 1
        self.letters.append(replace(rejected, payload=rejected.payload[:PAYLOAD_BYTES_KEPT]))

    def flush(self) -> None:
        """Nothing to do: memory is as safe as it will be."""

    def close(self) -> None:
        """Nothing to let go of."""


class _Letter(msgspec.Struct):
    """One line of a dead letter file. Bytes are base64; ``payload_bytes`` is the length before any cut."""

    reason: str
    detail: str
    origin: str
    payload: str
    payload_bytes: int
    key: str | None
    headers: list[tuple[str, str]]
    timestamp_ms: int | None


class FileDeadLetters:
    """Letters as JSON lines in ``folder``, in files that are numbered upwards.

    Always true: at most ``files_max`` files of about ``file_bytes_max``, the oldest is removed first;
    what was flushed is on the disk; a line that a crash cut off is removed at the next start.
    """

    def __init__(
        self, folder: Path, *, file_bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX
    ) -> None:
        self._folder = folder
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._counts: Counter[str] = Counter()
        self._encoder = msgspec.json.Encoder()
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            files = _files_of(folder)
            self._number = files[-1][0] if files else 1
            self._file: BinaryIO | None = self._opened()

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put by this process, by reason."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Write one letter, into the next file if this one is full."""
        self._counts[rejected.reason] += 1
        line = self._encoder.encode(_letter_of(rejected)) + b"\n"
        with _told(self._folder):
            if self._file is None:
                self._file = self._opened()
            if self._file.tell() and self._file.tell() + len(line) > self._file_bytes_max:
                self._rotate(self._file)
            self._file.write(line)

    def flush(self) -> None:
        """Bring all letters to the disk: one fsync."""
        if self._file is not None:
            with _told(self._folder):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            file = self._file
            try:
                self.flush()
            finally:
                self._file = None
                with suppress(OSError):  # told by flush already
                    file.close()

    def _rotate(self, full: BinaryIO) -> None:
        full.flush()
        os.fsync(full.fileno())
        full.close()
        self._number += 1
        self._file = self._opened()
        for _, path in _files_of(self._folder)[: -self._files_max]:
            path.unlink()

    def _opened(self) -> BinaryIO:
        path = self._folder / f"dead-letters-{self._number:06}.jsonl"
        file = path.open("ab")
        whole = _whole_bytes(path)
        if whole < file.tell():
            file.truncate(whole)  # the rest of a line that a crash cut off
            file.seek(0, os.SEEK_END)
        return file


def read_letters(folder: Path) -> Iterator[Rejected]:
    """The letters in a folder, oldest first; a last line that is cut off is left out."""
    for _, path in _files_of(folder):
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    letter = msgspec.json.decode(line, type=_Letter)
                    yield Rejected(
                        reason=letter.reason,
                        detail=letter.detail,
                        payload=b64decode(letter.payload),
                        origin=letter.origin,
                        key=None if letter.key is None else b64decode(letter.key),
                        headers=tuple((name, b64decode(value)) for name, value in letter.headers),
                        timestamp_ms=letter.timestamp_ms,
                    )


def _letter_of(rejected: Rejected) -> _Letter:
    return _Letter(
        reason=rejected.reason,
        detail=rejected.detail,
        origin=rejected.origin,
        payload=_text(rejected.payload[:PAYLOAD_BYTES_KEPT]),
        payload_bytes=len(rejected.payload),
        key=None if rejected.key is None else _text(rejected.key),
        headers=[(name, _text(value)) for name, value in rejected.headers],
        timestamp_ms=rejected.timestamp_ms,
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _files_of(folder: Path) -> list[tuple[int, Path]]:
    """The letter files by number, ascending."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def _whole_bytes(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - PAYLOAD_BYTES_KEPT)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


class _told:  # noqa: N801  used like a function: with _told(folder)
    """Turns an OSError into the sentence that a person needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise DeadLetterError(
                f"dead letters cannot be written to {self._folder}: {error.strerror or error}; "
                "free space or set data_dir to another place"
            ) from error


class KafkaDeadLetters:
    """Letters in the topic ``<topic>.dlq`` of where they came from.

    Always true: value, key, headers and timestamp are those of the event, byte by byte; headers in the form
    of Kafka Connect and ``driftgraph.reason`` come after its own. Only an event that the topic refuses as
    too large is cut, and says so in a header.
    """

    def __init__(
        self,
        client: Mapping[str, str | int | float | bool],
        *,
        default_topic: str,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        self._counts: Counter[str] = Counter()
        self._default_topic = default_topic  # of letters whose origin is no Kafka record
        self._timeout_s = flush_timeout_s
        self._failure: KafkaError | None = None
        self._too_large: list[Rejected] = []
        properties: dict[str, Any] = {**client, "acks": "all", "enable.idempotence": True}
        properties.setdefault("message.max.bytes", 64 << 20)  # the topic's own limit decides
        try:
            self._producer: Producer = Producer(properties)
        except (KafkaException, ValueError, TypeError) as error:
            raise DeadLetterError(f"Kafka refuses the configuration for dead letters: {error}") from error

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put by this process, by reason."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Hand one letter to the producer; waits only if its queue is full."""
        self._counts[rejected.reason] += 1
        self._produce(rejected, cut=False)

    def flush(self) -> None:
        """Wait until the brokers have acknowledged all letters."""
        waiting = self._producer.flush(self._timeout_s)
        while self._too_large and not waiting:
            again, self._too_large = self._too_large, []
            for rejected in again:
                self._produce(rejected, cut=True)
            waiting = self._producer.flush(self._timeout_s)
        failure, self._failure = self._failure, None
        if waiting or failure is not None:
            why = (
                failure.str()
                if failure is not None
                else f"{waiting} not acknowledged in {self._timeout_s:g} s"
            )
            raise DeadLetterError(
                f"dead letters cannot be sent to {self._default_topic}.dlq: {why}; "
                "check that the topic exists and may be written"
            )

    def close(self) -> None:
        """Flush; the producer closes with the process."""
        self.flush()

    def _produce(self, rejected: Rejected, *, cut: bool) -> None:
        topic = _origin_parts(rejected)[0] or self._default_topic
        headers = [*rejected.headers, *connect_headers(rejected)]
        value: bytes | None = rejected.payload
        if rejected.reason == Reason.TOMBSTONE:
            value = None
        elif cut:
            value = rejected.payload[:PAYLOAD_BYTES_KEPT]
            headers.append((_TRUNCATED, b"%d" % len(rejected.payload)))

        def acknowledged(error: KafkaError | None, _: Message) -> None:
            if error is None:
                return
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not cut:
                self._too_large.append(rejected)
            else:
                self._failure = error

        arguments: dict[str, Any] = {"value": value, "key": rejected.key, "headers": headers}
        if rejected.timestamp_ms is not None:
            arguments["timestamp"] = rejected.timestamp_ms
        try:
            self._producer.poll(0)
            self._producer.produce(f"{topic}.dlq", **arguments, on_delivery=acknowledged)
        except BufferError:
            self.flush()  # makes room, or says why there is none
            self._producer.produce(f"{topic}.dlq", **arguments, on_delivery=acknowledged)
        except KafkaException as error:
            acknowledged(error.args[0], None)  # type: ignore[arg-type]  # refused before it was a message


def _origin_parts(rejected: Rejected) -> tuple[str, str, str]:
    """Topic, partition and offset of a letter from Kafka; empty texts for any other."""
    match = _ORIGIN.fullmatch(rejected.origin)
    return (match[1], match[2], match[3]) if match else ("", "", "")


def connect_headers(rejected: Rejected) -> list[tuple[str, bytes]]:
    """What Kafka Connect would say of the failure, and our reason code."""
    topic, partition, offset = _origin_parts(rejected)
    said = {
        "__connect.errors.topic": topic,
        "__connect.errors.partition": partition,
        "__connect.errors.offset": offset,
        "__connect.errors.connector.name": "driftgraph",
        "__connect.errors.task.id": "0",
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.class.name": "driftgraph.stream.decode",
        "__connect.errors.exception.class.name": rejected.reason,
        "__connect.errors.exception.message": rejected.detail,
        "driftgraph.reason": rejected.reason,
        "driftgraph.origin": rejected.origin,
    }
    return [(name, value.encode()) for name, value in said.items()]
