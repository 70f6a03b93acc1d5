"""The GPU worker's own process: a cycle where the updater has seen a mark; a thread refreshes beside it.

graph in shared memory ──► [main] ──► Worker.cycle ──► Redis
          updater ──► marks ──┘ └──► refresh_thread ──► Redis
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from driftgraph.app.config.builders import delisted_file, generation_store
from driftgraph.app.config.settings import Settings
from driftgraph.app.console import logs
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.worker_socket import answering
from driftgraph.app.console.writable import settle
from driftgraph.app.training import following
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.device import use_threads, yield_to_others
from driftgraph.app.training.erase_pending import erasing, erasures_folder
from driftgraph.app.training.generation_report import GenerationReport, describe
from driftgraph.app.training.process.delisting_thread import delisting
from driftgraph.app.training.process.listener import Listener
from driftgraph.app.training.process.refresh_thread import RefreshThread, refreshing
from driftgraph.app.training.process.user_answers import UserAnswers
from driftgraph.app.training.process.worker_start import attached, worker_of
from driftgraph.app.training.retraining import Answer, Request, Requests
from driftgraph.snapshots.checkpoints.checkpoint import CheckpointError
from driftgraph.snapshots.erasures import REDIS, PendingErasures
from driftgraph.snapshots.generations.keys import RedisUnavailableError, StaleWorkerError, StoreError, connect
from driftgraph.snapshots.generations.lease import LeaseOwner, raise_epoch
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.attributes.attributes import AttributesView
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.ingest.fit_schedule import Mark, Marks
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.pauses import pause_after
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import StaleCut

LOOK_EVERY_S = 0.2  # for marks, requests and erasures
STALE_FROM = 3  # times in a row are no accident
RING_TOO_SMALL = (
    "events leave their ring while the worker reads them, so that nothing is trained or published; "
    "raise window.capacity or relations.NAME.capacity (driftgraph doctor says by how much)"
)
LATE_FIT = (
    "events have left their ring between the mark at which a fit was due and the fit, so it is made on the "
    "window as it is now; raise window.capacity or relations.NAME.capacity (driftgraph doctor says by how "
    "much)"
)
ROUNDS_PER_LOOK = 5  # at Redis, whether it still has what was published
LAST_WORDS_BYTES_MAX = 2_048  # far below what a pipe holds: nobody waits to say them
REDIS_PAUSES_S = (1, 2, 5, 10, 30)  # while Redis does not do what it should
REFRESH_LOOK_S = 1.0  # a refresh that Redis takes again ends a pause
REDIS_BACK_WITHIN_S = 5  # it is seen that Redis is there again, perhaps without what it had

Wait = Callable[[float], bool]  # wait so many seconds, less if asked to stop; whether asked to

log = logging.getLogger(__name__)


def main(settings: Settings, window_dir: Path, owner: LeaseOwner, updater: Connection) -> None:
    """Train and publish until the updater closes its end of the pipe or is gone.

    SIGTERM ends this process at once: a publish survives that, a fit is lost.
    """
    use_threads()
    settle(settings.data_dir, is_child=True)
    logs.set_up(settings, "worker")
    listener = Listener(updater, os.getppid())
    listener.start()
    try:
        store = _store(settings, owner, listener.wait) if listener.is_told_to_begin() else None
        if store is not None:
            worker = attached(settings, window_dir, store)
            refresher, faults = worker.refresher, settings.data_dir / "errors" / "refresh.txt"
            assert refresher is not None
            told = UserAnswers(worker.graph, refresher)
            refresher.store = store.beside(connect(settings.redis.address()))  # one for each thread
            with (
                worker.status.beating(),
                erasing(settings, store.epoch, refresher),
                refreshing(refresher, worker.status, faults) as thread,
                delisting(
                    store.beside(connect(settings.redis.address())),
                    refresher,
                    delisted_file(settings),
                    worker.status,
                ),
                answering(settings.data_dir, told.answer, told.warm_up),
            ):
                yield_to_others()
                _Loop(settings, worker, lambda: listener.marks, thread).run(listener.wait)
    except Exception as error:
        words = _last_words(error, settings.data_dir)
        with suppress(OSError):  # the updater is gone
            updater.send_bytes(words.encode()[:LAST_WORDS_BYTES_MAX])
        raise SystemExit(1) from None


def _last_words(error: Exception, data_dir: Path) -> str:
    """One sentence about what ends the worker; of a fault of ours, with where its traceback is."""
    if isinstance(error, DriftgraphError):
        return " ".join(str(error).split())
    said = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
    path = data_dir / "errors" / "worker.txt"  # one: it may be the same again and again
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        log.exception("the worker ends")
        return said
    return f"{said[: LAST_WORDS_BYTES_MAX // 2]}; please report it with the traceback in {path}"


class _Loop:
    """When to do what.

    Always true: a fit is made at each mark that was the newest one when the fit before had ended; a
    generation that Redis did not take is tried again until it does.
    """

    def __init__(
        self,
        settings: Settings,
        worker: Worker,
        newest_marks: Callable[[], Marks],
        thread: RefreshThread | None = None,
    ) -> None:
        """``thread`` refreshes beside the loop; without one, the loop does so between its steps."""
        self.settings = settings
        self.worker = worker
        self._thread = thread
        self._failures = 0  # of Redis to do what it should, in a row
        self._newest_marks = newest_marks
        self._outage = OutageLog(log.warning)
        self._disk = OutageLog(log.warning)
        self._pending = PendingErasures(erasures_folder(settings))
        self._requests = Requests(settings.data_dir)
        self._rounds = 0
        self._ring = OutageLog(log.warning)
        self._stale = 0  # moments in a row that the window had left before the work was done

    def run(self, wait: Wait) -> None:
        """Look around every ``LOOK_EVERY_S``."""
        while not wait(LOOK_EVERY_S):
            if self._thread is not None:
                self._thread.check()
            try:
                self._erase()
                has_redis_answered = self._step(self.worker.graph.moment())
            except StaleCut:  # the ring moved on while we worked; the next moment is a newer one
                self._stale += 1
                if self._stale >= STALE_FROM:
                    self.worker.status.trouble(RING_TOO_SMALL)
                    self._ring.missing(RING_TOO_SMALL)
            except StaleWorkerError:
                raise
            except CheckpointError as error:  # a full disk: what Redis has is served on
                self._failures += 1
                self.worker.status.trouble(f"{error}; nothing new is published until the disk takes it")
                self._disk.missing(f"{error}; it is tried again and again")
                if wait(pause_after(self._failures, REDIS_PAUSES_S)):
                    return
            except StoreError as error:
                self._failures += 1
                self.worker.status.work.redis_errors["publish"] += 1
                pause_s = pause_after(self._failures, REDIS_PAUSES_S)
                if isinstance(error, RedisUnavailableError):
                    pause_s = min(pause_s, REDIS_BACK_WITHIN_S)
                self._outage.missing(f"{error}; it is tried again and again")
                if self._pause(pause_s, wait):
                    return
            else:
                if has_redis_answered:
                    self._failures = 0
                    self._outage.over("Redis takes what it should again")
                self._disk.over("the disk takes the trainer's state again")
                self._stale = 0
                self._ring.over("the worker keeps up with the window again")
                self.worker.status.trouble(None)

    def _pause(self, seconds: float, wait: Wait) -> bool:
        """Wait while Redis refuses, less if the refresh is taken again; whether asked to stop."""
        end_s, was_refused = time.monotonic() + seconds, False
        while not wait(max(0.0, min(REFRESH_LOOK_S, end_s - time.monotonic()))):
            is_refused = self._thread is not None and self._thread.is_refused
            if time.monotonic() >= end_s or (was_refused and not is_refused):
                return False
            was_refused = is_refused
        return True

    def _erase(self) -> None:
        """Users who asked go from Redis and the checkpoints, and only then the file that names them.

        The window forgot them before the file was there, and nothing is published meanwhile: what was
        published with older names is removed here, and no later moment has them.
        """
        for path, users in self._pending.waiting(REDIS):
            self.worker.erase(users)
            path.unlink(missing_ok=True)  # taken back, if its request could not be noted

    def _publish(self, moment: Moment) -> bool:
        """Save and publish what is not yet; whether it was tried.

        If there is no model, and its first fit is due, both go on at the same time.
        """
        worker = self.worker
        worker.save_what_is_due()
        if worker.published or not worker.may_publish(moment):
            return False
        if not worker.trainer.model_version and (mark := self._due()) is not None:
            with worker.first_lists_beside(moment):
                self._fit(mark)
            return True
        with worker.status.tracing.whole("publish without a fit"):
            worker.publish(moment)
        return True

    def _step(self, moment: Moment) -> bool:
        """Do what is next; whether Redis has answered: a round between two looks asks it nothing."""
        worker = self.worker
        if self._publish(moment):
            return True
        if (asked := self._requests.waiting()) is not None:
            self._requests.answer(self.retrain(asked, moment))
        elif self._due() is not None:
            self._heed(moment)
            if (mark := self._due()) is not None:
                self._fit(mark)
        else:
            self._rounds += 1
            is_look = self._rounds % ROUNDS_PER_LOOK == 0
            if is_look:
                worker.look(moment)
            if self._thread is None:
                worker.refresh(moment)
            return is_look and worker.published > 0
        return False

    def _heed(self, moment: Moment) -> None:
        """Look before a fit what an operator has chosen. A fit does not wait for a Redis that is away."""
        try:
            self.worker.look(moment)
        except StaleWorkerError:
            raise
        except StoreError as error:
            self._outage.missing(f"{error}; it is tried again and again")

    def retrain(self, asked: Request, moment: Moment) -> Answer:
        """Make the fit that somebody asked for, unless it is made: a start publishes what was saved.

        Marks are where they would be without it.
        """
        worker = self.worker
        self._heed(moment)
        if following.is_held(worker):
            return Answer.held(asked, worker.choice.said(), worker.trainer.model_version)
        if (worker.answered is None or worker.answered.id != asked.id) and (
            asked.full or sum(moment.cut.next) > sum(worker.seen.next)
        ):
            self._tell(self._cycle(moment, asked))
        made = (
            worker.answered if worker.answered and worker.answered.id == asked.id else Answer.nothing(asked)
        )
        return replace(made, model_version=worker.trainer.model_version, generation=worker.published)

    def _due(self) -> Mark | None:
        if following.is_held(self.worker):
            return None
        mark = self._newest_marks().newest(has_model=self.worker.trainer.model_version > 0)
        return mark if mark is not None and self.worker.wants(mark) else None

    def _fit(self, mark: Mark) -> None:
        """A cycle at a mark; at the newest moment if events of the mark's cut have left their ring."""
        worker = self.worker
        try:
            report = self._cycle(worker.graph.moment_at(mark.cut, mark.owners))
        except StaleCut:
            if not worker.wants(mark):  # the fit is made, and its vectors are published next
                raise
            log.warning(LATE_FIT)
            report = self._cycle(worker.graph.moment())
        self._tell(report)

    def _cycle(self, moment: Moment, asked: Request | None = None) -> GenerationReport:
        """A cycle of the worker as one trace."""
        with self.worker.status.tracing.whole("fit") as facts:
            report, _ = self.worker.cycle(moment, asked)
            facts |= {
                "accepted": report.fit.accepted,
                "code": report.fit.code,
                "model_version": report.model_version,
                "generation": report.generation,
                "new_examples": report.fit.new_examples,
            }
        return report

    def _tell(self, report: GenerationReport) -> None:
        worker = self.worker
        log.log(logging.INFO if report.fit.accepted else logging.WARNING, "%s", describe(report))
        if not worker.trainer.model_version and not worker.is_rolled_back:
            worker.published = 0  # popularity has moved on: the lists are made anew


def _store(settings: Settings, owner: LeaseOwner, wait: Wait) -> GenerationStore | None:
    """Where to publish, as soon as Redis is there; None if asked to stop before.

    Raises:
        StaleWorkerError: Another updater has taken over from ours.
    """
    client = connect(settings.redis.address())
    outage = OutageLog(log.warning)
    for failures in itertools.count(1):
        try:
            epoch = raise_epoch(client, settings.redis.namespace, owner)
            store = generation_store(settings, client, epoch=epoch)
            store.clean_up()
        except StaleWorkerError:
            raise
        except StoreError as error:
            outage.missing(f"{error}; it is tried again and again")
            if wait(pause_after(failures, REDIS_PAUSES_S)):
                return None
        else:
            outage.over("Redis is there")
            return store
    raise AssertionError("tries never end")


def retrained(
    settings: Settings,
    graph: HeterographView,
    attributes: AttributesView | None,
    store: GenerationStore,
    asked: Request,
    progress: Progress,
) -> Answer:
    """Publish what was saved and not published, then make one fit: a worker's work without an updater.

    Raises:
        StoreError: Redis does not do what it should. The next start goes on.
        CheckpointError: The disk does not take the state.
        OtherModelError: The saved model does not fit the configuration.
    """
    use_threads()
    loop = _Loop(settings, worker_of(settings, graph, attributes, store, progress), Marks)
    loop._erase()
    loop._publish(graph.moment())
    return loop.retrain(asked, graph.moment())
