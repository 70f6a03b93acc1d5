"""What a generation is made of beside its lists: the vectors of all live nodes, and the heads.

Trainer, graph at a moment ──► [embedding_at, heads_at] ──► Worker.publish ──► by_id ──► Redis
                                 [renewed] ──► Worker.refresh ──┘
                            [judged_heads] ──► Worker.cycle ──► GenerationReport
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from driftgraph.model.heads.head_evaluation import HeadEvaluation, evaluate_heads
from driftgraph.model.heads.head_parts import HeadParts, ServedHeads
from driftgraph.model.heads.heads import Sample
from driftgraph.model.network.embed import Embedding, Encoder, newest_events
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.score.lists import popularity_users
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.head_scores import HEAD
from driftgraph.stream.arrays import F32, I64, U32
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import Cut, StaleCut, WindowView

HEAD_STATE = "head_state"  # the field of a manifest that tells a later worker how the heads were

log = logging.getLogger(__name__)


def is_empty(graph: HeterographView, moment: Moment) -> bool:
    """Whether the graph has no edge, so that there is nothing to serve."""
    edges = len(graph.edges.relations)
    return moment.cut.next[:edges] == moment.cut.first[:edges]


def edges_at(graph: HeterographView, cut: Cut) -> int:
    """How many edges had ever arrived at a cut."""
    return sum(cut.next[: len(graph.edges.relations)])


def embedding_at(trainer: Trainer, graph: HeterographView, moment: Moment) -> Embedding:
    """Every live node by the serving model. A user is as of its newest event, if that is ahead of the
    cut's now: the watermark waits for slow partitions, and what a user just did must not.
    """
    view = graph.edges
    embedding = trainer.embed(view, moment.cut)
    ahead = embedding.user_event_ms >= now_ms(view, moment.cut)
    vectors = embedding.user.copy()
    vectors[ahead] = trainer.embed_users(
        view, embedding.user_rows[ahead], moment.cut, embedding.user_event_ms[ahead] + 1
    )
    return replace(embedding, user=vectors)


def users_due(
    trainer: Trainer, graph: HeterographView, moment: Moment, since: Cut, cold_then: U32
) -> tuple[U32, I64]:
    """Rows of the users whom a refresh has, and the time of the newest event of each.

    These are the users touched since a cut and, with time 0, those without an event who have a row for their
    attributes now. ``cold_then`` are the versions of the rows whose users of this kind are served already.
    """
    events = graph.edges.events(moment.cut, since)
    rows, newest_ms = newest_events(events.user, events.time_ms)
    if not trainer.model_version:
        return rows, newest_ms
    versions = moment.versions[USER]
    cold = trainer.cold.without_events(USER, versions, rows, now_ms(graph.edges, moment.cut))
    then = np.zeros(len(versions), np.uint32)
    then[: len(cold_then)] = cold_then[: len(versions)]
    cold = cold[then[cold] != versions[cold]]
    return np.append(rows, cold), np.append(newest_ms, np.zeros(len(cold), np.int64))


def user_vectors(trainer: Trainer, view: WindowView, rows: U32, cut: Cut, times_ms: I64) -> F32:
    """[n, D] of users strictly before their times, by what is served."""
    if not trainer.model_version:
        return popularity_users(len(rows), trainer.options.dim)
    return trainer.embed_users(view, rows, cut, times_ms)


def heads_at(trainer: Trainer, graph: HeterographView, moment: Moment) -> HeadParts | None:
    """The served heads; None before model version 1, and where no impressions are named."""
    if graph.edges is graph.window or not trainer.model_version:
        return None
    attribution_ms, time_ms = trainer.options.attribution_ms, now_ms(graph.edges, moment.cut)
    return HeadParts(trainer.heads, graph.window, moment.cut, time_ms, attribution_ms=attribution_ms)


def facts_of_heads(heads: HeadParts | None) -> dict[str, str]:
    """What the manifest of a generation says of its heads: to readers, and to a later worker."""
    return {} if heads is None else {HEAD: json.dumps(heads.manifest()), HEAD_STATE: heads.state()}


def heads_of(trainer: Trainer, graph: HeterographView, manifest: Mapping[str, str]) -> ServedHeads | None:
    """The heads of a generation that an earlier process published."""
    if graph.edges is graph.window or HEAD_STATE not in manifest:
        return None
    attribution_ms = trainer.options.attribution_ms
    return ServedHeads.of_state(manifest[HEAD_STATE], trainer.heads.relations, attribution_ms=attribution_ms)


def judged_heads(
    trainer: Trainer, graph: HeterographView, since: Cut, moment: Moment
) -> tuple[HeadEvaluation | None, Sample | None]:
    """The heads' metrics on the impressions of [since, moment), and what they can learn from these.

    None before model version 1. A fit does not wait for impressions: if these have left their ring, it is
    made without the heads.
    """
    if trainer.serving is None or graph.window is graph.edges:
        return None, None
    encoder = Encoder(trainer.network, trainer.table, graph.edges, moment.cut, trainer.cold)
    try:
        return evaluate_heads(
            trainer.heads, graph.window, since, moment.cut, encoder=encoder, serving=trainer.serving
        )
    except StaleCut as error:
        log.warning("the heads learn nothing of this interval: %s; window.capacity may be too small", error)
        return None, None


def renewed(
    heads: ServedHeads | None, graph: HeterographView, rows: U32, times_ms: I64, moment: Moment
) -> F32 | None:
    """[n, B] the numbers of users at a later moment, strictly before their times; None without heads."""
    return None if heads is None else heads.users_later(graph.window, rows, times_ms, moment.cut)
