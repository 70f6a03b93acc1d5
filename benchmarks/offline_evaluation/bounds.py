"""What the quality benchmark asks of the product, and which of it holds.

figures of quality.py ──► [bounds] ──► Required …, and why a figure could not be measured
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.offline_evaluation.figures import OURS
from benchmarks.report import Figures, Required, at_least, at_most

RECALL, NDCG = "recall_at_20", "ndcg_at_20"
# Recall@20 of the served dot product before the list was learned as a whole, on 2026-11-28 by this benchmark;
# taobao_9d by the product's own evaluation of the second half
DOT_PRODUCT_BEFORE = {"taobao_9d": 0.0283, "kuairand": 0.1113, "tmall2013": 0.0560}
CO_VISITATION_JUDGED = 0.0356  # by an independent judge, on taobao_9d
POPULARITY_JUDGED = 0.0966  # on kuairand
TMALL_RECALL = 0.075


def bounds(figures: Figures) -> list[Required]:
    """Every bound that is asked on this data; one that was not measured does not hold."""
    name = figures["dataset"]
    explore, repeats = figures["explore"]["event"], figures["repeats"]["event"]
    ours = _value(explore, OURS, RECALL)
    whole = _value(figures["product"]["whole"], "explore", RECALL)  # against what was measured elsewhere
    peers = {peer: values[RECALL] for peer, values in explore.items() if peer != OURS}
    best = max(peers, key=lambda peer: peers[peer])
    found: list[Required] = []
    first = f"{name}, first contacts, Recall@20"
    if name == "taobao_9d":
        rival = max(peers["co_visitation"], CO_VISITATION_JUDGED)
        found.append(at_least(f"{first}: 1.3 times co-visitation", ours, 1.3 * rival))
        found += [at_least(f"{first}: above {p}", ours, peers[p]) for p in ("ease", "ials", "session_knn")]
    elif name == "kuairand":
        rival = max(peers["popularity"], POPULARITY_JUDGED)
        found.append(at_least(f"{first}: 1.2 times popularity", ours, 1.2 * rival))
        found.append(at_least(f"{first}: above the best peer, {best}", ours, peers[best]))
    elif name == "tmall2013":
        found.append(at_least(first, whole, TMALL_RECALL))
        found.append(at_least(f"{first}: the best peer, {best}, and 5 %", ours, 1.05 * peers[best]))
        found += _all_targets(name, repeats)
    else:
        found.append(at_least(f"{first}: above the best peer, {best}", ours, peers[best]))
    if name in DOT_PRODUCT_BEFORE:
        times = 1.6 if name == "taobao_9d" else 1.1
        found.append(
            at_least(
                f"{first}: {times} times the dot product of before", whole, times * DOT_PRODUCT_BEFORE[name]
            )
        )
    return [*found, *_of_the_product(figures)]


def _all_targets(name: str, repeats: Mapping[str, Any]) -> list[Required]:
    peers = {peer: values[NDCG] for peer, values in repeats.items() if peer != OURS}
    best = max(peers, key=lambda peer: peers[peer])
    about = f"{name}, all targets, NDCG@20"
    interval = repeats[best].get(f"{NDCG}_behind_95")
    return [
        at_least(f"{about}: the best peer, {best}, and 5 %", _value(repeats, OURS, NDCG), 1.05 * peers[best]),
        at_least(f"{about}: lower end of ours − {best}", interval[0] if interval else None, 0),
    ]


def _of_the_product(figures: Figures) -> list[Required]:
    """Live against frozen, incremental against anew, stability, drift."""
    parts = figures["product"]["parts"]["explore"]
    live, frozen = (_value(parts, scorer, RECALL) for scorer in ("model", "frozen_first"))
    found = [at_least("live / frozen first, Recall@20", _ratio(live, frozen), 1.15)]
    anew = figures["product"].get("retrained")
    if anew is not None:
        found.append(
            at_least(
                "incremental / full retrain, NDCG@20", _ratio(anew["incremental_ndcg"], anew["ndcg"]), 0.98
            )
        )
        found.append(
            at_most(
                "CPU seconds of a fit / of a full retrain",
                _ratio(anew["incremental_cpu_s"], anew["cpu_s"]),
                1 / 20,
            )
        )
    stability = figures["product"]["stability"]
    found.append(at_least("stability: item cosine over a fit", stability["item_cosine"], 0.98))
    found.append(at_least("stability: top-20 overlap over a fit", stability["overlap"], 0.90))
    found.append(at_most("forgetting", stability["forgetting"], 0.01))
    if figures.get("drift") is not None:
        found.append(at_least("planted drift: regained after 3 fits", figures["drift"]["regained"], 0.9))
    return found


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _value(figures: Mapping[str, Any], scorer: str, metric: str) -> float | None:
    row = figures.get(scorer)
    return None if row is None else float(row[metric])
