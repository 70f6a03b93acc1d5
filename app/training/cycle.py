"""The train loop: evaluate, fit, gate, save, publish, at one moment of the graph after the other.

    HeterographView at a moment ──► [Worker.cycle] ──► GenerationStore ──► readers
                                          │ evaluate ─► fit ─► gate ─► save ─► publish ─► trends
                                                                                  └─► Refresher

The same object runs inside a replay, in lockstep with ingestion, and in the GPU worker's own process.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from driftgraph.app.console.drift_text import MOVED_USER
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.console.status_text import named
from driftgraph.app.publishing import serving_parts
from driftgraph.app.publishing.by_id import trending_by_id
from driftgraph.app.publishing.next_generation import GenerationWriter, NextGeneration, NoStages, Stages
from driftgraph.app.publishing.refresher import Refresher
from driftgraph.app.training import following, trainer_state
from driftgraph.app.training.beside import Beside
from driftgraph.app.training.drift_report import drift_by_name
from driftgraph.app.training.generation_report import GenerationReport, facts_of
from driftgraph.app.training.kept_states import KeptStates
from driftgraph.app.training.model_identity import hash_of_configuration, hash_of_weights
from driftgraph.app.training.prediction_rows import PredictionRows, predictions_by_id
from driftgraph.app.training.retraining import Answer, Request
from driftgraph.app.training.trainer_state import Facts
from driftgraph.app.training.worker_status import WorkerStatus
from driftgraph.model.heads.head_parts import HeadParts
from driftgraph.model.options import ListLengths
from driftgraph.model.score.lists import MADE_BY, FirstLists
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.generations.choice import Choice
from driftgraph.snapshots.generations.keys import NotCurrentError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.upkeep import ToDo, Upkeep
from driftgraph.stream.ingest.fit_schedule import Mark
from driftgraph.stream.time.clock import SystemClock
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import Cut

log = logging.getLogger(__name__)


class Worker:
    """Trains on a graph and publishes.

    Always true: events before ``since`` are trained on, those before ``seen`` are scored; the model version
    of ``trainer`` is what Redis serves as generation ``published``, once that is not 0, and before version 1
    lists by co-visitation and popularity are; where there are ``checkpoints``, a model is published only
    after its state was saved.
    """

    def __init__(
        self,
        graph: HeterographView,
        trainer: Trainer,
        store: GenerationStore | None,
        *,
        checkpoints: Path | None,
        status: WorkerStatus | None = None,
        lengths: ListLengths | None = None,
    ) -> None:
        self.graph = graph
        self.status = status or WorkerStatus(None, SystemClock(), NoProgress())
        self.trainer, self.store = trainer, store
        self.topic = ""  # that the events are of; of a file: none
        self.states = None if checkpoints is None else KeptStates(checkpoints, store)
        self._upkeep = None if store is None else Upkeep(store)
        self.choice = self.follows = Choice()  # the newest act of an operator that is known; that is followed
        self.published = 0  # the generation's number
        self._unstored = 0  # generations of a replay without a Redis, which an empty one would have these of
        self.answered: Answer | None = None  # to who asked for a fit last
        self.evaluated: Facts = {}  # the metrics of the evaluation before the serving model's fit
        self.model_hash = hash_of_weights(trainer.network, 0)  # as its fit left it, under whatever relations
        self.trained_to_ms = 0  # the watermark up to which the serving model is trained
        zeros = (0,) * len(graph.window.relations)
        self._nothing = self.since = self.seen = Cut(0, zeros, zeros)
        self._lengths = lengths or ListLengths()
        self.refresher = None if store is None else Refresher(graph, store, self.status.clock)
        self._writer: GenerationWriter | None = None
        if store is not None and self.refresher is not None:
            self._writer = GenerationWriter(graph, store, self.refresher, self._lengths, self.status.clock)
        self._beside = Beside(self.status.work)
        self.is_rolled_back = False  # Redis serves a generation that is not ours
        self._rests_behind = False  # Redis serves a newer model than ours
        self.unsaved: Moment | None = None  # of a fit or a loaded state that the disk has not taken yet
        self._item_names: list[str | None] = []  # by row, as of ``since``: what the candidates were called

    def wants(self, mark: Mark) -> bool:
        """Whether a fit is to be made at a mark: something is new there, and an early one is for no model."""
        if mark.is_early and self.trainer.model_version:
            return False
        return serving_parts.edges_at(self.graph, mark.cut) > serving_parts.edges_at(self.graph, self.seen)

    def cycle(
        self, moment: Moment, asked: Request | None = None
    ) -> tuple[GenerationReport, PredictionRows | None]:
        """Evaluate and train on the events up to ``moment``, and publish if the gate lets it. The order:

          1. evaluate the serving model on the events since the last cycle;
          2. fit it to them;
          3. the gate accepts the fit, or the trainer takes it back;
          4. save the trainer's state, accepted or not, with how far it is trained and the metrics;
          5. publish an accepted fit as a new generation;
          6. write the lists of what is trending, where the Faust app does not keep them.

        A crash in 1 to 4 costs the fit: the next start has the state before it, which is what Redis serves,
        and makes the fit again. After 4 nothing of the fit is lost: the next start publishes the state that
        was saved, and the lists. Until a first fit is accepted there is no state to save, and every fit
        begins from nothing on the whole window.

        Raises:
            StaleCut: The moment is too old for the ring; ask for a newer one.
            CheckpointError: The disk did not take the state, and nothing is published until it does.
            StoreError: Redis did not take the generation. The fit stands; ``publish`` may be tried again.
        """
        view, version, known = self.graph.edges, self.trainer.model_version + 1, self.choice
        evaluated = self.published if self.trainer.model_version else 0  # lists rank nothing here
        try:
            self.status.start(f"evaluating before model version {version}", span="evaluate")
            evaluation = self.trainer.evaluate(view, self.seen, moment.cut)
            predictions = predictions_by_id(
                self.graph, evaluation.predictions, evaluated, moment, self._item_names
            )
            self.status.start(f"preparing the fit of model version {version}", span="prepare")
            heads, sample = serving_parts.judged_heads(self.trainer, self.graph, self.seen, moment)
            told = self.status.steps(f"training model version {version}")
            full, lessons = asked is not None and asked.full, evaluation.lessons
            fit = self.trainer.fit(view, self.since, moment.cut, told, lessons=lessons, full=full)
            if sample is not None:
                self.trainer.heads.learn(sample)
            drift = drift_by_name(self.trainer, self.graph, self.since, moment) if fit.accepted else None
        finally:
            self.status.close()
        self._beside.wait()
        self.seen = moment.cut
        if fit.accepted or self.trainer.model_version:
            self.since, self.trained_to_ms = moment.cut, moment.cut.watermark_ms
        self._item_names = self.graph.names(
            ITEM, np.arange(len(moment.versions[ITEM]), dtype=np.uint32), moment
        )
        self.status.fitted(fit)
        self.answered = self.answered if asked is None else Answer.of(asked, fit)
        if fit.accepted:
            self.follows = max(self.follows, known, key=Choice.number)
            self.evaluated = facts_of(evaluation, drift, heads)
            self.model_hash = hash_of_weights(self.trainer.network, version)
            self.published = 0
        if self.trainer.model_version and fit.code != "no_events":
            self.unsaved = moment
            self.save_what_is_due()
        if fit.accepted:
            self.publish(self.graph.moment())
        version, ended_ms = self.trainer.model_version, moment.cut.watermark_ms
        report = GenerationReport(self.published, version, evaluated, ended_ms, evaluation, fit, drift, heads)
        return report, predictions

    def save_what_is_due(self) -> None:
        """Step 4 of a cycle, again if the disk did not take the state. Free if it did.

        Raises:
            CheckpointError: The disk does not take it.
        """
        if self.unsaved is not None:
            self._save(self.unsaved)
            self.unsaved = None

    def may_publish(self, moment: Moment) -> bool:
        """Whether there is something to serve, and Redis has neither it nor anything better.

        Better than lists is any model of our topic, and better than that one trained on newer events, as a
        standby finds it that has a data_dir of its own. Users are not refreshed in such a generation, which
        stays until our next fit: that has newer events again.

        Raises:
            StoreError: Redis does not answer.
        """
        if self.store is None or serving_parts.is_empty(self.graph, moment):
            return False
        self.go_on()
        if self.published or self.choice.act_ms > self.follows.act_ms:
            return False
        served = self.store.served()
        if served is None or serving_parts.is_stopgap(served.manifest, self.topic):
            return True
        if not self.trainer.model_version:
            return False
        if self.choice.act_ms < self.follows.act_ms:  # Redis has forgotten what an operator chose
            return True
        is_newer = int(served.manifest.get("trained_to_ms", 0)) > self.trained_to_ms
        if is_newer and not self._rests_behind:
            log.warning(
                "Redis serves generation %d, whose model was trained on newer events than ours, model "
                "version %d: it stays, and no user is refreshed, until our next fit",
                served.number,
                self.trainer.model_version,
            )
        self._rests_behind = is_newer
        return not is_newer

    def publish(self, moment: Moment) -> None:
        """Publish the serving model as of ``moment``, then the trends: steps 5 and 6 of a cycle.

        Before the first model version: lists by co-visitation and popularity. A window without users or
        items has nothing to serve: what Redis has stays.

        Raises:
            StoreError: Redis did not take it. ``published`` is 0 if nothing of it is served.
        """
        try:
            if self.trainer.model_version:
                self._publish_model(moment)
            elif self.store is not None:
                self.status.start("lists by co-visitation and popularity, until the model is trained")
                self._write(self._first(moment, self._facts(moment, None)), self.status)
            self._publish_trending(moment)
        finally:
            self.status.close()

    @contextmanager
    def first_lists_beside(self, moment: Moment) -> Iterator[None]:
        """Publish lists by co-visitation and popularity in a thread, while the block makes the first fit.

        They are served seconds later, and the fit does not wait for them. What Redis refuses is tried again
        after the fit, with a model if there is one by then.

        Raises:
            StaleWorkerError: A newer worker has taken over.
        """
        facts = self._facts(moment, None)  # the fit changes the trainer

        def publish() -> None:
            self._write(self._first(moment, facts), NoStages())
            self._publish_trending(moment)

        with self._beside.during(publish):
            yield

    def _publish_model(self, moment: Moment) -> None:
        embedding = serving_parts.embedding_at(self.trainer, self.graph, moment)
        heads = serving_parts.heads_at(self.trainer, self.graph, moment)
        if self.store is None:
            if len(embedding.user_rows) and len(embedding.item_rows):
                self._unstored += 1
                self.published = self._unstored
            return
        model, weight_F = self.trainer.served_model(), self.trainer.scorer.weight_F  # F is the shape
        items, version = (embedding.item_rows, embedding.item), self.trainer.model_version
        lists = serving_parts.lists_of(model, weight_F, self.graph, moment, items, self._lengths)
        facts, said = self._facts(moment, heads), model.cold.item_attributes
        self._write(NextGeneration(version, moment, embedding, lists, model, heads, facts, said), self.status)

    def _first(self, moment: Moment, facts: Facts) -> NextGeneration:
        first = FirstLists(self.graph.edges, moment, self.trainer.options, self._lengths)
        said = self.trainer.cold.item_attributes
        return NextGeneration(0, moment, first.embedding(), first, None, None, facts, said)

    def _write(self, made: NextGeneration, stages: Stages) -> None:
        assert self._writer is not None
        if number := self._writer.write(made, self.follows, stages, self.status.published):
            self.published, self.is_rolled_back = number, False
            self.status.serves(number, made.version, str(made.facts["made_by"]))

    def refresh(self, moment: Moment) -> int:
        """New vectors for the users touched since the last publish or refresh; returns how many.

        For a process of one thread; the live worker has a thread for it (``refresh_thread``). Only what the
        serving model made is written; ``following.follow`` says what a rollback or a promote changes.

        Raises:
            StoreError: Redis did not take them; the next refresh has them again.
        """
        if self.refresher is None or not self.published or self.is_rolled_back:
            return 0
        try:
            return self.refresher.whole(moment)
        except NotCurrentError:
            self.look(moment)
            return 0

    def look(self, moment: Moment) -> None:
        """See whether Redis still serves what was published, and write again what it has lost.

        Raises:
            StoreError: Redis does not answer, or takes no writes. ``published`` is 0 if a publish is due.
        """
        if self.store is None or self._upkeep is None or not self.published:
            return
        self.store.follows = self.follows
        self.store.delisting.restored()  # before a publish of what Redis has lost
        self.store.feast.look()
        to_do = self._upkeep.look(self.published)
        self.is_rolled_back = to_do is ToDo.REST
        if to_do in (ToDo.REST, ToDo.PUBLISH):
            self.status.serves(0, 0, "")
        if to_do is ToDo.FOLLOW:
            self.go_on()
        elif to_do is ToDo.PUBLISH:
            self.published = 0
            self.publish(moment)
        elif to_do is ToDo.WRITE_TRENDING:
            self._publish_trending(moment)

    def go_on(self) -> None:
        """Go on with what Redis serves, if it is this very model: it is not published once more.

        A start finds it so, and a worker whose publish was done though the answer was lost. All users are
        refreshed, since nobody knows up to which event they are; the next look writes the lists of rising
        items. What an operator has chosen meanwhile is followed first.

        Raises:
            StoreError: Redis does not answer.
        """
        if self.store is None:
            return
        self.choice, served = self.store.choices.newest(), self.store.served()
        if self.choice.act_ms > self.follows.act_ms:
            if not following.follow(self, self.choice, served, self.graph.moment()):
                self.published, self.is_rolled_back = 0, True
                self.status.serves(0, 0, "")
                return
            if self.published:
                return
        self.store.follows, version = self.follows, self.trainer.model_version
        own = {
            "model_hash": self.model_hash,
            "configuration": hash_of_configuration(self.trainer, self._lengths, self.graph),
        }
        if version and served and own.items() <= served.manifest.items() and self.store.take_up(served):
            log.info("Redis serves %s already; its users are refreshed", named(served.number, version))
            assert self.refresher is not None
            self.published, self.is_rolled_back = served.number, False
            self.refresher.serve(
                serving_parts.refresh_again(
                    served.number, served.manifest, self.trainer, self.graph, self._lengths, self._nothing
                )
            )
            self.status.serves(served.number, version, served.manifest.get("made_by", ""))

    def erase(self, users: Sequence[str]) -> None:
        """Remove users whom the window has forgotten from all generations and checkpoints.

        One who is back already is a new user, and has a vector again with the next refresh.

        Raises:
            StoreError: Redis did not do it.
        """
        if self.store is not None and self.refresher is not None:
            store = self.store
            self.refresher.erase(users, lambda: store.erase(users))
        gone = {f"{MOVED_USER}{user}" for user in users}
        self.evaluated = {name: fact for name, fact in self.evaluated.items() if name not in gone}
        if self.states:
            self._save(self.graph.moment(), users)

    def _save(self, moment: Moment, erased: Sequence[str] = ()) -> None:
        """The trainer's state, with who had the rows at ``moment``; in a replay nobody keeps it."""
        if self.states is None:
            return
        files, facts = trainer_state.save(self.trainer, self.graph, moment, self.since, self.seen)
        facts |= {"model_hash": self.model_hash, "trained_to_ms": self.trained_to_ms, **self.evaluated}
        facts |= following.facts_of(self.follows)
        facts |= {} if self.answered is None else {"answered": self.answered.json()}
        self.states.write(files, facts, erased)

    def _facts(self, moment: Moment, heads: HeadParts | None) -> Facts:
        """Of a generation of the serving model, for its manifest."""
        names = (relation.name for relation in self.graph.window.relations)
        return {
            "made_by": "model" if self.trainer.model_version else MADE_BY,
            **{name: int(value) for name, value in asdict(self._lengths).items()},
            "model_version": self.trainer.model_version,
            "model_hash": self.model_hash,
            "configuration": hash_of_configuration(self.trainer, self._lengths, self.graph),
            "topic": self.topic,
            "trained_to_ms": self.trained_to_ms,
            "watermark_ms": moment.cut.watermark_ms,
            "cut": json.dumps(dict(zip(names, moment.cut.next, strict=True))),
            "weights": json.dumps(self.trainer.scorer.readable()),
            **serving_parts.facts_of_heads(heads),
            **self.evaluated,
        }

    def _publish_trending(self, moment: Moment) -> None:
        """Recent popularity by relation, the answer for users nobody knows, unless the Faust app keeps it."""
        if self.store is None or serving_parts.is_empty(self.graph, moment):  # what Redis has stays
            return
        if not self.store.trending.replace(trending_by_id(self.graph, moment)):
            log.info("the Faust app keeps the lists of rising items, and the worker leaves them alone")
