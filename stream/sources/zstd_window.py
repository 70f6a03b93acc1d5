"""The window of a zstd frame: how far back it refers, and so how much memory a reader needs.

the first bytes of a file ──► [window_bytes] ──► the sentence about a window that is too long

``zstd --long=N`` makes windows of 2^N bytes. pyarrow's decompressor takes 2^27 at most and has no setting for
that limit. Format: RFC 8878, section 3.1.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

MAGIC: Final = b"\x28\xb5\x2f\xfd"
LONGEST: Final = 27  # log2 of the longest window that is read
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after 0x50 to 0x5f: a frame without data, as pzstd writes it in front
_ID_BYTES: Final = (0, 1, 2, 4)


def is_skippable(head: bytes) -> bool:
    """Whether a file begins with a frame that a decompressor passes over."""
    return len(head) >= 4 and 0x50 <= head[0] <= 0x5F and head[1:4] == _SKIPPABLE


def window_bytes(head: bytes) -> int | None:
    """The window of the frame that begins here; None if there is none, or ``head`` is too short to tell."""
    if len(head) < 18 or not head.startswith(MAGIC):
        return None
    flags = head[4]
    if not flags & 0x20:
        exponent, mantissa = head[5] >> 3, head[5] & 7
        base = 1 << (10 + exponent)
        return base + base // 8 * mantissa
    at = 5 + _ID_BYTES[flags & 3]  # one segment: the window is the content
    size = (1, 2, 4, 8)[flags >> 6]
    return int.from_bytes(head[at : at + size], "little") + (256 if size == 2 else 0)


def needs_dictionary(head: bytes) -> bool:
    """Whether the frame that begins here names a dictionary it was compressed with."""
    return len(head) > 4 and head.startswith(MAGIC) and bool(head[4] & 3)


def is_too_long(error: str) -> bool:
    """Whether this is the error of the decompressor about a window that is too long."""
    return "requires too much memory" in error


def sentence(path: Path, window: int | None) -> str:
    """What is wrong with the file, and what to do."""
    has = "a window" if window is None or window <= 1 << LONGEST else f"a window of {window >> 20:,} MiB"
    return (
        f"cannot read {path}: its zstd data has {has} (zstd --long), and driftgraph reads windows up to "
        f"{1 << (LONGEST - 20)} MiB; compress it again with --long={LONGEST} or less, or decompress it "
        f"first: zstd -d --long=31 {path}"
    )
