"""Warnings about a stream: too many events come late or are rejected, or attributes cannot be taken.

Ingest ──► [warnings_of] ──► replay's report, the updater's log and status
"""

from __future__ import annotations

from typing import Final

from driftgraph.stream.ingest.ingest import Ingest

LATE_SHARE_MAX: Final = 0.01  # a stream in order has almost none; more late events have a cause
REJECTED_SHARE_MAX: Final = 0.1  # of the newest events; a part that nobody configured is below it
_UNITS: Final = (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000))


def warnings_of(ingest: Ingest) -> list[str]:
    """What is wrong with the stream so far, with the cause and what to do."""
    found = [late_warning(ingest), rejected_warning(ingest)]
    attributes = [] if ingest.attributes is None else ingest.attributes.warnings()
    return [*(one for one in found if one is not None), *attributes]


def rejected_warning(ingest: Ingest) -> str | None:
    """The warning, if more than ``REJECTED_SHARE_MAX`` of the newest events were rejected; else None."""
    if ingest.breaker is None:
        return None
    rejected, count, example = ingest.breaker.recent()
    if rejected <= REJECTED_SHARE_MAX * count:
        return None
    return (
        f"{rejected:,} of the newest {count:,} events ({rejected / count:.0%}) were rejected and are in no "
        f"list, most for {example}: driftgraph dlq ls"
    )


def late_warning(ingest: Ingest) -> str | None:
    """The warning, if more than ``LATE_SHARE_MAX`` of the events came late; else None."""
    counts = ingest.counts
    judged = counts.applied + counts.late + counts.duplicate + counts.forgotten
    if counts.late <= LATE_SHARE_MAX * judged:
        return None
    return (
        f"{counts.late:,} of {judged:,} events ({counts.late / judged:.1%}) came late and are not in the "
        f"window: they stand up to {_length(counts.late_by_ms_max)} behind newer events, and time.lateness "
        f"allows {_length(ingest.watermark.rules.allowed_lateness_ms)}; the stream is not in order of time, "
        "such as a topic filled from a file that is not sorted, or a producer that sends late; produce "
        "events in order (driftgraph produce sorts a file), or raise time.lateness (and a relation's span "
        "that is shorter); the late events are dead letters: driftgraph dlq ls"
    )


def _length(ms: int) -> str:
    unit, unit_ms = next(((name, size) for name, size in _UNITS if ms >= 2 * size), ("seconds", 1_000))
    return f"{ms / unit_ms:.3g} {unit}"
