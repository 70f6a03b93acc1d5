"""The two pictures of docs/how.md: the way of an event, and what happens along the time of a topic.

    places of boxes and arrows ──► [way, timeline] ──► docs/how-way.svg, docs/how-time.svg

They are plain SVG with the reader's own font, on a light ground that is legible in the dark theme too.
"""

from __future__ import annotations

from html import escape
from typing import Final

INK, SOFT, LINE = "#20262e", "#4a5462", "#5b6470"
GROUND: Final = "#fbfcfd"
UPDATER, WORKER, OUTSIDE, READER = "#e8eef7", "#e9f5e9", "#eceff2", "#fbf1df"
STRONG: Final = "#00796b"  # what a person should see first


def way() -> str:
    """The way of an event through the two processes."""
    parts = [
        _frame(170, 40, 372, 290, "the updater: one process", UPDATER),
        _frame(572, 40, 262, 290, "the worker: a process of its own", WORKER),
        _box(18, 96, 122, 62, "Kafka", ["a topic of events"], OUTSIDE),
        _box(192, 84, 150, 86, "decode, judge", ["JSON, Segment, Avro …", "late? repeated?"], "#ffffff"),
        _box(
            192, 226, 150, 76, "dead letters", ["each with its reason;", "dlq retry sends it back"], "#ffffff"
        ),
        _box(372, 84, 150, 86, "window", ["a graph of events,", "in shared memory"], "#ffffff"),
        _box(372, 226, 150, 76, "checkpoint", ["window and position,", "every 15 s, on disk"], "#ffffff"),
        _box(592, 84, 222, 62, "refresh, at any time", ["users who were touched"], "#ffffff"),
        _box(592, 170, 222, 62, "test, fit, gate, at a mark", ["on the events to come first"], "#ffffff"),
        _box(592, 256, 222, 56, "publish", ["a whole new generation"], "#ffffff"),
        _box(
            860, 130, 104, 120, "Redis", ["generations:", "one served,", "older ones", "to go back"], OUTSIDE
        ),
        _box(
            592,
            380,
            372,
            62,
            "your ranking service",
            ["HGET, or the reader: one generation, never a mixture"],
            READER,
        ),
        _arrow(140, 127, 192, 127),
        _arrow(342, 127, 372, 127),
        _arrow(267, 170, 267, 226, "bad"),
        _arrow(447, 170, 447, 226),
        _arrow(522, 115, 592, 115, "one cut,"),
        _arrow(522, 150, 592, 190),
        _label(557, 142, "no lock"),
        _arrow(703, 232, 703, 256, "accepted"),
        _arrow(814, 115, 860, 150),
        _arrow(814, 284, 872, 250),
        _arrow(912, 250, 912, 380),
        _label(
            24,
            372,
            "A click is in its user's vector within a second, also while a fit runs.",
            "start",
            STRONG,
            14,
        ),
        _label(
            24,
            396,
            "Nothing that the worker does stops ingestion: if it dies it is started again.",
            "start",
            SOFT,
            13,
        ),
        _label(
            24,
            420,
            "replay reads a file in place of Kafka and runs the same code, in one process.",
            "start",
            SOFT,
            13,
        ),
    ]
    return _svg(24, 462, "The way of an event from Kafka to a recommendation", parts)


def timeline() -> str:
    """What happens along the time of a topic."""
    left, right, axis = 60, 940, 150
    now, start = 800, 250  # of the newest event, and where the window of a relation begins
    marks = {360: "accepted", 520: "refused", 680: "accepted"}
    parts = [
        f'<rect x="{start}" y="96" width="{now - start}" height="54" fill="{UPDATER}"/>',
        _label(
            (start + now) / 2,
            88,
            "the window: events not older than the span of their relation",
            "middle",
            INK,
            13,
        ),
        f'<line x1="{left}" y1="{axis}" x2="{right}" y2="{axis}" stroke="{LINE}" stroke-width="1.5"/>',
        _label(right, axis + 20, "event time", "end"),
        _label(left, 88, "older events have left", "start"),
        _label(now + 8, 128, "now", "start", STRONG, 13),
        f'<line x1="{now}" y1="92" x2="{now}" y2="{axis + 8}" stroke="{STRONG}" stroke-width="2"/>',
    ]
    parts += [
        f'<line x1="{x}" y1="{axis - height}" x2="{x}" y2="{axis}" stroke="{LINE}" stroke-width="1.4" opacity="{1 if x > start else 0.3}"/>'
        for n, x in enumerate(range(left + 10, now, 9))
        for height in [8 + (n * 37 % 26)]
    ]
    number = 6
    for x, verdict in marks.items():
        good = verdict == "accepted"
        number += good
        parts += [
            f'<line x1="{x}" y1="98" x2="{x}" y2="236" stroke="{STRONG if good else SOFT}" stroke-width="1.6" stroke-dasharray="5 4"/>',
            _label(x + 7, 188, "mark", "start"),
            _box(
                x - 66,
                236,
                132,
                68,
                f"generation {number}" if good else "no generation",
                ["tested, fitted,", "accepted"] if good else ["worse on the", "events to come"],
                WORKER if good else OUTSIDE,
            ),
        ]
    parts += [
        _label(left, 262, "a fit at each mark:", "start", INK, 13),
        _label(left, 282, "one in 16 events is new", "start"),
        _box(812, 218, 140, 86, "refreshes", ["at any time,", "of whoever", "was touched"], READER),
    ]
    return _svg(58, 322, "Window, marks, fits and generations along event time", parts)


PICTURES: Final = {"how-way.svg": way, "how-time.svg": timeline}


def _svg(top: int, bottom: int, title: str, parts: list[str]) -> str:
    """A picture of 980 by ``bottom - top``."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {top} 980 {bottom - top}" role="img" aria-label="{escape(title)}"'
        ' font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">'
    )
    arrow = (
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{LINE}"/></marker></defs>'
    )
    ground = f'<rect y="{top}" width="980" height="{bottom - top}" rx="12" fill="{GROUND}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", arrow, ground, *parts, "</svg>"]) + "\n"


def _frame(x: float, y: float, width: float, height: float, title: str, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="{fill}"/>' + _label(
        x + 14, y + 26, title, "start", SOFT, 13
    )


def _box(x: float, y: float, width: float, height: float, title: str, lines: list[str], fill: str) -> str:
    middle = x + width / 2
    top = y + height / 2 - 8.5 * len(lines) + 5
    texts = [_label(middle, top, title, "middle", INK, 14, bold=True)]
    texts += [_label(middle, top + 18 + 16 * n, line) for n, line in enumerate(lines)]
    rect = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{LINE}" stroke-width="1"/>'
    return rect + "".join(texts)


def _arrow(x1: float, y1: float, x2: float, y2: float, says: str = "") -> str:
    line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" stroke-width="1.6" marker-end="url(#a)"/>'
    if not says:
        return line
    across = abs(x2 - x1) > abs(y2 - y1)
    return line + (
        _label((x1 + x2) / 2, y1 - 8, says) if across else _label(x1 + 6, (y1 + y2) / 2 + 4, says, "start")
    )


def _label(
    x: float,
    y: float,
    text: str,
    anchor: str = "middle",
    color: str = SOFT,
    size: int = 12,
    *,
    bold: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{color}"{weight}>{escape(text)}</text>'
