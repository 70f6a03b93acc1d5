"""The table of docs/sizing.md: what three platforms take, from the sizes of the records in the code.

sizes of records, figures of a platform ──► [page] ──► docs/sizing.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from driftgraph.app.commands.doctor.checks import EVENT_BYTES, HEAD_BYTES
from driftgraph.app.config.settings import Settings
from driftgraph.snapshots.generations.memory import feast_bytes

OWNER_BYTES: Final = 4  # of a row: which node it is of
ID_FILE_BYTES, ID_MEMORY_BYTES = 34, 25  # of an id of up to 16 bytes: in files, and in the updater's memory
EVENT_ID_BYTES: Final = (9, 20)  # of a remembered event id, from an emptier table to a fuller one
# Measured with Redis 8.2 at 64 numbers, ids of 12 characters, lists of 100 and of 50: the mean of MEMORY USAGE
USER_REDIS_BYTES: Final = 2_800
ITEM_REDIS_BYTES: Final = 1_450 + 800  # the hash, and its place in the vector set


@dataclass(frozen=True)
class Platform:
    """A platform: ``events`` are those inside their spans, ``event_ids_day`` those that have an id."""

    name: str
    users: int
    items: int
    relations: int
    events: int
    event_ids_day: int


PLATFORMS: Final = (
    Platform("a small shop", 50_000, 10_000, 3, 2_000_000, 100_000),
    Platform("a media site", 2_000_000, 200_000, 3, 60_000_000, 8_000_000),
    Platform("the article's platform", 12_000_000, 8_500_000, 3, 443_000_000, 25_000_000),
)

HEAD = """# Sizing

This page is written by `python -m site_pages` from the sizes of the records in the code. `driftgraph doctor` computes the same
for your topic: from its rate, the share of each relation in a sample, and the spans.

## The table

Users and items are those with at least one event in the window. Memory is what is used, not what is configured: the
window's files are sparse, so a generous `window.capacity` costs nothing until it is filled.
"""

FOOT = """
## Reckon it for yours

| what | how much |
|---|---|
| window, on the disk of `window.dir` and in memory | {event} bytes · events inside their spans + {head} · nodes · relations + {owner} · nodes |
| ids | {id_file} bytes a node in files and about {id_memory} in the updater's memory; 32 more with UUIDs |
| remembered event ids | {low} to {high} bytes · events with an id in `deduplication.horizon` |
| Redis | ({user:,} bytes · users + {item:,} · items) · (`redis.keep` + 1), since a generation is written before an old one leaves |

The figures for Redis were measured with Redis 8.2 at `model.dim = 64` with ids of 12 characters and lists as by default. Without
lists (`publish.lists = 0`, `publish.similar = 0`) a user takes about a quarter of that, an item two thirds.
`publish.feast` adds {copy:,} bytes of either, once.

## Beside that

| what | where | how much |
|---|---|---|
| the processes, as they start | the updater; the worker | .2 GB; .4 GB with torch |
| a fit | the worker's memory | the items' rows: 4 bytes · `model.dim` · items, three times with Adam's two moments, and a batch |
| checkpoints | `data_dir/checkpoints` | three, which share what has not changed by hard links; `du -sh` counts it once |
| saved models | `data_dir/trainer` | 4 bytes · `model.dim` · items each, the newest three and one of each kept generation |
| dead letters | `data_dir/dead_letters` | up to `dead_letters.max_bytes`, {letters:.0f} GB by default |

## Cores

Two are enough for what this documentation measures: 1.3 M decoded events a second while nothing else runs, some 2,000 refreshed users
a second, and a fit of ten thousand events in seconds. A third keeps refreshes within a second during a fit. A GPU shortens fits
and nothing else. Give the window memory before cores: a window that does not fit into memory is read from disk.
"""


def page() -> str:
    """The whole page, as Markdown."""
    names = [platform.name for platform in PLATFORMS]
    rows = [
        ("users · items", [f"{_count(one.users)} · {_count(one.items)}" for one in PLATFORMS]),
        (
            "relations · events in the window",
            [f"{one.relations} · {_count(one.events)}" for one in PLATFORMS],
        ),
        ("events with an id, a day", [_count(one.event_ids_day) for one in PLATFORMS]),
        ("window", [_bytes(window_bytes(one)) for one in PLATFORMS]),
        ("ids: files + the updater's memory", [_ids(one) for one in PLATFORMS]),
        ("remembered event ids", [_event_ids(one) for one in PLATFORMS]),
        ("**memory for the graph, at most**", [f"**{_bytes(graph_bytes(one))}**" for one in PLATFORMS]),
        ("**Redis**", [f"**{_bytes(redis_bytes(one))}**" for one in PLATFORMS]),
    ]
    table = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    table += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    foot = FOOT.format(
        event=EVENT_BYTES, head=HEAD_BYTES, owner=OWNER_BYTES, id_file=ID_FILE_BYTES, id_memory=ID_MEMORY_BYTES,
        low=EVENT_ID_BYTES[0], high=EVENT_ID_BYTES[1], user=USER_REDIS_BYTES, item=ITEM_REDIS_BYTES,
        copy=round(feast_bytes(12, Settings().model.dim)),
        letters=Settings.model_validate({}).dead_letters.max_bytes / (1 << 30),
    )  # fmt: skip
    return "\n".join([HEAD, *table]) + "\n" + foot


def window_bytes(one: Platform) -> int:
    """The window's files, as far as they are used."""
    nodes = one.users + one.items
    return EVENT_BYTES * one.events + (HEAD_BYTES * one.relations + OWNER_BYTES) * nodes


def graph_bytes(one: Platform) -> int:
    """The window, the ids of its nodes, and the remembered event ids at their largest."""
    ids = (ID_FILE_BYTES + ID_MEMORY_BYTES) * (one.users + one.items)
    return window_bytes(one) + ids + EVENT_ID_BYTES[1] * one.event_ids_day


def redis_bytes(one: Platform) -> int:
    """All kept generations, and the one that is being written."""
    generations = Settings.model_validate({}).redis.keep + 1
    return generations * (USER_REDIS_BYTES * one.users + ITEM_REDIS_BYTES * one.items)


def _ids(one: Platform) -> str:
    nodes = one.users + one.items
    return f"{_bytes(ID_FILE_BYTES * nodes)} + {_bytes(ID_MEMORY_BYTES * nodes)}"


def _event_ids(one: Platform) -> str:
    low, high = (_bytes(each * one.event_ids_day) for each in EVENT_ID_BYTES)
    return f"{low} to {high}"


def _count(number: int) -> str:
    return f"{number / 1e6:g} M" if number >= 1_000_000 else f"{number:,}"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
