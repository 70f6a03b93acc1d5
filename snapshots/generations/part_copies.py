"""The parts of a namespace in braces: what their scripts check is copied into each of them.

    GenerationStore, GenerationKeys ──► [PartCopies] ──► ``current`` and ``manifest`` of each part

A Redis Cluster runs no script on keys of two slots. So each part has its own ``current`` (epoch, gen) and,
for each generation, its own ``manifest`` (token, status, counts). The scripts that write users and items
check those. A namespace that is not spread is its own only part: then nothing here does anything.

Why that is safe: readers follow the ``current`` of the namespace alone. A new worker raises the epoch of the
namespace and then that of every part, before it removes or writes anything. So whatever an older worker still
wrote is in id lists that the new one reads. The copies of ``gen`` follow a switch. While they lag, a refresh
of the served generation is refused and tried again; a refresh of the generation that was left changes vectors
that only its own model made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.keys import Keys, Part
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.vectors import Vectors


class PartCopies:
    """Writes the copies of one namespace under the epoch of one worker."""

    def __init__(self, keys: Keys, calls: Scripts, epoch: int) -> None:
        self._keys = keys
        self._parts: Sequence[Part] = keys.parts if keys.is_spread else ()
        self._calls = calls
        self._epoch = epoch

    def claim(self) -> None:
        """Raise the epoch of every part."""
        self._calls.run_many(scripts.CLAIM, 0, (([part.current], [self._epoch]) for part in self._parts))

    def begin(self, number: int, token: str) -> None:
        """Mark a generation as being built in every part."""
        self._calls.run_many(
            scripts.BEGIN,
            number,
            (
                ([part.current, part.generations, part.of(number, "manifest")], [self._epoch, number, token])
                for part in self._parts
            ),
        )

    def describe(self, number: int, token: str, users: Vectors, items: Vectors) -> None:
        """Write how many users and items each part has."""
        if not self._parts:
            return
        counts = [
            Counter({part.prefix: len(places) for part, places in self._keys.by_part(side.ids)})
            for side in (users, items)
        ]
        self._calls.run_many(
            scripts.DESCRIBE,
            number,
            (
                (
                    [part.current, part.of(number, "manifest")],
                    [self._epoch, token, "users", counts[0][part.prefix], "items", counts[1][part.prefix]],
                )
                for part in self._parts
            ),
        )

    def mark(self, number: int, token: str, mark: int) -> None:
        """Note in the manifest of a spread namespace that all parts have a refresh."""
        if self._parts:
            keys = self._keys
            head = [keys.current, keys.of(number, "user-ids"), keys.of(number, "manifest")]
            self._calls.run_or_refuse(scripts.REFRESH, number, head, [self._epoch, number, token, mark])

    def follow(self, served: int) -> None:
        """Let every part take refreshes of the served generation, and of no other."""
        self._calls.run_many(
            scripts.FOLLOW,
            served,
            (([part.current, part.of(served, "manifest")], [self._epoch, served]) for part in self._parts),
        )
