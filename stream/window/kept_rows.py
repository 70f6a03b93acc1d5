"""The rows of ids that a checkpoint keeps beside its events, so that a start gives each id its old row.

    Heterograph.kept_rows ──► KeptRows ──► a checkpoint ──► Heterograph.begin, restore, restored

Events are restored with the rows of their ids. Beside them there are free rows, which new ids get in a fixed
order, and rows that wait for a step or are held, perhaps without an event. With these a start goes on with
the rows of the run before, so that what is drawn or added up by row is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from driftgraph.stream.arrays import U8, U32
from driftgraph.stream.events import Strings

EMPTIED, DUE, HELD = 1, 2, 4  # bits of ``waits``: see ``Heterograph``


@dataclass(frozen=True, slots=True)
class KeptSide:
    """Of one side; N rows that wait."""

    row_count: int  # rows that have ever had an owner are below it
    rows: U32  # [N]
    waits: U8  # [N] why
    ids: Strings  # [N] of them; empty for a row without an owner


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Of both sides, and the step of event time that the window is in."""

    step_ms: int
    step: int
    sides: tuple[KeptSide, KeptSide]
