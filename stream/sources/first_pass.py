"""The first pass over a file: which relations it has, and whether its times are in order and plausible.

    file ──► Decoded in the order of the file ──► [first_pass_of] ──► FirstPass ──► FileSource

A small file is kept in memory and is not read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from driftgraph.stream.arrays import U8
from driftgraph.stream.events import Decoded, Rejected, Strings
from driftgraph.stream.formats.event_rules import Behaviors, Others, TooManyBehaviorsError
from driftgraph.stream.sources.file_times import FileTimes

KEPT_BYTES: Final = 64 << 20  # of a decoded file in memory: about a million events


@dataclass(slots=True)
class FirstPass:
    """The relations, times and counts of a whole file."""

    times: FileTimes = field(default_factory=FileTimes)
    counts: Counter[str] = field(default_factory=Counter)  # good events by relation
    rows: int = 0  # of all kinds
    rejected: int = 0
    erased: int = 0  # requests to erase a user
    first_reject: Rejected | None = None
    kept: list[Decoded] | None = None  # the whole file, if it is small; relation codes index ``names``
    names: tuple[str, ...] = ()

    @property
    def relations(self) -> tuple[str, ...]:
        """The behaviors of the good events, the most frequent first."""
        return tuple(sorted(self.counts, key=lambda name: (-self.counts[name], name)))

    def absent(self, impressions: Sequence[str]) -> list[str]:
        """A sentence about each of these behaviors that the file does not have."""
        without = [name for name in impressions if not self.counts[name]]
        return [f"no event has the behavior {name} of impressions; is it written right?" for name in without]

    @property
    def ignored(self) -> int:
        """The rows of behaviors that are left out on purpose."""
        return self.rows - self.rejected - self.erased

    def of_others(self, chosen: Sequence[str]) -> str:
        """How many rows were left out because of their behavior."""
        others = f"other behaviors than {', '.join(chosen)}" if chosen else "behaviors that were left out"
        return f"{self.ignored:,} are of {others}"

    def in_memory(self, relations: tuple[str, ...]) -> list[Decoded] | None:
        """The kept file with relation codes that index ``relations``, or None. It is kept no longer."""
        kept, self.kept = self.kept, None
        if kept is None or self.names == relations:
            return kept
        code_of = {name: code for code, name in enumerate(relations)}
        codes = np.array([code_of.get(name, 0) for name in self.names] or [0], np.uint8)
        return [_with_codes(part, codes) for part in kept]


def first_pass_of(parts: Iterable[Decoded], behaviors: Behaviors) -> FirstPass:
    """Read a file to its end; the relation codes of ``parts`` are those of ``behaviors``.

    Raises:
        SourceError: If the file cannot be read to its end.
        TooManyBehaviorsError: If the column of behaviors has more values than behaviors can have.
    """
    found, kept_bytes = FirstPass(kept=[]), 0
    codes: Counter[int] = Counter()
    for part in parts:
        by_code = np.bincount(part.batch.relation)
        codes.update({code: count for code, count in enumerate(by_code.tolist()) if count})
        found.times.add(part.batch.time_ms)
        found.rows += part.read_count
        found.rejected += len(part.rejected)
        found.erased += len(part.erased)
        found.first_reject = found.first_reject or next(iter(part.rejected), None)
        if found.kept is not None:
            kept_bytes += _size(part)
            found.kept.append(part)
            if kept_bytes > KEPT_BYTES:
                found.kept = None
    found.names = behaviors.names
    found.counts.update({found.names[code]: count for code, count in codes.items()})
    return found


def behaviors_there(
    read: Callable[[Behaviors], Iterable[Decoded]],
    ignore: Iterable[str],
    advice: Callable[[Sequence[str]], str],
) -> str:
    """Half a sentence about the behaviors of a file's good events, with advice on them; empty without any."""
    behaviors = Behaviors(ignore=ignore, others=Others.LEARN)
    try:
        found = first_pass_of(read(behaviors), behaviors)
    except TooManyBehaviorsError as error:
        return f"; the file has {error}"
    if not found.relations:
        return ""
    counted = ", ".join(f"{name} {found.counts[name]:,} times" for name in found.relations)
    return f"; the file has {counted}: {advice(found.relations)}"


def _with_codes(part: Decoded, codes: U8) -> Decoded:
    return replace(part, batch=replace(part.batch, relation=codes[part.batch.relation]))


def _size(part: Decoded) -> int:
    """About how many bytes of memory it takes."""
    batch = part.batch
    texts = [batch.user, batch.item, batch.event_id or Strings.of([]), *batch.attributes]
    columns = sum(text.offsets.nbytes + text.data.nbytes for text in texts) + 9 * len(batch)
    return columns + sum(1_000 + len(one.payload) for one in part.rejected) + 200 * len(part.erased)
