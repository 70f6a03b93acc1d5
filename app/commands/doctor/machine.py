"""The checks of ``driftgraph doctor`` on this machine: memory, files, disk, the HTTP port, versions.

settings, what the window needs, the machine ──► [machine_checks] ──► [Check …]
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from driftgraph.app.commands.doctor.findings import Check, State
from driftgraph.app.config.letter_place import letters_folder
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.status_files import told
from driftgraph.snapshots.checkpoints.checkpoint import KEEP
from driftgraph.snapshots.checkpoints.checkpoint import numbers as checkpoint_numbers

PROCESSES_BYTES: Final = (
    1_500_000_000  # three processes without what they keep; 1.1 GB resident of a small run
)
MEMORY_SHARE_MAX: Final = 0.8  # of the limit; the rest is for busy days and for the fit
FILES_OPEN: Final = 256  # of one process beside those below; an updater of 3 relations has 40 in all
FILES_OF_A_RELATION: Final = 8
FILES_OF_A_PARTITION: Final = 2  # a broker's connections, at worst one leader for each partition
FILES_OF_CONNECTIONS: Final = 256  # of HTTP
CGROUP_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1
PYTHONS: Final = ("3.11", "3.12")  # that the tests run on; DGL is there up to 3.11


@dataclass(frozen=True, slots=True)
class Needed:
    """What a run needs at the rate of the topic; 0 where the rate is not known."""

    window_bytes: int
    id_bytes: int
    partitions: int


def machine_checks(settings: Settings, needed: Needed) -> Iterator[Check]:
    """Check what the machine gives to a run."""
    yield memory(needed, *memory_limit())
    yield from shared_memory(settings.window.dir or settings.data_dir / "window", needed.window_bytes)
    yield disk_space(settings, needed)
    yield open_files(settings, needed.partitions, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield from port(settings)
    yield versions(settings)


def memory_limit(root: Path = Path("/")) -> tuple[int, str]:
    """The bytes that this process and its children may have, and who says so."""
    meminfo = (root / "proc/meminfo").read_text().splitlines()
    total = next(line for line in meminfo if line.startswith("MemTotal:"))
    limit, by = int(total.split()[1]) * 1024, "this machine"
    own = ""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" or "memory" in controllers.split(","):
                own = path.lstrip("/") or own
    for name in CGROUP_LIMITS:
        file = Path(name)
        for place in (file, file.parent / own / file.name):
            with suppress(OSError, ValueError):  # there is none, or it is "max"
                found = int((root / "sys/fs/cgroup" / place).read_text())
                if found < limit:
                    limit, by = found, "the control group"
    return limit, by


def memory(needed: Needed, limit: int, by: str) -> Check:
    """Check whether the window, the event ids and the processes fit into memory together."""
    name, total = "machine memory", needed.window_bytes + needed.id_bytes + PROCESSES_BYTES
    if not needed.window_bytes:
        said = f"{by} allows {_gb(limit)}; what the window needs is unknown without the topic's rate"
        return Check(name, State.OK if limit > PROCESSES_BYTES else State.WARN, said)
    said = (
        f"window {_gb(needed.window_bytes)}, event ids {_gb(needed.id_bytes)} and processes "
        f"{_gb(PROCESSES_BYTES)} are {_gb(total)}; {by} allows {_gb(limit)}"
    )
    if total > limit:
        return Check(name, State.FAIL, f"{said}: give it more memory, or shorten the spans")
    if total > MEMORY_SHARE_MAX * limit:
        return Check(name, State.WARN, f"{said}, which leaves little for busy days: give it more memory")
    return Check(name, State.OK, said)


def shared_memory(folder: Path, window_bytes: int, mounts: Path = Path("/proc/mounts")) -> Iterator[Check]:
    """Check a window that is in memory by its folder: its file system is as small as it was mounted."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    above = [(point, kind) for point, kind in found if there.is_relative_to(point)]
    point, kind = max(above, key=lambda one: len(one[0]))
    if kind != "tmpfs":
        return
    size = shutil.disk_usage(there).total
    said = f"{folder} is in memory: {point} has {_gb(size)}"
    if window_bytes > size:
        yield Check(
            "shared memory",
            State.FAIL,
            f"{said}, and the window needs {_gb(window_bytes)}: mount it larger (docker run --shm-size, "
            "medium: Memory with a sizeLimit), or set window.dir to a disk",
        )
    else:
        yield Check("shared memory", State.OK, said)


def disk_space(settings: Settings, needed: Needed) -> Check:
    """Check whether data_dir has room for what grows there: checkpoints and dead letters."""
    folder = settings.data_dir.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    kept = checkpoint_numbers(folder / "checkpoints")
    newest = _bytes_in(folder / "checkpoints" / str(kept[-1])) if kept else 0
    checkpoint = max(newest, needed.window_bytes)
    letters = 0
    if settings.dead_letters.to == "files":
        letters = max(0, settings.dead_letters.max_bytes - _bytes_in(letters_folder(settings)))
    wanted = (KEEP + 1) * checkpoint + letters  # the next is written before the oldest goes
    said = (
        f"{there} has {_gb(free)} free; checkpoints of {_gb(checkpoint)} and dead letters may take "
        f"{_gb(wanted)} more"
    )
    if free < checkpoint or not free:
        return Check("disk", State.FAIL, f"{said}: free some space, or set data_dir to a larger disk")
    if free < wanted:
        remedy = "free some space, lower dead_letters.max_bytes, or set data_dir to a larger disk"
        return Check("disk", State.WARN, f"{said}: {remedy}")
    return Check("disk", State.OK, said)


def open_files(settings: Settings, partitions: int, limit: int) -> Check:
    """Check whether a process may have as many files open as a run has."""
    relations = len(settings.relations) + len(settings.events.impressions)
    wanted = (
        FILES_OPEN
        + FILES_OF_A_RELATION * relations
        + FILES_OF_A_PARTITION * partitions
        + (FILES_OF_CONNECTIONS if settings.web.address() is not None else 0)
    )
    if limit == resource.RLIM_INFINITY:
        return Check("open files", State.OK, "there is no limit")
    said = f"a process may have {limit:,} open, and {wanted:,} are enough"
    if limit >= wanted:
        return Check("open files", State.OK, said)
    return Check(
        "open files",
        State.WARN,
        f"a process may have {limit:,} open, and a run may need {wanted:,}: raise it with "
        f"ulimit -n {wanted}, LimitNOFILE= of a systemd unit, or --ulimit nofile= of a container",
    )


def port(settings: Settings) -> Iterator[Check]:
    """Check whether the HTTP port is free, or ours."""
    address = settings.web.address()
    if address is None:
        return
    own = told(settings.data_dir, "web")
    if own is not None and own["state"] == "running" and address[1] in (own.get("port"), 0):
        yield Check("http", State.OK, f"{settings.web.listen} is served by process {own['pid']}")
        return
    try:
        socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        said = f"cannot listen on web.listen = {settings.web.listen}: {why}"
        yield Check("http", State.WARN, f"{said}; end what listens there, or set another address")
    else:
        yield Check("http", State.OK, f"{settings.web.listen} is free")


def versions(settings: Settings) -> Check:
    """Check the versions of Python and of DGL, which only a module of one's own for DGL needs."""
    python = platform.python_version()
    dgl = _version("dgl")
    said = f"Python {python}, {'no DGL' if dgl is None else f'DGL {dgl}'}"
    if settings.model.backend == "dgl" and dgl is None:
        remedy = (
            "model.backend = dgl needs it: install driftgraph on Python 3.11, or set the backend to torch"
        )
        return Check("versions", State.FAIL, f"{said}: {remedy}")
    if python.rpartition(".")[0] not in PYTHONS:
        return Check(
            "versions", State.WARN, f"{said}: the tests run on {' and '.join(PYTHONS)}; use one of them"
        )
    return Check("versions", State.OK, said)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bytes_in(folder: Path) -> int:
    """Of all files below, each once: checkpoints share files by hard links."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):  # it may go while we look
            status = path.stat()
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
