"""A process that writes a window: what the tests of several processes start, and what they can foretell.

The events come from a seed, so a reader knows the whole log without being told.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from driftgraph.stream.arrays import I64, U8, U32
from driftgraph.stream.window import writer as windows
from driftgraph.stream.window.writer import Relation

USERS, ITEMS = 30, 20  # few, so that lists are long and rows meet
RELATIONS = [Relation("click", 4_000, 3_000), Relation("buy", 9_000, 1_500)]
BATCHES, BATCH = 400, 50
LATE_MS = 400
ERASE_EVERY = 20  # batches; the n-th erasure is of user 7 n

Log = tuple[U32, U32, U8, I64]


def log_of(seed: int) -> Log:
    """Every event the writer will write, in order of arrival: times grow by about 1 ms, some are late."""
    rng = np.random.default_rng(seed)
    count = BATCHES * BATCH
    time_ms = np.arange(1, count + 1, dtype=np.int64) - (rng.random(count) < 0.05) * rng.integers(
        0, LATE_MS, count
    )
    return (
        (USERS * rng.random(count) ** 2).astype(np.uint32),
        (ITEMS * rng.random(count) ** 2).astype(np.uint32),
        (rng.random(count) < 0.3).astype(np.uint8),
        np.maximum(time_ms, 1),
    )


def erased_user(number: int) -> int:
    """Whom the n-th erasure, from 1, is of."""
    return 7 * number % USERS


def watermark_after(log: Log, batches: int) -> int:
    """The writer's watermark when so many batches are in."""
    return int(log[3][: batches * BATCH].max(initial=LATE_MS)) - LATE_MS


def main() -> None:
    """Wait for a line, write batch after batch with the watermark behind, wait for the end of stdin."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    window = windows.create(folder, RELATIONS, user_rows=USERS, item_rows=ITEMS)
    windows.describe(folder, window)
    log = user, item, relation, time_ms = log_of(seed)
    print("open", flush=True)
    sys.stdin.readline()
    for start in range(0, BATCHES * BATCH, BATCH):
        part = slice(start, start + BATCH)
        window.append(user[part], item[part], relation[part], time_ms[part])
        window.expire(watermark_after(log, start // BATCH + 1))
        number, rest = divmod(start // BATCH + 1, ERASE_EVERY)
        if rest == 0:
            window.erase(erased_user(number))
        time.sleep(0.004)
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
