"""The protocol of Redis in the little that a reader needs: commands to bytes, bytes to answers.

    drivers.py ──commands──► [pack] ──► socket ──► [Answers] ──► drivers.py

redis-py takes about 40 µs of Python for a command and its answer, and 5 µs for each further one of a
pipeline, where Redis and the kernel take 15 µs and 1 µs. So a reader writes to and reads from the socket of
redis-py's connection itself. Whatever is not plain data, an error of Redis above all, is left to redis-py:
the driver sends the same commands again by its means.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

BULK, ARRAY, NUMBER, NOTHING, FLOAT = b"$*:_,"
READ_BYTES_MIN: Final = 65_536


class UnusualError(Exception):
    """An answer that is left to redis-py."""


def pack(commands: Sequence[tuple[Any, ...]]) -> bytes:
    """The commands as Redis reads them."""
    packed = []
    for name, key, *rest in commands:
        begin, end = _around(name, *rest)
        one = key.encode()
        packed.append(b"%b$%d\r\n%b\r\n%b" % (begin, len(one), one, end))
    return b"".join(packed)


@lru_cache(maxsize=64)
def _around(name: str, *rest: Any) -> tuple[bytes, bytes]:
    """What stands before and behind the key of a command."""
    return b"*%d\r\n%b" % (len(rest) + 2, _bulk(name)), b"".join([_bulk(one) for one in rest])


def _bulk(one: str | bytes | int) -> bytes:
    data = one if isinstance(one, bytes) else str(one).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Answers:
    """Collects the answers to ``count`` commands from what the socket gives."""

    __slots__ = ("_at", "_count", "_data", "found")

    def __init__(self, count: int) -> None:
        self.found: list[Any] = []
        self._count, self._data, self._at = count, b"", 0

    @property
    def read_bytes(self) -> int:
        """How much to read next: more each time, as a long answer is looked at again with each part."""
        return max(READ_BYTES_MIN, len(self._data))

    def feed(self, data: bytes) -> bool:
        """Take what the socket gave; whether all answers are there.

        Raises:
            UnusualError: If there is something else than data.
        """
        self._data = data = self._data + data if self._data else data
        self._at = _take(data, self._at, self._count, self.found)
        if len(self.found) < self._count:
            return False
        if self._at != len(data):
            raise UnusualError
        return True


def _take(data: bytes, at: int, count: int, found: list[Any]) -> int:
    """Append values from ``at`` on until there are ``count``; returns where what is not taken begins."""
    while len(found) < count:
        line = data.find(b"\r\n", at)
        if line < 0:
            break
        kind, after = data[at], line + 2
        if kind == BULK:
            size = int(data[at + 1 : line])
            if size < 0:
                found.append(None)
            else:
                end = after + size
                if len(data) < end + 2:
                    break
                found.append(data[after:end])
                after = end + 2
        elif kind == ARRAY:
            values: list[Any] = []
            size = int(data[at + 1 : line])
            after = _take(data, after, size, values)
            if len(values) < size:
                break
            found.append(values)
        elif kind == NUMBER:
            found.append(int(data[at + 1 : line]))
        elif kind == NOTHING:
            found.append(None)
        elif kind == FLOAT:
            found.append(float(data[at + 1 : line]))
        else:
            raise UnusualError
        at = after
    return at
