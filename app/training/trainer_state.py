"""The trainer's state as the files of a checkpoint, by external id.

    Trainer ──► [save] ──► checkpoint ──► [restore] ──► Trainer of the next process

A new process may give rows anew, so what the trainer keeps by row is written with the ids, and laid out for
the rows of the graph that it wakes up beside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import numpy as np
import torch
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch import Tensor

from driftgraph.app.console.drift_text import MOVED_USER
from driftgraph.model.fitting.saved_state import names_of
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.checkpoints.checkpoint import Checkpoint
from driftgraph.stream.arrays import I64
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import KINDS, HeterographView, Moment
from driftgraph.stream.window.writer import Cut, WindowView

NO_VERSION = 0xFFFF_FFFF  # of a row that had no state: never a real one, so the trainer starts it afresh
TABLE = "table."
PUBLISHED = ("serving", "first")

EVALUATED = (
    "metrics",
    "evaluated_events",
    "shares",
    "drift",
    "staleness",
    "heads",
)  # and moved users; facts about the evaluation before the serving model's fit

Facts = Mapping[str, str | int | float]


def save(
    trainer: Trainer, graph: HeterographView, moment: Moment, since: Cut, seen: Cut
) -> tuple[dict[str, bytes], dict[str, str | int | float]]:
    """The files of a checkpoint, with the names of ``moment``, and its facts.

    The trainer is trained up to ``since``, and events up to ``seen`` make no further fit due.
    """
    trainer.table.adopt(moment.versions[ITEM])  # a row is saved with a name, so it must be that owner's state
    tensors, meta = trainer.state_dict()
    for part in PUBLISHED:
        for side in (USER, ITEM):
            tensors |= _owned(tensors, part, side, moment)
    names = {
        KINDS[side]: graph.names(side, np.arange(len(moment.versions[side]), dtype=np.uint32), moment)
        for side in (USER, ITEM)
    }
    files = {
        "trainer.safetensors": to_bytes(tensors),
        "trainer.json": msgspec.json.encode(meta),
        "names.json": msgspec.json.encode(names),
    }
    facts: dict[str, str | int | float] = {
        "watermark_ms": since.watermark_ms,
        "model_version": trainer.model_version,
    }
    if graph.window.history:
        facts |= {"life": graph.window.history[-1].id, "next": " ".join(map(str, since.next))}
        facts |= {"seen": " ".join(map(str, seen.next)), "seen_ms": seen.watermark_ms}
    return files, facts


def cut_of(found: Checkpoint, view: WindowView) -> Cut | None:
    """Up to where the window was trained on, if it still has those sequence numbers.

    Of a relation that is new since then, nothing was.
    """
    return _cut(found, view, "next", "watermark_ms")


def seen_of(found: Checkpoint, view: WindowView) -> Cut | None:
    """Up to where events make no further fit due: behind ``cut_of`` after a rollback. None: it is unknown."""
    return _cut(found, view, "seen", "seen_ms") if "seen" in found.facts else None


def _cut(found: Checkpoint, view: WindowView, next_name: str, time_name: str) -> Cut | None:
    numbers = map(int, str(found.facts.get(next_name, "")).split())
    next_ = dict(zip(relations_of(found), numbers, strict=False))  # no numbers: nobody kept that window
    here = view.numbers_here(str(found.facts.get("life", "")), next_)
    return None if here is None else Cut(int(found.facts[time_name]), here, here)


def evaluated(found: Checkpoint) -> Facts:
    """What was saved of the evaluation before the serving model's fit."""
    return {k: fact for k, fact in found.facts.items() if k in EVALUATED or k.startswith(MOVED_USER)}


def relations_of(found: Checkpoint) -> list[str]:
    """The relations of the saved model, in its order."""
    return names_of(msgspec.json.decode(found.read("trainer.json"), type=dict[str, object]))


def restore(trainer: Trainer, found: Checkpoint, graph: HeterographView, moment: Moment) -> None:
    """Lay a saved state out for the rows of ``graph`` and load it.

    Raises:
        ValueError: It was saved by another model than the configured one.
    """
    tensors = load(found.read("trainer.safetensors"))
    meta = msgspec.json.decode(found.read("trainer.json"), type=dict[str, object])
    names: dict[str, list[str | None]] = msgspec.json.decode(found.read("names.json"))
    rows = [_new_rows(names[KINDS[side]], graph, side, moment) for side in (USER, ITEM)]
    state = {k: v for k, v in tensors.items() if not k.startswith((TABLE, *PUBLISHED))}
    state |= _moved_table({k: v for k, v in tensors.items() if k.startswith(TABLE)}, rows[ITEM], moment)
    for part in PUBLISHED:
        for side in (USER, ITEM):
            state |= _moved_vectors(tensors, part, side, rows[side], moment)
    trainer.load_state_dict(state, meta)


def without(
    found: Checkpoint, users: Collection[str]
) -> tuple[dict[str, bytes], dict[str, str | int | float]] | None:
    """The files and facts of a state without users; None if it has none of them.

    Raises:
        OSError: It cannot be read.
    """
    names: dict[str, list[str | None]] = msgspec.json.decode(found.read("names.json"))
    gone = {row for row, name in enumerate(names[KINDS[USER]]) if name in users}
    moved = {f"{MOVED_USER}{user}" for user in users}
    if not gone and moved.isdisjoint(found.facts):
        return None
    tensors = load(found.read("trainer.safetensors"))
    for part in PUBLISHED:
        keys = _published_keys(part, USER)
        if keys[0] in tensors:
            kept = torch.from_numpy(np.flatnonzero(~np.isin(tensors[keys[0]].numpy(), list(gone))))
            tensors |= {key: tensors[key][kept] for key in keys}
    own = [None if row in gone else name for row, name in enumerate(names[KINDS[USER]])]
    files = {name: found.read(name) for name in found.files}
    files["trainer.safetensors"] = to_bytes(tensors)
    files["names.json"] = msgspec.json.encode({**names, KINDS[USER]: own})
    return files, {name: fact for name, fact in found.facts.items() if name not in moved}


def _published_keys(part: str, side: int) -> tuple[str, str, str]:
    """The tensors of one side of ``serving`` or ``first``: rows, vectors, versions."""
    kind = KINDS[side]
    return f"{part}.{kind}_rows", f"{part}.{kind}", f"{part}.{kind}_version"


def _owned(tensors: Mapping[str, Tensor], part: str, side: int, moment: Moment) -> dict[str, Tensor]:
    """One side of what was published, without rows that changed hands: their name is another's now."""
    keys = _published_keys(part, side)
    if keys[0] not in tensors:
        return {}
    rows, versions = tensors[keys[0]].numpy(), tensors[keys[2]].numpy()
    now = moment.versions[side].astype(np.int64)
    owned = rows < len(now)
    owned[owned] = now[rows[owned]] == versions[owned]
    kept = torch.from_numpy(np.flatnonzero(owned))
    return {key: tensors[key][kept] for key in keys}


def _new_rows(old_names: list[str | None], graph: HeterographView, side: int, moment: Moment) -> I64:
    """The row that each old row's owner has now; -1 if none."""
    now = graph.names(side, np.arange(len(moment.versions[side]), dtype=np.uint32), moment)
    row_of = {name: row for row, name in enumerate(now) if name is not None}
    return np.array([-1 if name is None else row_of.get(name, -1) for name in old_names], np.int64)


def _moved_table(table: Mapping[str, Tensor], new: I64, moment: Moment) -> dict[str, Tensor]:
    """The item table with each row at its owner's new place; the other rows are to be started afresh."""
    versions = moment.versions[ITEM].astype(np.int64)
    count = len(table[f"{TABLE}version"])
    new = new[:count]
    old = torch.from_numpy(np.flatnonzero(new >= 0))
    to = torch.from_numpy(new[new >= 0])
    moved: dict[str, Tensor] = {}
    for name, tensor in table.items():
        filled = torch.zeros((len(versions), *tensor.shape[1:]), dtype=tensor.dtype)
        if name == f"{TABLE}version":
            filled += NO_VERSION
            filled[to] = torch.from_numpy(versions)[to]
        else:
            filled[to] = tensor[old]
        moved[name] = filled
    return moved


def _moved_vectors(
    tensors: Mapping[str, Tensor], part: str, side: int, new: I64, moment: Moment
) -> dict[str, Tensor]:
    """One side of what was published, at its owners' new rows, ascending."""
    keys = _published_keys(part, side)
    if keys[0] not in tensors:
        return {}
    moved = new[tensors[keys[0]].numpy()]
    kept = np.flatnonzero(moved >= 0)
    kept = kept[np.argsort(moved[kept])]
    rows = moved[kept]
    return {
        keys[0]: torch.from_numpy(rows),
        keys[1]: tensors[keys[1]][torch.from_numpy(kept)],
        keys[2]: torch.from_numpy(moment.versions[side].astype(np.int64)[rows]),
    }
