"""Dead letters as JSON lines in files of a folder: the place for them that needs only a disk.

    put ──► memory ──► [FileDeadLetters.flush] ──► dead-letters-000007.jsonl     one letter a line
                       [FileLetterBox]         ──► dead-letters-000007.done      the numbers of done lines

A letter's id is its file and its line, so a line never moves: a purge leaves an empty line. Several processes
may write and purge at once: each holds the folder's lock meanwhile, and none keeps a file open.
"""

from __future__ import annotations

import logging
import os
import re
from base64 import b64decode, b64encode
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from driftgraph.stream import disk
from driftgraph.stream.dead_letters.letters import DeadLetterError, Letter, parts_of_id
from driftgraph.stream.events import Rejected
from driftgraph.stream.time.clock import Clock, SystemClock

FILES_MAX: Final = 16  # then the oldest file is removed
FILE_BYTES_MAX: Final = 64 << 20  # of one file: some 100,000 letters; 1 GiB together
PAYLOAD_BYTES_MAX: Final = 1 << 20  # of one letter: the limit that Kafka sets to a message by default
NEWEST_FILES: Final = 2  # that ``newest`` reads: 128 MiB at most
WRITE_BYTES: Final = 1 << 20  # letters that wait for the next flush; more are written at once
_NAME: Final = re.compile(r"dead-letters-(\d{6,})\.jsonl")

log = logging.getLogger(__name__)


class _Line(msgspec.Struct):
    """One line of a file. Bytes are base64; ``payload_bytes`` is the length before the payload was cut."""

    reason: str
    detail: str
    origin: str
    payload: str
    payload_bytes: int
    key: str | None
    headers: list[tuple[str, str | None]]
    timestamp_ms: int | None
    kept_ms: int = 0


class FileDeadLetters:
    """Keeps letters in ``folder``, in files that are numbered upwards.

    Always true: at most ``files_max`` files of about ``file_bytes_max``, the oldest is removed first;
    flushed letters are on the disk; a line that a crash or a full disk cut off is removed before the next
    line is written. Letters that could not be written wait in memory.
    """

    def __init__(
        self,
        folder: Path,
        *,
        file_bytes_max: int = FILE_BYTES_MAX,
        files_max: int = FILES_MAX,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._clock = clock or SystemClock()
        self._counts: Counter[str] = Counter()
        self._encoder = msgspec.json.Encoder()
        self._lines: list[bytes] = []  # letters that are not written yet
        self._line_bytes = 0
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def counts(self) -> Mapping[str, int]:
        """Letters put by this process, by reason."""
        return dict(self._counts)

    def put(self, rejected: Rejected) -> None:
        """Take one letter. Letters are written when they have a megabyte."""
        self._counts[rejected.reason] += 1
        line = self._encoder.encode(_line_of(rejected, self._clock.now_ms())) + b"\n"
        self._lines.append(line)
        self._line_bytes += len(line)
        if self._line_bytes >= WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write all letters to the disk, with one fsync for each file."""
        if not self._lines:
            return
        with _told(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have cleared it away
        with _told(self._folder), disk.locked_folder(self._folder):
            files = _files_of(self._folder)
            number = files[-1][0] if files else 1
            while self._lines:
                count = self._append(_path(self._folder, number))
                self._line_bytes -= sum(map(len, self._lines[:count]))
                del self._lines[:count]
                if self._lines:
                    number += 1
        self._drop_oldest()

    def close(self) -> None:
        """Flush."""
        self.flush()

    def _append(self, path: Path) -> int:
        """Write as many of the lines as fit into a file; at least one if it is empty."""
        is_new = not path.exists()
        with path.open(
            "ab", buffering=0
        ) as file:  # without a buffer, which would be written at the close after a full disk has refused it
            size = _mended(file)
            count, end = 0, size
            while count < len(self._lines):
                end += len(self._lines[count])
                if end > self._file_bytes_max and (size or count):
                    break
                count += 1
            try:
                left = memoryview(b"".join(self._lines[:count]))
                while left:
                    left = left[file.write(left) :]
                disk.sync(file.fileno())
            except OSError:
                with suppress(OSError):  # the lines are still in memory and are written again
                    os.ftruncate(file.fileno(), size)
                raise
        if is_new:
            disk.sync_folder(self._folder)
        return count

    def _drop_oldest(self) -> None:
        with _told(self._folder), disk.locked_folder(self._folder):
            for number, path in _files_of(self._folder)[: -self._files_max]:
                done = _done_lines(self._folder, number)
                with path.open("rb") as lines:
                    lost = sum(line != b"\n" and at not in done for at, line in enumerate(lines, start=1))
                path.unlink()
                _done_path(self._folder, number).unlink(missing_ok=True)
                if lost:
                    log.warning(
                        "dead letters are full: the %d oldest were removed from %s", lost, self._folder
                    )


class FileLetterBox:
    """The letters of a folder, for reading and marking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """The folder."""
        return str(self._folder)

    def letters(self) -> Iterator[Letter]:
        """All current letters, also done ones. A line that cannot be read is logged and left out."""
        if not self._folder.is_dir():
            return
        with _told(self._folder, "read from"):
            sizes: dict[int, int] = {}
            for number, path in _files_of(self._folder):
                # an updater may remove the oldest file meanwhile, here and below
                with suppress(FileNotFoundError):
                    sizes[number] = path.stat().st_size
            for number, size in sizes.items():
                done = _done_lines(self._folder, number)
                with suppress(FileNotFoundError), _path(self._folder, number).open("rb") as lines:
                    yield from _read(lines, number, size, done)

    def newest(self, limit: int) -> list[Letter]:
        """Open letters of the newest ``NEWEST_FILES`` files."""
        if not self._folder.is_dir():
            return []
        found: list[Letter] = []
        with _told(self._folder, "read from"):
            for number, path in reversed(_files_of(self._folder)[-NEWEST_FILES:]):
                done = _done_lines(self._folder, number)
                with suppress(FileNotFoundError), path.open("rb") as lines:
                    letters = _read(lines, number, path.stat().st_size, done)
                    last = deque((one for one in letters if not one.done), maxlen=limit - len(found))
                    found += reversed(last)
        return found

    def mark_done(self, ids: Collection[str]) -> None:
        """Append the numbers of the lines to the ``.done`` files, with fsync."""
        by_file = _by_file(ids)
        if not by_file:
            return
        with _told(self._folder), disk.locked_folder(self._folder):
            for number, lines in by_file.items():
                if not _path(self._folder, number).exists():
                    continue  # the file was removed since
                new = sorted(lines - _done_lines(self._folder, number))
                with _done_path(self._folder, number).open("ab") as file:
                    _mended(file)
                    file.write(b"".join(b"%d\n" % line for line in new))
                    file.flush()
                    disk.sync(file.fileno())
            disk.sync_folder(self._folder)

    def purge(self, ids: Collection[str]) -> None:
        """Mark letters as done, then overwrite their lines with empty ones. A file of empty lines is removed.

        The newest file always stays, so that the number of a file is never used again.
        """
        self.mark_done(ids)
        with _told(self._folder):
            for number, lines in _by_file(ids).items():
                with disk.locked_folder(self._folder):
                    self._blank(number, lines)

    def close(self) -> None:
        """Do nothing: no file is open between two calls."""

    def _blank(self, number: int, gone: set[int]) -> None:
        path = _path(self._folder, number)
        if not path.exists():
            return
        with path.open("rb") as lines:
            left = any(line != b"\n" and at not in gone for at, line in enumerate(lines, start=1))
        if left or number == _files_of(self._folder)[-1][0]:
            with disk.written_whole(path) as new, path.open("rb") as old:
                for at, line in enumerate(old, start=1):
                    new.write(b"\n" if at in gone else line)
        else:
            path.unlink()  # before its .done file, so that no letter is open again after a crash
            _done_path(self._folder, number).unlink(missing_ok=True)
            disk.sync_folder(self._folder)


def _read(lines: BinaryIO, number: int, size: int, done: set[int]) -> Iterator[Letter]:
    """The letters in the first ``size`` bytes of a file, without a last line that is cut off."""
    at = 0
    for line_number, line in enumerate(lines, start=1):
        at += len(line)
        if at > size or not line.endswith(b"\n"):
            return
        if line == b"\n":
            continue
        try:
            read = msgspec.json.decode(line, type=_Line)
            letter = _letter_of(read, f"{number}-{line_number}", line_number in done)
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("dead letter %d-%d cannot be read (%s)", number, line_number, error)
            continue
        yield letter


def _letter_of(line: _Line, letter_id: str, done: bool) -> Letter:
    rejected = Rejected(
        reason=line.reason,
        detail=line.detail,
        payload=b64decode(line.payload),
        origin=line.origin,
        key=None if line.key is None else b64decode(line.key),
        headers=tuple((n, None if value is None else b64decode(value)) for n, value in line.headers),
        timestamp_ms=line.timestamp_ms,
    )
    return Letter(letter_id, rejected, line.kept_ms, line.payload_bytes, done)


def _line_of(rejected: Rejected, now_ms: int) -> _Line:
    return _Line(
        reason=rejected.reason,
        detail=rejected.detail,
        origin=rejected.origin,
        payload=_text(rejected.payload[:PAYLOAD_BYTES_MAX]),
        payload_bytes=len(rejected.payload),
        key=None if rejected.key is None else _text(rejected.key),
        headers=[(name, None if value is None else _text(value)) for name, value in rejected.headers],
        timestamp_ms=rejected.timestamp_ms,
        kept_ms=now_ms,
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _path(folder: Path, number: int) -> Path:
    return folder / f"dead-letters-{number:06}.jsonl"


def _done_path(folder: Path, number: int) -> Path:
    return _path(folder, number).with_suffix(".done")


def _files_of(folder: Path) -> list[tuple[int, Path]]:
    """The letter files by number, ascending."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def _by_file(ids: Collection[str]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for number, line in map(parts_of_id, ids):
        found[number].add(line)
    return dict(found)


def _done_lines(folder: Path, number: int) -> set[int]:
    """The numbers of the lines that are done, without a number that a crash cut off."""
    with suppress(FileNotFoundError):
        data = _done_path(folder, number).read_bytes()
        return {int(text) for text in data[: data.rfind(b"\n") + 1].split()}
    return set()


def _mended(file: BinaryIO) -> int:
    """Remove a last line that has no end from a file open for appending; return the size of the file."""
    end = size = file.seek(0, os.SEEK_END)
    with Path(file.name).open("rb") as before:
        while end > 0:
            start = max(0, end - WRITE_BYTES)
            before.seek(start)
            at = before.read(end - start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
    if end < size:
        file.truncate(end)
        file.seek(0, os.SEEK_END)
    return end


@contextmanager
def _told(folder: Path, act: str = "written to") -> Iterator[None]:
    """Turns an OSError into a ``DeadLetterError`` that says what to do."""
    try:
        yield
    except OSError as error:
        raise DeadLetterError(
            f"dead letters cannot be {act} {folder}: {error.strerror or error}; "
            "free space or set data_dir to another place"
        ) from error
