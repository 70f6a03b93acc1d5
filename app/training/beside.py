"""A publish in a thread of its own, while the worker's loop makes a fit.

Worker.first_lists_beside ──► [Beside.during] ──► the fit ──► [Beside.wait] ──► the next publish
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from driftgraph.app.training.work_counts import WorkCounts
from driftgraph.snapshots.generations.keys import StaleWorkerError, StoreError
from driftgraph.stream.window.writer import StaleCut

log = logging.getLogger(__name__)


class Beside:
    """One publish at a time; whoever publishes next waits for it first, since a store has one user."""

    def __init__(self, work: WorkCounts) -> None:
        self._work = work
        self._publish: Future[None] | None = None

    @contextmanager
    def during(self, publish: Callable[[], None]) -> Iterator[None]:
        """Call ``publish`` while the block runs. Raises as ``wait``."""
        with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
            self._publish = pool.submit(publish)
            try:
                yield
            finally:
                self.wait()

    def wait(self) -> None:
        """Until it is done. What Redis refused is left to the next publish, which has it too.

        Raises:
            StaleWorkerError: A newer worker has taken over.
        """
        publish, self._publish = self._publish, None
        try:
            if publish is not None:
                publish.result()
        except StaleWorkerError:
            raise
        except (StoreError, StaleCut) as error:
            self._work.redis_errors["publish"] += isinstance(error, StoreError)
            log.warning("the lists that are served until there is a model are not published: %s", error)
