"""What a generation is made of: the vectors of all live nodes, the maker of its lists, and the heads.

Trainer, graph at a moment ──► [embedding_at, lists_of, heads_at] ──► Worker.publish ──► by_id ──► Redis
                               [refresh_of, refresh_again] ──► Refresher ──┘
                            [judged_heads] ──► Worker.cycle ──► GenerationReport
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from driftgraph.app.publishing.refresher import GenerationRefresh, Serving
from driftgraph.app.publishing.served_items import ServedItems
from driftgraph.model.heads.head_evaluation import HeadEvaluation, evaluate_heads
from driftgraph.model.heads.head_parts import HeadParts, ServedHeads
from driftgraph.model.heads.heads import Sample
from driftgraph.model.network.embed import Embedding, Encoder
from driftgraph.model.network.neighbors import now_ms
from driftgraph.model.network.served_model import ServedModel
from driftgraph.model.options import ListLengths
from driftgraph.model.score.lists import MADE_BY, ListMaker
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.model.trainer import Trainer
from driftgraph.snapshots.head_scores import HEAD
from driftgraph.stream.arrays import F32, F64, U32
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import Cut, StaleCut

HEAD_STATE = "head_state"  # the field of a manifest that tells a later worker how the heads were

log = logging.getLogger(__name__)


def is_empty(graph: HeterographView, moment: Moment) -> bool:
    """Whether the graph has no edge, so that there is nothing to serve."""
    edges = len(graph.edges.relations)
    return moment.cut.next[:edges] == moment.cut.first[:edges]


def edges_at(graph: HeterographView, cut: Cut) -> int:
    """How many edges had ever arrived at a cut."""
    return sum(cut.next[: len(graph.edges.relations)])


def is_stopgap(manifest: Mapping[str, str], topic: str) -> bool:
    """Whether anything of ours is better than this generation: it is of no model, or of another topic.

    A namespace that went over to another topic has another shop's items until then.
    """
    theirs = manifest.get("topic")
    return manifest.get("made_by") == MADE_BY or bool(topic and theirs and theirs != topic)


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


def lists_of(
    model: ServedModel,
    weight_F: F64,  # F is the shape
    graph: HeterographView,
    moment: Moment,
    items: tuple[U32, F32],
    lengths: ListLengths,
) -> ListMaker:
    """What makes the lists that are published with these items, and those of each refresh."""
    own = model.cold.item_attributes
    return ScoredLists(
        graph.edges, moment, items, weight_F, lengths, partial(model.new_items, graph.edges), own
    )


def refresh_of(
    number: int,
    model: ServedModel | None,
    heads: ServedHeads | None,
    lists: ListMaker,
    graph: HeterographView,
    moment: Moment,
    embedding: Embedding,
    lengths: ListLengths,
) -> GenerationRefresh:
    """What refreshes a generation that is published with these parts."""
    items = ServedItems(
        embedding.item_rows, embedding.item, embedding.item_event_ms > 0, moment.versions[ITEM]
    )
    made = (lambda _: lists) if lengths.lists or lengths.similar else None
    dim = embedding.user.shape[1]
    serving = Serving(number, dim, model, heads, made, moment.cut, moment.versions[USER], items)
    return GenerationRefresh(serving, graph, lengths)


def refresh_again(
    number: int,
    manifest: Mapping[str, str],
    trainer: Trainer,
    graph: HeterographView,
    lengths: ListLengths,
    nothing: Cut,
) -> GenerationRefresh:
    """What refreshes a generation of this very model that an earlier process published: everybody in it."""
    model, versions = trainer.served_model(), graph.moment().versions
    rows, vectors = trainer.served_items(versions[ITEM])
    items = ServedItems(rows, vectors, np.ones(len(rows), np.bool_), versions[ITEM])
    weight_F, made = trainer.scorer.weight_F.copy(), None  # F is the shape
    if lengths.lists or lengths.similar:
        made = partial(lists_of, model, weight_F, graph, items=(rows, vectors), lengths=lengths)
    heads = heads_of(trainer, graph, manifest)
    none = versions[USER][:0]
    serving = Serving(number, trainer.options.dim, model, heads, made, nothing, none, items)
    return GenerationRefresh(serving, graph, lengths)


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
