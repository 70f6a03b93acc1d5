"""Shows the running demo: a moving picture on a terminal, plain lines elsewhere.

Frame, GenerationReport ──► [DemoView] ──► stderr
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from driftgraph.app.console.output import time_of
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.scorers import BASELINES, METRIC_TITLE, PARTS, measured
from driftgraph.app.console.status_text import named
from driftgraph.app.training.generation_report import GenerationReport, describe

BARS = " ▁▂▃▄▅▆▇█"
NOT_MEASURED = "·"  # an interval of which no event was scored
NOTHING_YET = "nothing yet: the first fit is under way"
CHANGED = "half changed their taste"
LINES = {
    "model": ("live model", "bold green"),
    "co_visitation": (BASELINES["co_visitation"], "magenta"),
    "recent_popularity": (BASELINES["recent_popularity"], "yellow"),
    "frozen_first": (BASELINES["frozen_first"], "red"),
    **{part: (f"  its {title}", "dim") for part, title in PARTS.items() if part != "own"},
}
HISTORY = 40  # intervals of the picture


@dataclass(frozen=True, slots=True)
class Frame:
    """The values that are shown at a moment."""

    watermark_ms: int
    applied: int
    total: int
    events_per_second: float
    window: Mapping[str, int]
    generation: int
    model_version: int


class DemoView(Protocol):
    """The display of the demo."""

    def show(self, frame: Frame) -> None:
        """Show a moment; called several times a second."""

    def generation(self, report: GenerationReport, *, drifted: bool | None) -> None:
        """Show that a cycle has ended; ``drifted`` is None if it is not known whether tastes have changed."""

    def close(self) -> None:
        """Leave the screen as it is; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view_for(progress: Progress, *, as_json: bool) -> DemoView:
    """A moving picture if stderr is a terminal, else plain lines."""
    console = Console(stderr=True)
    return TerminalView(console) if console.is_terminal and not as_json else PlainView(progress)


class PlainView:
    """Prints one line for each generation."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def show(self, frame: Frame) -> None:
        """Show nothing between generations."""

    def generation(self, report: GenerationReport, *, drifted: bool | None) -> None:
        """Print one line."""
        when = "" if drifted is None else "after the drift, " if drifted else "before the drift, "
        self._progress.note(f"{when}{describe(report)}")

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TerminalView(PlainView):
    """A picture that moves in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._frame: Frame | None = None
        self._history: dict[str, list[float]] = {name: [] for name in LINES}
        self._drift_at: int | None = None
        self._intervals = 0

    def show(self, frame: Frame) -> None:
        """Draw the picture again."""
        self._frame = frame
        self._live.update(self._picture(frame))

    def generation(self, report: GenerationReport, *, drifted: bool | None) -> None:
        """Add an interval to the curves."""
        metrics = report.evaluation.metrics
        if "model" not in metrics:
            return
        if drifted and self._drift_at is None:
            self._drift_at = self._intervals
        self._intervals += 1
        for name, values in self._history.items():
            value = measured(metrics, name)
            values.append(math.nan if value is None else value)

    def close(self) -> None:
        """Stop drawing."""
        self._live.stop()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def _picture(self, frame: Frame) -> Group:
        head = Table.grid(padding=(0, 2))
        head.add_row("event time", time_of(frame.watermark_ms))
        head.add_row("events", f"{frame.applied:,} of {frame.total:,}   {frame.events_per_second:,.0f}/s")
        head.add_row("window", "   ".join(f"{name} {count:,}" for name, count in frame.window.items()))
        serves = named(frame.generation, frame.model_version) if frame.generation else NOTHING_YET
        head.add_row("serves", serves)
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=max(frame.total, 1), completed=frame.applied, width=HISTORY + 24))
        curves = Table.grid(padding=(0, 2))
        highest = max(
            (value for values in self._history.values() for value in _measured(values)), default=0.0
        )
        for name, (title, style) in LINES.items():
            values = self._history[name]
            last = "".join(f"{value:.3f}" for value in _measured(values)[-1:])
            curves.add_row(Text(title, style), Text(_curve(values[-HISTORY:], highest), style), last)
        parts: list[ConsoleRenderable] = [
            bar,
            head,
            Text(f"{METRIC_TITLE} of events before they are trained on", "dim"),
            curves,
        ]
        if self._drift_at is not None:
            place = self._drift_at - max(0, self._intervals - HISTORY)
            curves.add_row("", Text(_mark(place), "dim"), "")
        return Group(*parts)


def _measured(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _curve(values: list[float], highest: float) -> str:
    """One character for each value, as high as its share of the highest value."""
    top = len(BARS) - 1
    return "".join(
        NOT_MEASURED
        if not math.isfinite(value)
        else BARS[round(top * value / highest)]
        if highest > 0
        else BARS[0]
        for value in values
    )


def _mark(place: int) -> str:
    """An arrow below the interval of the drift, with its words on the side where they fit."""
    if place < 0:
        return ""
    return f"{CHANGED} ▲".rjust(place + 1) if place > len(CHANGED) else f"{' ' * place}▲ {CHANGED}"
