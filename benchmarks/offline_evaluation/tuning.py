"""Tuning and scoring of the peers: the same number of settings for each, the same targets for all.

Stream ──► tuning span ──► [tune] ──► a choice for each peer and set ──► [score_peers] ──► ranks
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.offline_evaluation.peers.recommenders import PEERS, Prepared, Settings
from benchmarks.offline_evaluation.prequential import (
    CLOCKS,
    SETS,
    Judge,
    Ranks,
    Stream,
    Targets,
    draw_targets,
    metrics_of,
)
from benchmarks.report import Figures

TUNING_BEGINS, SCORING_BEGINS = 0.38, 0.5  # of the span


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Spans:
    """Where tuning and scoring begin, and behind the last event."""

    tuning_ms: int
    scoring_ms: int
    end_ms: int

    @classmethod
    def of(cls, stream: Stream) -> Spans:
        """By the shares of the span."""
        first, last = int(stream.time_ms[0]), int(stream.time_ms[-1])
        tuning, scoring = (round(share * (last - first)) for share in (TUNING_BEGINS, SCORING_BEGINS))
        return cls(first + tuning, first + scoring, last + 1)


Choice = dict[str, dict[str, Settings]]  # by set and peer


def kept_tuning(path: Path, stream: Stream, spans: Spans, most: int, seed: int) -> tuple[Choice, Figures]:
    """As ``tune``, or what an earlier run has left in a file, which knows nothing of the product."""
    if not path.is_file():
        path.write_text(json.dumps(tune(stream, spans, most, seed)[1]), encoding="utf-8")
    tried = json.loads(path.read_text(encoding="utf-8"))
    chosen = {
        name: {
            peer: kind.settings[int(np.argmax(list(tried[peer][name].values())))]
            for peer, kind in PEERS.items()
        }
        for name in SETS
    }
    return chosen, tried


def tune(stream: Stream, spans: Spans, most: int, seed: int) -> tuple[Choice, Figures]:
    """Each peer's best settings by NDCG@20 on the tuning span, which is one window; and every figure."""
    length_ms = spans.scoring_ms - spans.tuning_ms
    drawn = draw_targets(stream, spans.tuning_ms, spans.scoring_ms, every_ms=length_ms, most=most, seed=seed)
    targets = drawn.in_one_window(spans.tuning_ms)
    judge, data = Judge(stream, targets), Prepared(stream, seed)
    chosen: Choice = {name: {} for name in SETS}
    tried: Figures = {}
    for peer, kind in PEERS.items():
        begun = time.process_time()
        scores: dict[str, list[float]] = {name: [] for name in SETS}
        for settings in kind.settings:
            for name in SETS:
                if len(kind.settings) == 1:
                    scores[name].append(0.0)
                    continue
                ranks = judge.no_ranks((name,))
                judge.rank(
                    kind.make(data, settings, chosen[name]),
                    spans.tuning_ms,
                    slice(0, len(targets)),
                    ranks,
                    ("event",),
                )
                found = ranks["event"][name]
                scores[name].append(metrics_of(found[~np.isnan(found)])["ndcg_at_20"])
        for name in SETS:
            chosen[name][peer] = kind.settings[int(np.argmax(scores[name]))]
        tried[peer] = {name: dict(zip(map(str, kind.settings), scores[name], strict=True)) for name in SETS}
        say(f"tuned {peer} in {time.process_time() - begun:.0f} s: {chosen['explore'][peer]}")
    return chosen, tried


@dataclass(slots=True)
class Scored:
    """What a peer made of the scored span."""

    ranks: dict[str, Ranks]  # by clock and set
    seconds: float = 0.0


def score_peers(data: Prepared, targets: Targets, chosen: Choice) -> dict[str, Scored]:
    """Rank all targets with every peer, a window after the other, by the settings chosen for each set."""
    judge = Judge(data.stream, targets)
    scored: dict[str, Scored] = {}
    runs = []
    for peer, kind in PEERS.items():
        scored[peer] = Scored(judge.no_ranks())
        same = all(chosen[SETS[0]][name] == chosen[SETS[1]][name] for name in (peer, *kind.after))
        for sets in [SETS] if same else [(name,) for name in SETS]:
            scorer = kind.make(data, chosen[sets[0]][peer], chosen[sets[0]])
            runs.append((peer, sets, scorer, judge.no_ranks(sets)))
    windows = judge.windows()
    for number, (window_ms, places) in enumerate(windows, start=1):
        for peer, _, scorer, ranks in runs:
            begun = time.process_time()
            judge.rank(scorer, window_ms, places, ranks, CLOCKS)
            scored[peer].seconds += time.process_time() - begun
        spent = ", ".join(f"{peer} {one.seconds:.0f}" for peer, one in scored.items())
        say(f"window {number} of {len(windows)}: seconds so far: {spent}")
    for peer, sets, _, ranks in runs:
        for clock in CLOCKS:
            scored[peer].ranks[clock].update({name: ranks[clock][name] for name in sets})
    return scored
