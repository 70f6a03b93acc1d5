"""The files that a path names: one file, or a folder of part files as Spark, Hive and Impala write it.

events/day=2026-07-02/part-00000.parquet ──► [part_files] ──► Part(path, name, {"day": "2026-07-02"})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from driftgraph.stream.errors import SourceError

_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
# tables that keep a list of their files: a part file may hold rows that were deleted
_TABLES: Final = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "metadata": "an Iceberg table"}


@dataclass(frozen=True, slots=True)
class Part:
    """One file. ``values`` are in the names of its folders and hold for each of its rows."""

    path: Path
    name: str  # as messages about a row give it
    values: Mapping[str, str | None] = field(default_factory=dict)


def part_files(path: Path) -> tuple[Part, ...]:
    """The file itself; of a folder all files in it and in its folders, by name, without hidden files.

    The name of a hidden file begins with ``_`` or ``.``: ``_SUCCESS``, ``_metadata``, ``.part-00000.crc``.

    Raises:
        SourceError: If a folder has no files, or is a table whose files may hold deleted rows.
    """
    if not path.is_dir():
        return (Part(path, path.name),)
    for marker, what in _TABLES.items():
        if (path / marker).is_dir() and (marker != "metadata" or any(path.glob("metadata/*.metadata.json"))):
            raise SourceError(
                f"cannot read {path}: it is {what}, whose files may hold rows that were deleted; "
                "export its rows as plain files"
            )
    found = sorted(one for one in path.rglob("*") if one.is_file() and not _is_hidden(one.relative_to(path)))
    if not found:
        raise SourceError(
            f"cannot read {path}: the folder has no files; name a file, or a folder of part files"
        )
    return tuple(_part(one, one.relative_to(path)) for one in found)


def _is_hidden(within: Path) -> bool:
    return any(name.startswith(("_", ".")) and "=" not in name for name in within.parts)


def _part(path: Path, within: Path) -> Part:
    values: dict[str, str | None] = {}
    for folder in within.parts[:-1]:
        name, sign, value = folder.partition("=")
        if sign:
            values[unquote(name)] = None if value == _NO_VALUE else unquote(value)
    return Part(path, within.as_posix(), values)
