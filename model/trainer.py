"""The incremental trainer: fine-tunes on what happened between two cuts, or leaves everything as it was.

    WindowView at two cuts ──► evaluate (serving model) ──► fit ──► gate ──► Embedding ──► publish

It works on rows of the window and never sees an external id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from driftgraph.model.attributes.cold_start import ColdStart
from driftgraph.model.evaluation.drift import Elders, item_cosine, stability_of
from driftgraph.model.evaluation.evaluate import Evaluation, evaluate, held_out_lessons
from driftgraph.model.examples.examples import Batch, Plan
from driftgraph.model.fitting import beginning, saved_state
from driftgraph.model.fitting.beginning import RATE, Begin, Behind, gently, is_full_due
from driftgraph.model.fitting.fit_report import FitReport, OnStep, Stability, mean_of, no_fit, steps_of
from driftgraph.model.fitting.gate import NORMS_KEPT, Losses, judge, judge_full, median_norm
from driftgraph.model.fitting.published import Published
from driftgraph.model.fitting.weights import Trained, Weights, trained
from driftgraph.model.heads.heads import Heads
from driftgraph.model.network.embed import Embedding, Encoder, embed
from driftgraph.model.network.inputs import Inputs, best_popularity_losses, inputs_of
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.network.served_model import ServedModel
from driftgraph.model.options import SIZES, STATE_FORMAT, TrainerOptions
from driftgraph.model.score.scorer import Lessons, Scorer
from driftgraph.model.score.without_events import with_cold
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.attributes.attributes import AttributesView
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, Relation, WindowView

__all__ = ["Embedding", "Evaluation", "FitReport", "OnStep", "Trainer", "TrainerOptions"]


class Trainer:
    """The serving model with what it goes on with: its weights, its scorer and what it published.

    Always true outside ``fit``: the weights are those of ``model_version``; ``serving`` holds the item
    vectors it published, ``first`` all vectors of model version 1; nothing depends on the wall clock, on the
    process's age or on chance other than (seed, fit number).
    """

    def __init__(
        self,
        relations: Sequence[str],
        spans_ms: Sequence[int],
        options: TrainerOptions,
        attributes: AttributesView | None = None,
    ) -> None:
        if not relations or len(relations) != len(spans_ms):
            raise ValueError(f"need one span for each relation, got {len(relations)} and {len(spans_ms)}")
        options.check_relations(relations)
        self.relations = tuple(Relation(n, s) for n, s in zip(relations, spans_ms, strict=True))
        self.options, self.cold = options, ColdStart(attributes)
        self.weights = Weights(list(relations), options)
        self.network, self.table = self.weights.network, self.weights.table
        self.scaler = self.weights.scaler
        self.model_version = 0  # fits that the gate accepted
        self.fit_count = 0
        self.behind = Behind()
        self.begun_ms = 0  # event time of the newest fit that began, or tried to begin, in closed form
        self.norms: list[tuple[float, float]] = []
        self.scorer = Scorer()
        self.heads = Heads(relations)
        self.serving: Published | None = None
        self.first: Published | None = None
        self.before: Published | None = None  # the items of the version before ``serving``
        self._elders = Elders()
        self._latest: tuple[Cut, int, Embedding] | None = None
        weights = [options.behavior_weights.get(name, 1.0) for name in relations]
        self._behavior_weight_R = torch.tensor(weights, device=self.weights.device)

    def evaluate(
        self, view: WindowView, since: Cut, cut: Cut, *, evaluations_max: int | None = None
    ) -> Evaluation:
        """Score the serving model, the baselines and older generations on the events of [since, cut).

        Changes no weight. Call it before ``fit`` of the same cuts: nothing scored may have been trained on.
        """
        self._check(view)
        self.table.adopt(view.row_versions(ITEM))
        found, scored = evaluate(
            view, since, cut,
            encoder=self._encoder(view, cut), scorer=self.scorer,
            model_version=self.model_version, serving=self.serving, first=self.first,
            evaluations_max=evaluations_max or self.options.evaluations_max,
        )  # fmt: skip
        self.behind = self.behind.after(found.metrics, found.event_count, cut)
        return replace(found, staleness=self._elders.curve(scored, view, self.options.top))

    def fit(
        self,
        view: WindowView,
        since: Cut,
        cut: Cut,
        on_step: OnStep | None = None,
        *,
        lessons: Lessons | None = None,
        full: bool = False,
    ) -> FitReport:
        """Fine-tune on the events of [since, cut) and a replay sample of older ones.

        An attempt that the gate refuses is made again from where it began, with the next of ``RATES``. The
        first attempt begins anew, in closed form on the whole window, where that ranked better too often
        (``Behind``). It is a full retrain with ``full``, and where the cut is behind a multiple of
        ``full_every_ms`` and the newest full retrain was not: item rows are drawn towards the closed form,
        and the items stay near to those of before. Without new events it trains on the whole window.

        Args:
            since: The new events arrived at or after this cut,
            cut: and before this one.
            on_step: Told after each step, for whoever waits.
            lessons: What the evaluation of the same cuts found for the scorer to learn.

        Raises:
            StaleCut: The window overwrote events of the cut meanwhile; nothing has moved, take a newer cut.
        """
        refused: list[str] = []
        is_full = full or is_full_due(cut, self.begun_ms, self.options)
        todo = beginning.attempts(self.behind, is_first=self.model_version == 0, is_full=is_full)
        while True:
            (rate, begin), told = todo[len(refused)], steps_of(on_step, len(refused) + 1)
            report = self._attempt(view, since, cut, lessons, rate=rate, begin=begin, on_step=told)
            if begin != "served" and report.code != "no_events":
                self.begun_ms = cut.watermark_ms
                self.behind = Behind() if begin == "anew" else self.behind
            if not report.accepted and report.code != "no_events":
                refused.append(report.reason)
            if report.accepted or report.code == "no_events" or len(refused) == len(todo):
                return replace(report, refused=tuple(refused))

    def _attempt(
        self,
        view: WindowView,
        since: Cut,
        cut: Cut,
        lessons: Lessons | None,
        *,
        rate: float,
        begin: Begin,
        on_step: Callable[[int, int], None],
    ) -> FitReport:
        """One attempt, with ``rate`` times the learning rates. The order:

          1. plan examples, candidates and holdouts; losses of the gate's rival on the holdouts;
          2. remember weights and optimizer;
          3. a step for each batch;
          4. embed every live node with the candidate;
          5. the gate: accept (the next model version; the embedding serves) or give back what 2 remembered.

        Nothing to train on is no fit: a report with code ``no_events``, and nothing moved.
        """
        self._check(view)
        self.table.adopt(view.row_versions(ITEM))
        rng, is_first = np.random.default_rng((self.options.seed, self.fit_count)), self.model_version == 0
        listed = None if lessons is None else lessons.listed
        plan = (view, since, cut, begin, self.options, rng)
        todo, is_whole = beginning.plan_of(*plan, is_first=is_first, listed=listed)
        if todo.new_count == 0:
            self.fit_count += 1
            return no_fit(self.model_version)
        holdouts = (("new", todo.held_new), ("old", todo.held_old))
        rivals = self._popularity_loss if is_first else self._holdout_loss
        rival = [rivals(view, cut, held) for _, held in holdouts]

        self.weights.begin()
        held_losses: list[Losses] = []
        candidate, moved, accepted, stability = None, 0, False, None
        try:
            beginning.start(self.weights, begin, view.events(cut), is_first=is_first)
            done = (self._gently if is_whole else self._train)(view, cut, todo, rate, on_step)
            verdict = done.verdict
            if verdict.accepted:
                candidate = embed(self._encoder(view, cut))
                for (name, held), theirs in zip(holdouts, rival, strict=True):
                    held_losses.append(Losses(name, theirs, self._holdout_loss(view, cut, held), is_first))
                verdict = judge(candidate, norms=self.norms, losses=held_losses, options=self.options)
                if verdict.accepted and begin == "drawn" and self.serving is not None:
                    now = Published.of(candidate, (view.row_versions(USER), self.table.version))
                    verdict = judge_full(item_cosine(self.serving, now), held_losses)
            if verdict.accepted and candidate is not None:
                stability = self._accept(view, candidate, cut, lessons, held_losses[1])
                moved, accepted = self.weights.commit(), True
        finally:
            if not accepted:
                self.weights.rollback()
        self.fit_count += 1
        return FitReport(
            model_version=self.model_version,
            accepted=verdict.accepted,
            code=verdict.code,
            reason=self.network.blamed(verdict.reason),
            steps=done.steps,
            skipped=done.skipped,
            loss=done.loss,
            new_examples=todo.new_count,
            replayed_examples=todo.replay_count,
            rows_moved=moved,
            holdout={held.name: (mean_of(held.rival), mean_of(held.candidate)) for held in held_losses},
            stability=stability,
        )

    def embed(self, view: WindowView, cut: Cut) -> Embedding:
        """Vectors of all live nodes at the cut, and of those of catalogs, by the serving model."""
        self._check(view)
        if self._latest is not None and self._latest[:2] == (cut, self.model_version):
            return self._latest[2]
        self.table.adopt(view.row_versions(ITEM))
        return with_cold(self._encoder(view, cut))

    def embed_users(self, view: WindowView, rows: U32, cut: Cut, times_ms: I64 | None = None) -> F32:
        """[n, D] of these users at the cut by the serving model; see ``ServedModel.users``."""
        self._check(view)
        return ServedModel(self.network, self.table, self.cold).users(view, rows, cut, times_ms)

    def new_items(self, view: WindowView, rows: U32, cut: Cut, time_ms: int) -> F32:
        """[n, D] of items that no fit has had, as of a time; see ``Encoder.new_items``."""
        return ServedModel(self.network, self.table, self.cold).new_items(view, rows, cut, time_ms)

    def served_model(self) -> ServedModel:
        """A copy of the weights of now, for a thread that refreshes while this one fits. O(weights)."""
        return ServedModel(self.weights.network_copied(), self.table.copied(), self.cold)

    def served_items(self, versions: U32) -> tuple[U32, F32]:
        """Rows and vectors of the items that the serving model published, of the same owners still."""
        assert self.serving is not None
        rows = self.serving.item_rows
        known = rows < len(versions)
        known[known] = versions[rows[known]] == self.serving.item_version[known]
        return rows[known].astype(np.uint32), self.serving.item[known]

    def relation_importance(self) -> dict[str, dict[str, float]]:
        """The learned share of each relation where a user (an item) has all of them; sums to 1."""
        names, found = [r.name for r in self.relations], self.network.importance()
        return {side: dict(zip(names, shares, strict=True)) for side, shares in found.items()}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Everything a resumed trainer needs: flat tensors (for safetensors) and a JSON-able rest."""
        parts: dict[str, Mapping[str, Tensor]] = {**self.weights.state_dict()}
        parts["scorer"] = {name: torch.from_numpy(v) for name, v in self.scorer.state_dict().items()}
        heads, of_heads = self.heads.state_dict()
        parts["answer_heads"] = {name: torch.from_numpy(value) for name, value in heads.items()}
        for name, published in (("serving", self.serving), ("first", self.first)):
            if published is not None:
                parts[name] = published.state_dict()
        parts |= self.cold.state_dict()
        meta: dict[str, object] = {
            "format": STATE_FORMAT,
            "attributes": self.cold.fields(),
            "relations": [r.name for r in self.relations],
            **{name: getattr(self.options, name) for name in ("custom", "backend", *SIZES)},
            "model_version": self.model_version,
            "fit_count": self.fit_count,
            "behind": self.behind.times,
            "begun_ms": self.begun_ms,
            "norms": [list(pair) for pair in self.norms],
            "scaler": dict(self.scaler.state_dict()),
            "fallback": self.scorer.fallback,
            "answer_heads": of_heads,
        }
        return saved_state.flat(parts), meta

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> None:
        """Continue where the state was saved; bit for bit on a CPU.

        Relations are matched by name: in another order they mean the same, a new one starts untrained, and
        one that is gone goes.

        Raises:
            ValueError: The state is of another format, or of another network or one of other sizes.
        """
        saved_state.check(meta, self.options, [r.name for r in self.relations])
        parts = saved_state.parts_of(tensors)
        places = saved_state.places(saved_state.names_of(meta), [r.name for r in self.relations])
        self.weights.load_state_dict(parts, places)
        self.serving, self.first = (
            Published.of_state(parts[name]) if name in parts else None for name in ("serving", "first")
        )
        self.model_version, self.fit_count, behind = (
            saved_state.integer(meta, name) for name in ("model_version", "fit_count", "behind")
        )
        self.behind = Behind(behind)
        self.begun_ms = saved_state.integer({"begun_ms": 0, **meta}, "begun_ms")  # 0: an older state
        saved_norms = meta["norms"]
        assert isinstance(saved_norms, list)
        self.norms = [(float(a), float(b)) for a, b in saved_norms]
        scaler = meta["scaler"]
        assert isinstance(scaler, dict)
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.scorer.load_state_dict(saved_state.arrays(parts, "scorer"), str(meta["fallback"]))
        self.heads.load_state_dict(saved_state.arrays(parts, "answer_heads"), meta.get("answer_heads"))
        self.cold = self.cold.of_state(parts, meta["attributes"])
        self.before, self._elders, self._latest = None, Elders(), None

    def _gently(
        self, view: WindowView, cut: Cut, todo: Plan, rate: float, on_step: Callable[[int, int], None]
    ) -> Trained:
        """The gentle training on the whole window, as far as it makes the holdouts better."""
        held, taken = (*todo.held_new, *todo.held_old), 0

        def train(batches: Sequence[Batch]) -> Trained:
            nonlocal taken
            before, taken = taken, taken + len(batches)
            part = replace(todo, batches=tuple(batches))
            return self._train(
                view, cut, part, RATE * rate, lambda done, _: on_step(before + done, len(todo.batches))
            )

        losses = self._holdout_loss
        return gently(todo.batches, train, lambda: mean_of(losses(view, cut, held)), self.weights.keep)

    def _train(
        self, view: WindowView, cut: Cut, todo: Plan, rate: float, on_step: Callable[[int, int], None]
    ) -> Trained:
        """One step for each batch; stops when too many in a row were not finite."""
        ahead = self._ahead(view, cut, todo.batches)
        values = (self._step(inputs, n, rate) for n, inputs in enumerate(ahead))
        return trained(values, len(todo.batches), self.options.skipped_in_a_row_max, on_step)

    def _ahead(self, view: WindowView, cut: Cut, batches: Sequence[Batch]) -> Iterator[Inputs]:
        """The inputs of each batch, sampled on another thread while the batch before is trained."""
        with ThreadPoolExecutor(1, thread_name_prefix="sample") as pool:
            coming = pool.submit(self._inputs, view, cut, batches[0])
            for batch in batches[1:]:
                inputs, coming = coming.result(), pool.submit(self._inputs, view, cut, batch)
                yield inputs
            yield coming.result()

    def _step(self, inputs: Inputs, number: int, rate: float) -> float | None:
        """One step at ``rate`` times the learning rates; its loss, or None if it was skipped."""
        options = self.options
        chance = torch.Generator().manual_seed((options.seed << 40) + (self.fit_count << 20) + number)
        return self.weights.step(
            inputs,
            learning_rate=rate * options.learning_rate,
            network_learning_rate=rate * options.network_learning_rate,
            chance=chance,
        )

    def _inputs(self, view: WindowView, cut: Cut, batch: Batch) -> Inputs:
        return inputs_of(view, cut, batch, self.network, self._behavior_weight_R, self.table.rows)

    def _holdout_loss(self, view: WindowView, cut: Cut, held: Sequence[Batch]) -> F64:
        """Loss of each held-out example, by the weights of this moment."""
        return self.weights.losses(self._inputs(view, cut, batch) for batch in held)

    def _popularity_loss(self, view: WindowView, cut: Cut, held: Sequence[Batch]) -> F64:
        """Loss of each held-out example if popularity alone ranked, by the half-life that does better."""
        return best_popularity_losses([self._inputs(view, cut, batch) for batch in held])

    def _accept(
        self, view: WindowView, candidate: Embedding, cut: Cut, lessons: Lessons | None, held_old: Losses
    ) -> Stability | None:
        """The candidate is the next model version, and the scorer learns: a first one of its holdout."""
        is_first, versions = self.model_version == 0, (view.row_versions(USER), self.table.version)
        published = Published.of(candidate, versions)
        if is_first:
            encoder = self._encoder(view, cut)
            lessons = held_out_lessons(view, cut, encoder, self.scorer, published)
        self.model_version += 1
        self.norms = [*self.norms, (median_norm(candidate.user), median_norm(candidate.item))][-NORMS_KEPT:]
        self._elders.keep(published)
        self.first = published if is_first else self.first
        self.cold = self.cold.learned(candidate, now_ms(view, cut))
        served = with_cold(self._encoder(view, cut), candidate)
        versions = (view.row_versions(USER), self.table.version)
        self.before, self.serving = self.serving, Published.of(served, versions).without_users()
        self._latest = (cut, self.model_version, served)
        if lessons is not None:
            self.scorer.learn(lessons)
        old = (mean_of(held_old.rival), mean_of(held_old.candidate))
        return stability_of(self.before, published, held_old=old, top=self.options.top)

    def _encoder(self, view: WindowView, cut: Cut) -> Encoder:
        return Encoder(self.network, self.table, view, cut, self.cold)

    def _check(self, view: WindowView) -> None:
        saved_state.check_relations([r.name for r in view.relations], [r.name for r in self.relations])
