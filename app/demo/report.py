"""The report of the demo: the drift in numbers, one user's recommendations before and after, the counts.

GenerationReports, UserStories ──► [DemoReport] ──► terminal or JSON
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from driftgraph.app.commands.replay import overall
from driftgraph.app.console.scorers import BASELINES, METRIC, METRIC_TITLE, PARTS, shares_text
from driftgraph.app.demo.shop import Shop
from driftgraph.app.training.generation_report import GenerationReport
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.ingest.ingest import Counts

TOP = 5
MODEL = "live model"


@dataclass(frozen=True, slots=True)
class UserStory:
    """The true taste of one user, and the recommendations for that user."""

    user: str
    taste: list[str]  # categories, the favorite first
    generation: int
    items: list[str]
    fitting: int  # how many of the items are in those categories

    def to_json(self) -> dict[str, Any]:
        """The story as JSON values."""
        return {
            "user": self.user,
            "taste": self.taste,
            "generation": self.generation,
            "top": self.items,
            "top_in_taste": self.fitting,
        }


def story_of(reader: EmbeddingReader, shop: Shop, user: str, time_ms: int) -> UserStory:
    """Read a user's best items from Redis, and compare them with the taste at ``time_ms``."""
    found = reader.recommend(user, TOP)
    items = [item for item, _ in found.items]
    taste = shop.taste_of(user, time_ms)
    return UserStory(
        user, taste, found.generation, items, sum(shop.category_of(item) in taste for item in items)
    )


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The end of a demo. ``drift_ms`` and the stories are None where a file was streamed."""

    source: str
    seconds: float
    counts: Counts
    window: Mapping[str, int]
    digest: str
    generations: tuple[GenerationReport, ...]
    drift_ms: int | None
    drifters: frozenset[str]  # the users whose taste changes then
    before: UserStory | None
    after: UserStory | None
    redis: Mapping[str, int]

    def phases(self) -> dict[str, dict[str, float]]:
        """Mean Recall@20 of each scorer in the last quarter before the drift, right after it, and at the end.

        Each phase has as many intervals as a quarter of one half has. Weighted by events. Empty for a file.
        """
        if self.drift_ms is None:
            return {}
        scored = [
            r for r in self.generations if r.evaluation.event_count and "frozen_first" in r.evaluation.metrics
        ]
        old = [r for r in scored if r.watermark_ms <= self.drift_ms]
        new = [r for r in scored if r.watermark_ms > self.drift_ms]
        quarter = max(1, len(new) // 4)
        phases = {"before": old[-quarter:], "after": new[:quarter], "end": new[-quarter:]}
        return {name: _mean(reports) for name, reports in phases.items() if reports}

    def moved(self) -> dict[str, int] | None:
        """How many users are named as moved right after the drift, and how many of them did change."""
        for report in self.generations:
            if self.drifters and self.drift_ms is not None and report.drift is not None:
                named = [one["id"] for one in report.drift["users"]["top"]]
                if report.watermark_ms > self.drift_ms and named:
                    return {"named": len(named), "drifted": len(self.drifters.intersection(named))}
        return None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        counts = self.counts
        return {
            "source": self.source,
            "seconds": self.seconds,
            "events_read": counts.read,
            "events_applied": counts.applied,
            "events_late": counts.late,
            "events_rejected": counts.rejected,
            "events_duplicate": counts.duplicate,
            "events_per_second": counts.applied / max(self.seconds, 1e-9),
            "window": dict(self.window),
            "digest": self.digest,
            "drift_ms": self.drift_ms,
            "recall_at_20": self.phases(),
            "overall": overall(self.generations),
            "moved": self.moved(),
            "user_before": None if self.before is None else self.before.to_json(),
            "user_after": None if self.after is None else self.after.to_json(),
            "generations": [report.to_json() for report in self.generations],
            "redis": dict(self.redis),
        }

    def render(self, console: Console) -> None:
        """Print the report as tables."""
        counts = self.counts
        console.print(
            f"\n{counts.applied:,} events in {self.seconds:.0f} s through Kafka into the window, "
            f"{sum(r.fit.accepted for r in self.generations)} generations published to Redis.",
            highlight=False,
        )
        self._render_metrics(console)
        if (moved := self.moved()) is not None:
            console.print(
                f"\nOf the {moved['named']} users that moved most right after the drift, {moved['drifted']} "
                "have a new taste.",
                highlight=False,
            )
        if self.before is not None and self.after is not None:
            _render_stories(console, self.before, self.after)

    def _render_metrics(self, console: Console) -> None:
        phases = self.phases() or {
            "overall": {k: v[METRIC] for k, v in overall(self.generations)["metrics"].items()}
        }
        titles = {
            "before": "before the drift",
            "after": "right after",
            "end": "at the end",
            "overall": "all intervals",
        }
        table = Table(
            box=None,
            pad_edge=False,
            title=f"{METRIC_TITLE} on events not yet trained on",
            title_justify="left",
        )
        table.add_column("")
        for phase in phases:
            table.add_column(titles[phase], justify="right")
        rows = {
            "model": (MODEL, "bold green"),
            **{scorer: (title, "") for scorer, title in BASELINES.items()},
            **{part: (f"  its {title} alone", "dim") for part, title in PARTS.items()},
        }
        for scorer, (title, style) in rows.items():
            values = [values.get(scorer) for values in phases.values()]
            if all(value is None for value in values):
                continue
            table.add_row(title, *("" if v is None else f"{v:.3f}" for v in values), style=style)
        console.print()
        console.print(table)
        if lives_on := shares_text(overall(self.generations)["shares"]):
            console.print(f"The parts move the score by these shares: {lives_on}.", highlight=False)


def _render_stories(console: Console, before: UserStory, after: UserStory) -> None:
    table = Table(
        box=None, pad_edge=False, title=f"Top {TOP} of {before.user}, from Redis", title_justify="left"
    )
    for title, story in (("before", before), ("after", after)):
        table.add_column(f"{title}: likes {', '.join(story.taste)}")
    for row in range(TOP):
        table.add_row(*(_item(story, row) for story in (before, after)))
    console.print()
    console.print(table)


def _item(story: UserStory, row: int) -> str:
    if row >= len(story.items):
        return ""
    item = story.items[row]
    return f"{item}  ✓" if item.rpartition("-")[0] in story.taste else item


def _mean(reports: Sequence[GenerationReport]) -> dict[str, float]:
    total = sum(r.evaluation.event_count for r in reports)
    scorers = reports[0].evaluation.metrics
    return {
        name: sum(r.evaluation.metrics[name][METRIC] * r.evaluation.event_count for r in reports) / total
        for name in scorers
    }
