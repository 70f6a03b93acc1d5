"""Checkpoints: a folder of files that exists whole and verified, or not at all.

    trainer state ──► [write] ──► root/{number}/   ──► [latest] ──► the next start

Layout of ``root/{number}/``:
  1. the files, in the order given;
  2. ``manifest.json``: format, number, facts, and for each file its size and SHA-256.

A file that is unchanged in the next checkpoint is linked and not written again, so a checkpoint writes only
what is new; on a volume without hard links the file is copied. A file that the manifest does not name is
ignored. There is no lock: one process writes a root.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftgraph.stream import disk
from driftgraph.stream.errors import DriftgraphError

FORMAT = 1
MANIFEST = "manifest.json"
PARTIAL = ".partial"  # suffix of a folder that is being written
READ_BYTES = 1 << 20  # read at once when a file is verified
KEEP = 3  # checkpoints that are kept; the older ones serve if the newest is damaged


class CheckpointError(DriftgraphError):
    """A checkpoint cannot be written. The message says where and why."""


class _File(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    number: int
    facts: dict[str, str | int | float]
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    number: int
    facts: Mapping[str, str | int | float]
    files: Mapping[str, _File]
    copied_bytes: int = 0  # size of the files that this process copied, as the volume could not link them

    def read(self, name: str) -> bytes:
        """The bytes of one of ``files``."""
        return (self.folder / name).read_bytes()


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a checkpoint on disk was passed over."""

    path: Path
    reason: str


def write(
    root: Path,
    number: int,
    files: Iterable[tuple[str, bytes]],
    facts: Mapping[str, str | int | float],
    *,
    before: Checkpoint | None = None,
    unchanged: Collection[str] = (),
    keep: int = KEEP,
    also: Collection[int] = (),
) -> Checkpoint:
    """Write checkpoint ``number``, then remove all but the newest ``keep`` and those named by ``also``.

    This order makes a crash at any point leave the older checkpoints, and none that is half written:
      1. write each file into ``{number}.partial/`` and fsync it; link, or copy, the ``unchanged`` ones of
         ``before``;
      2. write ``manifest.json`` there, naming each with size and checksum, and fsync it;
      3. fsync that folder;
      4. rename it to ``{number}/``;
      5. fsync ``root``;
      6. remove the older ones.

    Raises:
        CheckpointError: If the disk refuses. The earlier checkpoints are untouched.
    """
    final, partial = root / str(number), root / f"{number}{PARTIAL}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)  # a file that a server still has open cannot be removed
        named, copied_bytes = {}, 0
        for name, data in files:
            disk.write_synced(partial / name, data)
            named[name] = _File(len(data), hashlib.sha256(data).hexdigest())
        for name in unchanged:
            assert before is not None, "only a checkpoint has files that can be linked"
            named[name] = before.files[name]
            if not disk.link_or_copy(before.folder / name, partial / name):
                copied_bytes += named[name].size
        manifest = _Manifest(FORMAT, number, dict(facts), named)
        disk.write_synced(partial / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        disk.sync_folder(partial)
        shutil.rmtree(final, ignore_errors=True)
        disk.replace(partial, final)
        disk.sync_folder(root)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write checkpoint {final}: {error.strerror or error}; "
            + disk.remedy(error, "set another data_dir")
        ) from error
    for old in numbers(root)[:-keep]:
        if old not in also:
            remove(root, old)
    return Checkpoint(final, number, manifest.facts, named, copied_bytes)


def remove(root: Path, number: int) -> None:
    """Remove a checkpoint. What a disk refuses to remove is left to the next call."""
    shutil.rmtree(root / str(number), ignore_errors=True)


def latest(
    root: Path, suits: Callable[[Checkpoint], bool] = lambda _: True, *, is_ours: bool = True
) -> tuple[Checkpoint | None, list[Damage]]:
    """The newest checkpoint that suits and verifies, and the damage of newer ones.

    Removes folders that a crash has left half written, unless another process may be writing them: then the
    root is not ours.
    """
    damaged: list[Damage] = []
    for leftover in root.glob(f"*{PARTIAL}") if is_ours else ():
        shutil.rmtree(leftover, ignore_errors=True)
    for number in reversed(numbers(root)):
        try:
            found = opened(root / str(number))
            if suits(found):
                _verify(found)
                return found, damaged
        except (OSError, ValueError) as error:
            damaged.append(Damage(root / str(number), str(error)))
    return None, damaged


def opened(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, by its manifest. Its files are not verified.

    Raises:
        OSError: If there is no manifest.
        ValueError: If the manifest is not that of this folder.
    """
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Manifest)
    if manifest.format != FORMAT or str(manifest.number) != folder.name:
        raise ValueError(f"{folder / MANIFEST} is checkpoint {manifest.number} of format {manifest.format}")
    return Checkpoint(folder, manifest.number, manifest.facts, manifest.files)


def _verify(found: Checkpoint) -> None:
    for name, expected in found.files.items():
        path, size, digest = found.folder / name, 0, hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(READ_BYTES):
                size += len(data)
                digest.update(data)
        if size != expected.size:
            raise ValueError(f"{path} ends at byte {size}, expected {expected.size}")
        if digest.hexdigest() != expected.sha256:
            raise ValueError(f"{path} does not have the checksum that its manifest names")


def numbers(root: Path) -> list[int]:
    """The numbers of all checkpoints, whole or damaged, oldest first."""
    if not root.is_dir():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal())
