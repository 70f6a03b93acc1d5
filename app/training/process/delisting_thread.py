"""The thread of the worker that finishes what was delisted and relisted, also during a fit.

{ns}:delisted ──► [delisting: a thread] ──► Delisting.look ──► every live generation
                          ├─ relisted items ──► relist ──► the generation that is refreshed
                          └─ what is in its way ──► data_dir/status/worker.json
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from driftgraph.app.console.worker_socket import NoAnswerError
from driftgraph.app.publishing.refresher import Refresher
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.model.network.neighbors import now_ms
from driftgraph.snapshots.generations.keys import NotCurrentError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.writer import StaleCut

LOOK_EVERY_S: Final = 0.5
PAUSE_S: Final = 5.0  # after a failure, most often of Redis

log = logging.getLogger(__name__)


@contextmanager
def delisting(
    store: GenerationStore, refresher: Refresher, kept_in: Path, status: WorkerStatus
) -> Iterator[None]:
    """Finish meanwhile what was delisted, in a thread that alone uses ``store``; see ``Delisting.look``.

    The thread ends with the block only. ``status`` has what went wrong, also a fault of ours, until a try
    succeeds.
    """
    stopped = threading.Event()
    store.delisting.keep_in(kept_in)
    args = (store, refresher, status, stopped)
    thread = threading.Thread(target=_run, args=args, name="delisting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()


def _run(
    store: GenerationStore, refresher: Refresher, status: WorkerStatus, stopped: threading.Event
) -> None:
    outage, relisted = OutageLog(log.warning), frozenset[str]()
    while not stopped.wait(LOOK_EVERY_S):
        try:
            relisted |= store.delisting.look()
            if relisted:
                relist(refresher, store, relisted)
                relisted = frozenset()
            outage.over("what is delisted leaves the lists again")
            status.delisting(None)
        except (NoAnswerError, NotCurrentError, StaleCut):
            continue  # another generation is refreshed soon, and has them
        except Exception as error:
            known = isinstance(error, DriftgraphError)
            why = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            outage.missing(f"what is delisted has not left all lists yet: {why}")
            if not known:
                log.debug("the pass over the lists has failed", exc_info=True)
            status.delisting(why)
            stopped.wait(PAUSE_S)


def relist(refresher: Refresher, store: GenerationStore, items: Collection[str]) -> int:
    """Write relisted items into the generation that is refreshed, as it was published; how many were known.

    Others are in the next generation. Lists name them from the next refresh of their user on.

    Raises:
        NoAnswerError, NotCurrentError: No generation is refreshed now.
        StaleCut: Events of the moment were overwritten meanwhile.
        StoreError: Redis did not take them.
    """
    with refresher.between_rounds(refresher.number) as kept:
        graph, served = refresher.graph, kept.serving.items
        moment, wanted = graph.moment(), set(items)
        versions = moment.versions[ITEM]
        rows = np.arange(len(versions), dtype=np.uint32)
        rows = rows[~served.is_new(rows, versions)]
        named = np.array([name in wanted for name in graph.names(ITEM, rows, moment)], np.bool_)
        rows = rows[named]
        if not len(rows):
            return 0
        times_ms = np.full(len(rows), now_ms(graph.edges, moment.cut), np.int64)
        near = graph.edges.recent(ITEM, rows, times_ms, 1, moment.cut)
        newest_ms = near.time_ms_BRK.max(axis=(1, 2), initial=0)
        maker = kept.list_maker(moment)
        kept.put_items(rows, served.vectors(rows), newest_ms, moment, store, maker)
        return len(rows)
