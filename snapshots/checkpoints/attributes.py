"""Attributes in a checkpoint of the updater: one file a side, written whole each time.

    Attributes.kept ──► Snapshot ──► [files_of] ──► item-attributes.npz ──► [restore] ──► the next start

The copies are made between two batches, so they are of the snapshot's cut; a few ms at 100,000 ids.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.stream.attributes.attributes import Attributes, Kept
from driftgraph.stream.attributes.fields import Field
from driftgraph.stream.events import Strings
from driftgraph.stream.ingest.erased_users import NEVER_MS, ErasedUsers
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.heterograph import KINDS

_FIELDS = "fields"  # beside the arrays: names and kinds, as JSON


def files_of(kept: Kept | None) -> Iterator[tuple[str, bytes]]:
    """The files of what a snapshot keeps."""
    for side, (fields, arrays) in (kept or {}).items():
        told = json.dumps([(field.name, field.kind) for field in fields]).encode()
        file = io.BytesIO()
        named: dict[str, Any] = {_FIELDS: np.frombuffer(told, np.uint8), **arrays}
        np.savez(file, **named)
        yield _name(side), file.getvalue()


def restore(
    found: Checkpoint, attributes: Attributes | None, erased: ErasedUsers, anew: Collection[int] = ()
) -> None:
    """Fill empty tables with those of a checkpoint, but for users who were erased since.

    The sides ``anew`` stay empty: their topic is read from its beginning. A side without a file, and fields
    of another name or kind, begin without values. So does a side that the configuration has in a file of its
    own, which is read at each start: who has left it is gone.

    Raises:
        IdTableFullError: There are more ids than there is room for now.
    """
    for side in range(len(KINDS)):
        if attributes is None or not attributes.fields.of(side) or _name(side) not in found.files:
            continue
        if attributes.fields.in_files[side] or side in anew:
            continue
        with np.load(io.BytesIO(found.read(_name(side))), allow_pickle=False) as loaded:
            arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = dict(loaded)
        then = _fields_in(arrays)
        ids = Strings(arrays["id_offsets"].astype(np.int64), arrays["id_bytes"].astype(np.uint8))
        gone = np.zeros(len(ids), np.bool_)
        if side == USER:
            reach_ms = erased.reach_ms(ids)
            gone = (reach_ms > NEVER_MS) & (arrays["newest_ms"].astype(np.int64) <= reach_ms)
        attributes.put_back(side, arrays, then, gone)


def changes(found: Checkpoint, attributes: Attributes | None) -> Iterator[str]:
    """Sentences about the fields that a start does not take over, or has no values of yet."""
    for side, kind_of_side in enumerate(KINDS):
        then = dict[str, str]()
        if _name(side) in found.files:
            with np.load(io.BytesIO(found.read(_name(side))), allow_pickle=False) as loaded:
                then = {field.name: field.kind for field in _fields_in(loaded)}
        if attributes is not None and attributes.fields.in_files[side]:
            continue
        now = () if attributes is None else attributes.fields.of(side)
        for field in now:
            name, was = f"attribute {kind_of_side}.{field.name}", then.pop(field.name, None)
            if was is None:
                yield f"{name} is new: it has what events say from now on"
            elif was != field.kind:
                yield f"{name} is of the kind {field.kind} now and was {was}: its values of before are gone"
        yield from (
            f"attribute {kind_of_side}.{name} is not configured now: its values are gone" for name in then
        )


def _fields_in(arrays: Mapping[str, Any]) -> list[Field]:
    return [Field(name, kind) for name, kind in json.loads(arrays[_FIELDS].tobytes())]


def _name(side: int) -> str:
    return f"{KINDS[side]}-attributes.npz"
