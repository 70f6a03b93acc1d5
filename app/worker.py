"""The train loop: evaluate, fit, gate, publish, at one moment of the graph after the other.

    HeterographView at a moment ──► [Worker.cycle] ──► GenerationStore ──► readers
                                          │ evaluate ─► fit ─► gate ─► publish ─► checkpoint
                                    [Worker.refresh]   users touched since, by the serving model

The same object runs inside a replay, in lockstep with ingestion, and in the GPU worker's own process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from driftgraph.app import trainer_state
from driftgraph.app.errors import ConfigError
from driftgraph.app.publish import TRENDING_MAX, GenerationStore
from driftgraph.app.redis_schema import TOUCHED_MAX, NotCurrentError
from driftgraph.app.upkeep import ToDo, Upkeep
from driftgraph.app.vectors import Vectors
from driftgraph.model.embed import newest_events
from driftgraph.model.evaluate import NO_ITEM, Evaluation
from driftgraph.model.negatives import F32
from driftgraph.model.neighbors import now_ms
from driftgraph.model.trainer import FitReport, Trainer
from driftgraph.snapshots import checkpoint
from driftgraph.stream.adjacency import ITEM, USER
from driftgraph.stream.events import I64, U32
from driftgraph.stream.heterograph import HeterographView, Moment
from driftgraph.stream.window import Cut

USERS_AT_ONCE = 1_024  # users times relations times TOUCHED_MAX neighbors: about 10 MB at three relations
TRENDING_SHARE = 14  # an item counts half after the 14th part of its relation's span

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """One cycle: how the model that was serving did on the events of the interval, and what came of the fit.

    ``number`` is the serving generation after the cycle, ``published`` its number in Redis (0: not there).
    ``evaluation`` was made before the fit, so none of its events had been trained on.
    """

    number: int
    published: int
    watermark_ms: int
    evaluation: Evaluation
    fit: FitReport

    def to_json(self) -> dict[str, Any]:
        """As JSON values: the model's metrics, and every baseline's on the same events."""
        scorers = dict(self.evaluation.metrics)
        fit = asdict(self.fit)
        return {
            "number": self.number,
            "published": self.published,
            "watermark_ms": self.watermark_ms,
            "evaluated_generation": self.evaluation.generation,
            "evaluated_events": self.evaluation.event_count,
            "new_item_share": self.evaluation.new_item_share,
            "cold_user_share": self.evaluation.cold_user_share,
            "candidates": self.evaluation.candidate_count,
            "metrics": scorers.pop("model", None),
            "baselines": scorers,
            "by_behavior": self.evaluation.by_behavior,
            "slices": self.evaluation.slices,
            "counts": self.evaluation.counts,
            "fit": fit,
        }


@dataclass(frozen=True, slots=True)
class PredictionRows:
    """Scored events by external id, with the serving model's best items, best first."""

    ts_ms: list[int]
    user_id: list[str]
    item_id: list[str]
    behavior: list[str]
    generation: int
    top_items: list[list[str]]


class Worker:
    """Trains on a graph and publishes.

    Always true: events before ``since`` are trained on; what Redis serves is ``trainer``'s serving
    generation once ``published`` is not 0.
    """

    def __init__(
        self,
        graph: HeterographView,
        trainer: Trainer,
        store: GenerationStore | None,
        *,
        checkpoints: Path | None,
    ) -> None:
        self.graph = graph
        self.trainer = trainer
        self.store = store
        self.checkpoints = checkpoints
        self._upkeep = None if store is None else Upkeep(store)
        self.published = 0
        self.gone: tuple[str, ...] = ()  # relations of the saved model that are no longer configured
        self.since = Cut(0, (0,) * len(graph.window.relations), (0,) * len(graph.window.relations))
        self._refreshed = self.since
        self._is_rolled_back = False  # Redis serves a generation that is not ours
        self._item_names: list[str | None] = []  # by row, as of ``since``: what the candidates were called

    def cycle(self, moment: Moment) -> tuple[GenerationReport, PredictionRows | None]:
        """Evaluate and train on the events since the last cycle, and publish if the gate lets it.

        The order: evaluate with the serving generation; fit; if accepted publish, then checkpoint. A crash
        before the publish costs the fit; one between publish and checkpoint costs it too, and the next
        generation replaces what Redis then serves.

        Raises:
            StaleCut: The moment is too old for the ring; ask for a newer one.
            StoreError: Redis did not take the generation. The fit stands; ``publish`` may be tried again.
        """
        view, since = self.graph.window, self.since
        evaluation = self.trainer.evaluate(view, since, moment.cut)
        predictions = self._named(evaluation, moment)
        fit = self.trainer.fit(view, since, moment.cut)
        self.since = moment.cut
        self._item_names = self.graph.names(
            ITEM, np.arange(len(moment.versions[ITEM]), dtype=np.uint32), moment
        )
        if fit.accepted:
            self.published = 0
            self.publish(moment, evaluation)
        return GenerationReport(
            self.trainer.generation, self.published, moment.cut.watermark_ms, evaluation, fit
        ), predictions

    def publish(self, moment: Moment, evaluation: Evaluation | None = None) -> None:
        """Publish the serving generation as of ``moment``, then keep the trainer's state, then the trends.

        A window without users or items has nothing to serve: what Redis has stays.

        Raises:
            StoreError: Redis did not take it. ``published`` is 0 if nothing of it is served.
        """
        view = self.graph.window
        embedding = self.trainer.embed(view, moment.cut)
        if self.store is not None:
            # The watermark waits for slow partitions; what a user just did must not.
            times_ms = np.maximum(embedding.user_event_ms + 1, now_ms(view, moment.cut))
            ahead = embedding.user_event_ms >= now_ms(view, moment.cut)
            vectors = embedding.user.copy()
            vectors[ahead] = self.trainer.embed_users(
                view, embedding.user_rows[ahead], moment.cut, times_ms[ahead]
            )
            users = self._users(embedding.user_rows, vectors, moment, times_ms)
            items = self._items(embedding.item_rows, embedding.item, embedding.item_event_ms, moment)
            if not (len(users) and len(items)):
                return
            number = self.store.next_number()
            self.store.publish(number, users, items, self._manifest(moment, evaluation))
            self.published = number
            self._refreshed = moment.cut
            self._is_rolled_back = False
        if self.checkpoints is not None:
            self._save(moment)
        self._publish_trending(moment)

    def refresh(self, moment: Moment) -> int:
        """New vectors for the users touched since the last publish or refresh; returns how many.

        By the serving generation's model, into that generation only: after a rollback nothing is refreshed
        until the next publish.

        Raises:
            StoreError: Redis did not take them; the next refresh has them again.
        """
        if self.store is None or not self.published or self._is_rolled_back:
            return 0
        view = self.graph.window
        events = view.events(moment.cut, self._refreshed)
        rows, newest_ms = newest_events(events.user, events.time_ms)
        if len(rows):
            times_ms = np.maximum(newest_ms + 1, now_ms(view, moment.cut))
            vectors = self.trainer.embed_users(view, rows, moment.cut, times_ms)
            try:
                self.store.refresh(self.published, self._users(rows, vectors, moment, times_ms))
            except NotCurrentError:
                self.look(moment)
                return 0
        self._refreshed = moment.cut
        return len(rows)

    def look(self, moment: Moment) -> None:
        """See whether Redis still serves what was published, and write again what it has lost.

        Raises:
            StoreError: Redis does not answer, or takes no writes. ``published`` is 0 if a publish is due.
        """
        if self._upkeep is None or not self.published:
            return
        to_do = self._upkeep.look(self.published)
        self._is_rolled_back = to_do is ToDo.REST
        if to_do is ToDo.PUBLISH:
            self.published = 0
            self.publish(moment)
        elif to_do is ToDo.WRITE_TRENDING:
            self._publish_trending(moment)

    def go_on(self) -> None:
        """After a start: if an operator went back from this very model, it is not published again.

        Raises:
            StoreError: Redis does not answer.
        """
        left = None if self.store is None else self.store.rolled_back_from()
        if left is not None and left.manifest.get("model_hash") == self._model_hash():
            self.published, self._is_rolled_back = left.number, True

    def erase(self, users: Sequence[str]) -> None:
        """Remove users whom the window has forgotten from all generations and checkpoints.

        One who is back already is a new user, and has a vector again with the next refresh, which is then of
        everybody.

        Raises:
            StoreError: Redis did not do it.
        """
        if self.store is not None:
            self.store.erase(users)
        moment = self.graph.moment()
        rows = np.arange(len(moment.versions[USER]), dtype=np.uint32)
        if not set(users).isdisjoint(self.graph.names(USER, rows, moment)):
            self._refreshed = Cut(0, (0,) * len(self.since.next), (0,) * len(self.since.next))
        if self.checkpoints is not None and checkpoint.numbers(self.checkpoints):
            self._save(moment, keep=1)

    def _save(self, moment: Moment, keep: int = checkpoint.KEEP) -> None:
        """The trainer's state, with who had the rows at ``moment``."""
        assert self.checkpoints is not None
        files, facts = trainer_state.save(self.trainer, self.graph, moment, self.since)
        number = max([self.trainer.generation - 1, *checkpoint.numbers(self.checkpoints)]) + 1
        checkpoint.write(self.checkpoints, number, files.items(), facts, keep=keep)

    def _users(self, rows: U32, vectors: F32, moment: Moment, times_ms: I64 | None = None) -> Vectors:
        """Users by external id, with what they touched; without rows that have changed hands since."""
        touched, event_ms = touched_items(self.graph, rows, moment, times_ms)
        kept = self._kept(USER, rows, moment)
        chosen = [row for row, _ in kept]
        return Vectors(
            [name for _, name in kept], vectors[chosen], event_ms[chosen], [touched[row] for row in chosen]
        )

    def _items(self, rows: U32, vectors: F32, event_ms: I64, moment: Moment) -> Vectors:
        kept = self._kept(ITEM, rows, moment)
        chosen = [row for row, _ in kept]
        return Vectors([name for _, name in kept], vectors[chosen], event_ms[chosen])

    def _kept(self, side: int, rows: U32, moment: Moment) -> list[tuple[int, str]]:
        names = self.graph.names(side, rows, moment)
        return [(n, name) for n, name in enumerate(names) if name is not None]

    def _manifest(self, moment: Moment, evaluation: Evaluation | None) -> Mapping[str, str | int | float]:
        manifest: dict[str, str | int | float] = {
            "model_generation": self.trainer.generation,
            "model_hash": self._model_hash(),
            "watermark_ms": moment.cut.watermark_ms,
            "cut": json.dumps(
                {r.name: n for r, n in zip(self.graph.window.relations, moment.cut.next, strict=True)}
            ),
        }
        if evaluation is not None:
            manifest["metrics"] = json.dumps(evaluation.metrics)
            manifest["evaluated_events"] = evaluation.event_count
        return manifest

    def _model_hash(self) -> str:
        digest = hashlib.sha256()
        for _, weight in sorted(self.trainer.network.state_dict().items()):
            digest.update(weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _publish_trending(self, moment: Moment) -> None:
        """Recent popularity by relation, the answer for users nobody knows."""
        if self.store is None:
            return
        events = self.graph.window.events(moment.cut)
        for r, relation in enumerate(self.graph.window.relations):
            mine = events.relation == r
            age_ms = events.time_ms[-1:] - events.time_ms[mine]
            score = np.bincount(events.item[mine], np.exp2(-age_ms * TRENDING_SHARE / relation.span_ms))
            order = np.argsort(-score, kind="stable")[:TRENDING_MAX]
            best = order[score[order] > 0].astype(np.uint32)
            names = self.graph.names(ITEM, best, moment)
            scores = {
                name: float(score[row]) for row, name in zip(best, names, strict=True) if name is not None
            }
            if scores:
                self.store.trending(relation.name, scores)
        for name in self.gone:  # or strangers would be told of it until its list runs out
            self.store.trending(name, {})
        self.gone = ()

    def _named(self, evaluation: Evaluation, moment: Moment) -> PredictionRows | None:
        found = evaluation.predictions
        if found is None:
            return None
        relations = [relation.name for relation in self.graph.window.relations]
        return PredictionRows(
            ts_ms=found.time_ms.tolist(),
            user_id=[name or "" for name in self.graph.names(USER, found.user, moment)],
            item_id=[name or "" for name in self.graph.names(ITEM, found.item, moment)],
            behavior=[relations[r] for r in found.relation.tolist()],
            generation=evaluation.generation,
            top_items=[
                [self._item_name(row) for row in rows if row != NO_ITEM] for rows in found.top_items.tolist()
            ],
        )

    def _item_name(self, row: int) -> str:
        """What a candidate was called; empty for one that came while ``since`` was taken."""
        return (self._item_names[row] if row < len(self._item_names) else None) or ""


def touched_items(
    graph: HeterographView, users: U32, moment: Moment, times_ms: I64 | None = None
) -> tuple[list[list[str]], I64]:
    """For each of N users the items of its newest live events, newest first, at most ``TOUCHED_MAX``.

    Each item once, from the newest ``TOUCHED_MAX`` events of each relation. Beside them the time of the
    newest event, [N]; 0 if there is none.
    """
    view = graph.window
    if times_ms is None:
        times_ms = np.full(len(users), now_ms(view, moment.cut), np.int64)
    touched: list[list[str]] = []
    newest_ms = np.zeros(len(users), np.int64)
    for start in range(0, len(users), USERS_AT_ONCE):
        rows = users[start : start + USERS_AT_ONCE]
        near = view.recent(USER, rows, times_ms[start : start + len(rows)], TOUCHED_MAX, moment.cut)
        newest_ms[start : start + len(rows)] = near.time_ms_BRK.max(axis=(1, 2), initial=0)
        real = np.arange(TOUCHED_MAX) < near.count_BR[:, :, None]
        user, time_ms, item = real.nonzero()[0], near.time_ms_BRK[real], near.neighbor_BRK[real]
        order = np.lexsort((-time_ms, user))
        user, item = user[order], item[order]
        _, first = np.unique(user.astype(np.uint64) << np.uint64(32) | item, return_index=True)
        first.sort()
        user, item = user[first], item[first]
        distinct, place = np.unique(item, return_inverse=True)
        names = graph.names(ITEM, distinct, moment)
        bounds = np.searchsorted(user, np.arange(len(rows) + 1)).tolist()
        places = place.tolist()
        for at, end in pairwise(bounds):
            found = (names[p] for p in places[at : min(end, at + TOUCHED_MAX)])
            touched.append([name for name in found if name is not None])
    return touched, newest_ms


def use_threads() -> None:
    """Let torch have half of the cores, the rest is ingestion's.

    A step is many small products: on two cores, two threads took 8.5 s for a fit where one took 5.4 s.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))


def device_of(wanted: str) -> str:
    """What ``model.device`` comes out as on this machine.

    Raises:
        ConfigError: It is a CUDA device that is not here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= count:
        raise ConfigError(
            f"model.device = {wanted}, but PyTorch {torch.__version__} sees {count} CUDA devices here; "
            'set it to "auto" or "cpu", or give this process the device'
        )
    return wanted
