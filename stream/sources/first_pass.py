"""The first pass over a file: which relations it has, and what its times are like.

    file ──► Decoded in the order of the file ──► [look_at] ──► Look ──► FileSource

A small file stays in memory from here on and is not read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from driftgraph.stream.arrays import U8
from driftgraph.stream.events import Decoded, Rejected, Strings
from driftgraph.stream.formats.event_rules import Behaviors
from driftgraph.stream.sources.file_times import FileTimes

KEPT_BYTES: Final = 64 << 20  # of a decoded file in memory: about a million events


@dataclass(slots=True)
class Look:
    """What one pass over a whole file found."""

    times: FileTimes = field(default_factory=FileTimes)
    counts: Counter[str] = field(default_factory=Counter)  # good events by relation
    rows: int = 0  # of all kinds
    rejected: int = 0
    erased: int = 0  # requests to erase a user
    first_reject: Rejected | None = None
    kept: list[Decoded] | None = None  # all of the file, if it is small; relations by ``names``
    names: tuple[str, ...] = ()

    @property
    def relations(self) -> tuple[str, ...]:
        """The behaviors of the good events, the most frequent first."""
        return tuple(sorted(self.counts, key=lambda name: (-self.counts[name], name)))

    def in_memory(self, relations: tuple[str, ...]) -> list[Decoded] | None:
        """The file with its relations by their place in ``relations``, if it was kept. Gives it away."""
        kept, self.kept = self.kept, None
        if kept is None or self.names == relations:
            return kept
        code_of = {name: code for code, name in enumerate(relations)}
        codes = np.array([code_of.get(name, 0) for name in self.names] or [0], np.uint8)
        return [_with_codes(part, codes) for part in kept]


def look_at(parts: Iterable[Decoded], behaviors: Behaviors) -> Look:
    """Read a file to its end; ``behaviors`` are those that its relations are codes of.

    Raises:
        SourceError: If the file cannot be read to its end.
        TooManyBehaviorsError: If its behaviors are to be found and cannot be behaviors.
    """
    look, kept_bytes = Look(kept=[]), 0
    codes: Counter[int] = Counter()
    for part in parts:
        found = np.bincount(part.batch.relation)
        codes.update({code: count for code, count in enumerate(found.tolist()) if count})
        look.times.add(part.batch.time_ms)
        look.rows += part.read_count
        look.rejected += len(part.rejected)
        look.erased += len(part.erased)
        look.first_reject = look.first_reject or next(iter(part.rejected), None)
        if look.kept is not None:
            kept_bytes += _size(part)
            look.kept.append(part)
            if kept_bytes > KEPT_BYTES:
                look.kept = None
    look.names = behaviors.names
    look.counts.update({look.names[code]: count for code, count in codes.items()})
    return look


def _with_codes(part: Decoded, codes: U8) -> Decoded:
    return replace(part, batch=replace(part.batch, relation=codes[part.batch.relation]))


def _size(part: Decoded) -> int:
    """About the bytes that it holds."""
    batch = part.batch
    texts = [batch.user, batch.item, batch.event_id or Strings.of([])]
    columns = sum(text.offsets.nbytes + text.data.nbytes for text in texts) + 9 * len(batch)
    return columns + sum(1_000 + len(one.payload) for one in part.rejected) + 200 * len(part.erased)
