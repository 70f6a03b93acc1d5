"""The checks of ``driftgraph doctor`` on data_dir, on the updater that uses it, and on event ids.

data_dir, its status files, the topic's rate ──► [data_dir_checks, event_ids] ──► [Check …]
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.config.settings import Settings
from driftgraph.app.config.tables.sections import DeduplicationSettings
from driftgraph.app.console.status_files import told
from driftgraph.app.console.status_text import checkpoint_of, deduplication_of, span_of
from driftgraph.stream import disk
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.ingest.dedupe import SETS
from driftgraph.stream.ingest.id_buckets import table_bytes

PROBE_BYTES = 1 << 16


def data_dir_checks(settings: Settings) -> Iterator[Check]:
    """Check which operations the volume has, and the checkpoints of an updater that runs."""
    yield from _volume("data_dir", settings.data_dir)
    if settings.window.dir is not None:
        yield from _volume("window.dir", settings.window.dir)
    updater = told(settings.data_dir, "updater")
    if updater is None or updater["state"] not in ("running", "filling", "degraded"):
        return
    if one := updater.get("checkpoint"):
        yield Check("checkpoint", State.FAIL if one["overdue"] else State.OK, checkpoint_of(updater))
    ids = updater.get("deduplication") or {}
    if ids.get("short"):
        yield Check("event ids", State.WARN, deduplication_of(ids))


def ids_needed(settings: DeduplicationSettings, per_day: float) -> int:
    """How many event ids are remembered at once."""
    return round(per_day * settings.horizon.ms / 86_400_000 * (SETS + 1) / SETS)


def event_ids(settings: DeduplicationSettings, per_day: float) -> Check:
    """Check whether the event ids of a horizon fit, at the topic's rate."""
    horizon = settings.horizon
    needed = ids_needed(settings, per_day)
    if not needed:
        return Check("event ids", State.OK, "the sample has none: a delivery that is repeated counts twice")
    said = f"{needed:,} within {horizon} take {table_bytes(needed) / 1e9:.2f} GB"
    if needed <= settings.ids_max:
        return Check("event ids", State.OK, f"{said}, ids_max is {settings.ids_max:,}")
    reach_ms = round(settings.ids_max * (SETS - 1) / SETS / per_day * 86_400_000)
    return Check(
        "event ids",
        State.WARN,
        f"{said}, but deduplication.ids_max is {settings.ids_max:,}, which reach back {span_of(reach_ms)}: "
        f"set it to {needed:,} or more, or deduplication.horizon to what your producers need",
    )


def _volume(name: str, folder: Path) -> Iterator[Check]:
    """The operations that the volume of a folder lacks, tried in a folder beside it."""
    there = next(path for path in (folder, *folder.parents, Path("/")) if path.is_dir())
    try:
        probe = Path(tempfile.mkdtemp(prefix=".driftgraph-doctor-", dir=there))
    except OSError as error:
        yield Check(
            name,
            State.FAIL,
            f"cannot write to {there}: {error.strerror}; give this user the right, or set another {name}",
        )
        return
    try:
        lacks = list(_lacking(probe))
    except OSError as error:
        raise DriftgraphError(f"{name}: cannot write to {there}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    if lacks:
        yield Check(name, State.WARN, f"{folder}: its volume has {'; '.join(lacks)}")
    else:
        yield Check(name, State.OK, f"{folder}: can be written, linked, locked and mapped")


def _lacking(probe: Path) -> Iterator[str]:
    file = probe / "file"
    disk.write_synced(file, bytes(PROBE_BYTES))
    if not disk.link_or_copy(file, probe / "link"):
        yield "no hard links, so each checkpoint copies what has not changed"
    with file.open("r+b") as opened:
        held = disk.lock(opened.fileno(), file)
        held.close()
        if not held.by_volume:
            yield "no locks, so only updaters of one name are kept apart, by Redis"
        try:
            mmap.mmap(opened.fileno(), PROBE_BYTES).close()
        except OSError:
            yield "no files that can be mapped into memory: set window.dir to a folder of a local disk"
