"""Writes the window at a cut for other tools: Parquet, DGL or PyG.

    newest checkpoint, or a file ──► ExportedGraph ──► [export] ──► folder/, whole or not there

Layout of the folder:
  * ``users.parquet``, ``items.parquet``: the id of each node, and its METIS part where parts were asked for;
  * ``graph.bin`` (DGL), ``graph.pt`` (PyG) or ``edges/{relation}.parquet``;
  * ``manifest.json``, written last: the cut and its watermark, relations, counts, the newest model version
    that was saved, the generation that the updater's worker served then, and of which model version that is:
    0 of lists, before there is a model.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from driftgraph.app.commands.saved_window import saved_window
from driftgraph.app.commands.sort_folder import folder_for_sorting
from driftgraph.app.config import saved_model
from driftgraph.app.config.builders import file_options, window_relations
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.status_files import told
from driftgraph.app.training.erase_pending import erasures_folder, users_of
from driftgraph.app.training.lockstep import Lockstep
from driftgraph.model.export.exported import ExportedGraph, Parts, save_pyg
from driftgraph.snapshots.erasures import ErasureList
from driftgraph.stream import disk
from driftgraph.stream.arrays import I32
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.ingest.erasures import MemoryErasures
from driftgraph.stream.sources.file import FileSource
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.heterograph import KINDS, Heterograph

Format = Literal["dgl", "pyg", "parquet"]
FORMAT_VERSION: Final = 1
EDGES_OF_A_GROUP: Final = 1 << 20  # rows of a Parquet file that are written at once


class ExportError(DriftgraphError):
    """The window cannot be exported. The message says what to do."""


def export(
    settings: Settings,
    folder: Path,
    *,
    format_: Format,
    parts: int | None,
    source: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Write the window into ``folder``, and return the manifest.

    Args:
        settings: Its newest checkpoint is exported, unless there is a ``source``.
        folder: Must not be there, or be empty.
        format_: ``dgl`` and parts need DGL; the others need nothing that driftgraph does not.
        parts: How many METIS parts the nodes are put into; None: none are made.
        source: A file or folder of events, as ``replay`` reads it.
        progress: Says what is being done.

    Raises:
        ExportError: If the folder has something, DGL is missing, or there are not enough nodes for the parts.
        NoCheckpointError: If there is no checkpoint.
    """
    _check(folder, format_, parts)
    window = _of_checkpoint(settings) if source is None else _of_file(settings, source, progress)
    exported = window.graph
    made = None
    if parts is not None:
        progress.note(f"{parts} parts of {sum(exported.node_counts):,} nodes, by METIS")
        made = _parts(exported, parts)
    manifest = {
        "format_version": FORMAT_VERSION,
        "driftgraph": version("driftgraph"),
        "format": format_,
        **window.facts,
        "users": exported.node_counts[0],
        "items": exported.node_counts[1],
        "parts": None if made is None else _told_parts(exported, made, parts or 0),
    }
    progress.note(f"writing {folder}")
    with _whole(folder) as partial:
        for side, kind in enumerate(KINDS):
            _write_nodes(
                partial / f"{kind}s.parquet", window.names[side], None if made is None else made[side]
            )
        if format_ == "parquet":
            _write_edges(partial / "edges", exported)
        elif format_ == "pyg":
            save_pyg(exported, made, partial / "graph.pt")
        else:
            _dgl().save(exported, made, partial / "graph.bin")
        disk.write_synced(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return {"folder": str(folder), **manifest}


class _Window(NamedTuple):
    """The columns of the window, and what is known of it. The window itself is freed by then."""

    graph: ExportedGraph
    names: tuple[list[str | None], list[str | None]]
    facts: dict[str, Any]


def _of_checkpoint(settings: Settings) -> _Window:
    saved = saved_window(settings)
    model, worker = saved_model.newest(settings.data_dir), told(settings.data_dir, "worker")
    serves = (worker or {}).get("serves") or {}
    return _columns(
        saved.graph,
        {
            "checkpoint": saved.number,
            "model_version": None if model is None else model.model_version,
            "generation": serves.get("generation"),
            "generation_model_version": serves.get("model_version"),
        },
    )


def _of_file(settings: Settings, source: Path, progress: Progress) -> _Window:
    """What a replay of the file has in its window at the end, without its fits."""
    clock = SystemClock()
    options = replace(file_options(settings, clock), sort_in=folder_for_sorting(settings.data_dir))
    with closing(FileSource(source, options, say=progress.note)) as file:
        erasures = MemoryErasures(ErasureList(erasures_folder(settings)).read(), users_of(settings))
        letters = MemoryDeadLetters()
        lockstep = Lockstep(
            settings,
            window_relations(settings, file.relations),
            clock,
            dead_letters=letters,
            store=None,
            erasures=erasures,
        )
        progress.start("filling the window", total=100)
        shown = 0
        while (decoded := file.next_batch()) is not None:
            for _ in lockstep.take(decoded):
                pass  # a fit would change nothing of the window
            share = round(100 * file.read_share())
            progress.advance(share - shown)
            shown = share
        progress.close()
        for warning in file.warnings:
            progress.note(f"WARNING: {warning}")
    counts = lockstep.ingest.counts
    facts = {"source": source.name, "events_read": counts.read, "events_rejected": counts.rejected}
    return _columns(lockstep.graph, facts)


def _columns(graph: Heterograph, facts: dict[str, Any]) -> _Window:
    moment, relations = graph.moment(), graph.window.relations
    cut = moment.cut
    exported = ExportedGraph.of(graph.window, cut)
    users, items = (graph.names(side, rows, moment) for side, rows in enumerate(exported.rows))
    numbers = zip(relations, cut.first, cut.next, strict=True)
    return _Window(
        exported,
        (users, items),
        facts
        | {
            "watermark_ms": cut.watermark_ms,
            "cut": {relation.name: {"first": first, "next": next_} for relation, first, next_ in numbers},
            "spans_ms": {relation.name: relation.span_ms for relation in relations},
            "edges": {name: len(edges) for name, edges in exported.edges.items()},
        },
    )


def _check(folder: Path, format_: Format, parts: int | None) -> None:
    """Refuse before anything is read what could not be written at the end."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "has something in it" if folder.is_dir() else "is a file"
        raise ExportError(f"{folder} {what}, and an export replaces nothing; name a folder that is not there")
    if not folder.parent.is_dir():
        raise ExportError(
            f"{folder.parent} is no folder, so that {folder.name} cannot be made there; make it first"
        )
    if format_ == "dgl" or parts is not None:
        _dgl()


def _dgl() -> ModuleType:
    """The module that needs DGL; it takes seconds to import."""
    try:
        from driftgraph.model.export import dgl_files  # noqa: PLC0415
    except ImportError as error:
        raise ExportError(
            f"DGL is not here ({error}), and --format dgl and --parts need it: it has wheels for Python 3.11 "
            "and older; --format pyg and --format parquet without --parts do without"
        ) from error
    return dgl_files


def _parts(graph: ExportedGraph, count: int) -> Parts:
    if count > min(graph.node_counts):
        users, items = graph.node_counts
        raise ExportError(
            f"--parts {count} are more than the window has users ({users:,}) or items ({items:,}); "
            "ask for fewer"
        )
    made: Parts = _dgl().metis(graph, count)
    return made


def _told_parts(graph: ExportedGraph, made: Parts, count: int) -> dict[str, Any]:
    """How many nodes each part has, and the share of the events whose user and item are in one."""
    inside = sum(int((made[0][e.user] == made[1][e.item]).sum()) for e in graph.edges.values())
    every = sum(map(len, graph.edges.values()))
    users, items = (np.bincount(part, minlength=count).tolist() for part in made)
    return {"count": count, "users": users, "items": items, "events_inside": inside / max(every, 1)}


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when all is on the disk, and is removed after an error."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):
            if path.is_dir():
                disk.sync_folder(path)
                continue
            with path.open("rb") as file:
                disk.sync(file.fileno())
        disk.sync_folder(partial)
        disk.replace(partial, folder)
        disk.sync_folder(folder.parent)
    except OSError as error:
        raise ExportError(
            f"cannot write {folder}: {error.strerror or error}; {disk.remedy(error, 'name another place')}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_nodes(path: Path, names: list[str | None], part: I32 | None) -> None:
    """Row n of the file is node n."""
    columns = {"node": pa.array(np.arange(len(names))), "id": pa.array(names, pa.string())}
    if part is not None:
        columns["part"] = pa.array(part)
    pq.write_table(pa.table(columns), path)


def _write_edges(folder: Path, graph: ExportedGraph) -> None:
    """One file for each relation, in order of time; ``user`` and ``item`` are nodes."""
    folder.mkdir()
    schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("time_ms", pa.int64())])
    for name, edges in graph.edges.items():
        columns = [edges.user, edges.item, edges.time_ms]
        with pq.ParquetWriter(folder / f"{quote(name, safe='')}.parquet", schema) as writer:
            for start in range(0, len(edges), EDGES_OF_A_GROUP):
                group = [column[start : start + EDGES_OF_A_GROUP] for column in columns]
                writer.write_table(pa.table(group, schema=schema))
