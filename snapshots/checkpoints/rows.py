"""The rows of ids in a checkpoint of the updater: one file, written whole each time.

    Heterograph.kept_rows ──► Snapshot ──► [file_of] ──► rows.npz ──► [read] ──► Restore

The rows of ids with events stand with the events. This file has the others, which are few: ids whose last
event left within two steps, and ids of a catalog that have no event.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.stream.events import Strings
from driftgraph.stream.ingest.erased_users import NEVER_MS, ErasedUsers
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.heterograph import KINDS
from driftgraph.stream.window.kept_rows import KeptRows, KeptSide

NAME = "rows.npz"


def file_of(kept: KeptRows) -> bytes:
    """The bytes of the file."""
    arrays: dict[str, Any] = {"step": np.array([kept.step_ms, kept.step], np.int64)}
    for kind, own in zip(KINDS, kept.sides, strict=True):
        arrays |= {
            f"{kind}_count": np.array([own.row_count], np.int64),
            f"{kind}_rows": own.rows,
            f"{kind}_waits": own.waits,
            f"{kind}_id_offsets": own.ids.offsets - own.ids.offsets[0],
            f"{kind}_id_bytes": own.ids.data[own.ids.offsets[0] : own.ids.offsets[-1]],
        }
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def read(found: Checkpoint, erased: ErasedUsers) -> KeptRows | None:
    """What a checkpoint has of them, but for users who were erased since; None: it is an older one."""
    if NAME not in found.files:
        return None
    with np.load(io.BytesIO(found.read(NAME)), allow_pickle=False) as loaded:
        arrays = dict(loaded)
    user, item = (_side(arrays, kind) for kind in KINDS)
    left = np.flatnonzero(erased.reach_ms(user.ids) <= NEVER_MS)
    user = KeptSide(user.row_count, user.rows[left], user.waits[left], user.ids.take(left))
    assert USER == 0
    step_ms, step = arrays["step"].tolist()
    return KeptRows(step_ms, step, (user, item))


def _side(arrays: dict[str, Any], kind: str) -> KeptSide:
    ids = Strings(arrays[f"{kind}_id_offsets"], arrays[f"{kind}_id_bytes"])
    return KeptSide(int(arrays[f"{kind}_count"][0]), arrays[f"{kind}_rows"], arrays[f"{kind}_waits"], ids)
