"""The first lines of a text file: finds the header, and refuses a document that has no event a line.

first block ──► [head_of] ──► Head: header line, separator, lines in front of the events ──► FileSource
            └─► [check_json_lines]: a document over several lines is refused with what to do
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from driftgraph.stream.errors import SourceError

_SEPARATOR_LINE: Final = re.compile(rb'\s*"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)  # Excel's own


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a CSV that says something, without its line break."""

    line: bytes
    skipped: int  # lines in front of it: blank ones, and Excel's ``sep=;``
    separator: str | None  # that such a line names


def head_of(block: bytes, path: Path) -> Head:
    """Look at the first block of a CSV.

    Raises:
        SourceError: Its lines end with CR alone.
    """
    separator: str | None = None
    line = b""
    for skipped, line in enumerate(block.split(b"\n")):
        found = _SEPARATOR_LINE.fullmatch(line)
        if found is not None and separator is None:
            separator = found[1].decode()
        elif line.strip():
            body = line.removesuffix(b"\r")
            if body.count(b"\r") > 1 or (b"\r" in body and b"\n" not in block):
                raise SourceError(_of_old_macs(path))
            return Head(line, skipped, separator)
    return Head(line, 0, separator)


def check_json_lines(block: bytes, path: Path) -> None:
    """Refuse one JSON document over several lines; a bad line among others is its own affair.

    Raises:
        SourceError: Says what to do.
    """
    lines = [line.strip() for line in block.split(b"\n", 64) if line.strip()][:2]
    if not lines or not lines[0].startswith((b"{", b"[")) or any(map(_is_json, lines)):
        return
    if b"\r" in lines[0] and _is_json(lines[0].partition(b"\r")[0]):
        raise SourceError(_of_old_macs(path))
    # the last line of a file without a line break is a block of its own
    is_array = lines[0].startswith(b"[") and lines[0].endswith((b",", b"["))
    if len(lines) == 2 or is_array:
        each = ".[]" if lines[0].startswith(b"[") else "."
        raise SourceError(
            f"cannot read {path}: it is one JSON document over several lines, and each line should be an "
            f"event; write it so: jq -c '{each}' {path.name} > events.jsonl"
        )


def _of_old_macs(path: Path) -> str:
    return (
        f"cannot read {path}: its lines end with CR alone, as on old Macs; "
        f"convert it: tr '\\r' '\\n' < {path.name} > converted{path.suffix}"
    )


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
