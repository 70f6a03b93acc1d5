"""One round trip: fields of users, items and the manifest, all of one generation.

    a question (questions.py) ──► [Fetch] ──commands──► a driver (drivers.py) ──answers──► [Fetched]

Nothing here sends: ``fetch`` is a generator that yields the commands of a round trip and receives their
answers. The last command of several must be executed after all others: it asks whether what they have read is
whole. The commands are plain ones, sent for the generation of the read before. A Lua script could look up
which generation is served, and save a second round trip after a switch; but Redis takes three times as long
for a script as for the commands in it, and a cluster needs all keys of a script on one node.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from driftgraph.snapshots.generations.keys import LIVE, Keys, StoreError
from driftgraph.snapshots.generations.vector_forms import FLOAT32, FORMS, rows_of
from driftgraph.stream.arrays import F32, Mask

T = TypeVar("T")
Command = tuple[Any, ...]  # its name, its key, the rest
Steps = Generator[list[Command], list[Any], T]  # the commands of a round trip; their answers, or errors

ATTEMPTS: Final = (
    5  # a read is repeated if its generation was replaced meanwhile; publishes are minutes apart
)
IDS_PER_ROUND_TRIP: Final = 5_000  # bounds one answer: 1.3 MB at 64 dims
_LIVE: Final = LIVE.encode()


class ReplacedError(Exception):
    """The generation with which a read began was removed or replaced; the read begins again."""

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.generation = generation


class Hashes(NamedTuple):
    """Fields of the hashes of some users or some items. ``side`` is ``user`` or ``item``."""

    side: str
    fields: Sequence[str]
    ids: Sequence[str]


class Shape(NamedTuple):
    """How the vectors of a publish are written."""

    dim: int
    form: str

    def rows_of(self, blobs: Sequence[bytes | None]) -> tuple[F32, Mask]:
        """Vectors [N, dim], and which there are: zero where there is none of this shape."""
        return rows_of(blobs, self.form, self.dim)


class Publish(NamedTuple):
    """What tells one publish from another: after a FLUSHALL another one may have the same number."""

    generation: int
    token: bytes


NOTHING: Final = Publish(0, b"")
SHAPE: Final = ("dim", "vectors")  # the fields of a manifest that tell a ``Shape``


class Fetched(NamedTuple):
    """What was found of one publish; ``publish`` is ``NOTHING`` if nothing is served."""

    publish: Publish
    told: Sequence[bytes | None]  # the fields of the manifest, in the order asked
    rows: Sequence[
        Any
    ]  # of all ids in the order asked: the value, or of a part of several fields their values

    @property
    def generation(self) -> int:
        """The number of the generation."""
        return self.publish.generation

    def shape(self) -> Shape:
        """How the vectors of the publish are written; its fields were the first asked of the manifest.

        Raises:
            StoreError: If a later version of driftgraph has written them in another form.
        """
        dim, form = int(self.told[0] or 0), (self.told[1] or b"").decode() or FLOAT32
        if form not in FORMS:
            raise StoreError(
                f"generation {self.generation} has vectors written as {form!r}, which this version of "
                "driftgraph cannot read; update the reader"
            )
        return Shape(dim, form)

    def vectors(self) -> tuple[F32, Mask]:
        """Vectors [N, dim] of all ids, of which ``embedding`` alone was asked, and which were found.

        Raises:
            StoreError: As ``shape``; or if Redis holds something else than vectors of that shape.
        """
        shape = self.shape()
        vectors, found = shape.rows_of(self.rows)
        for n in np.flatnonzero(~found).tolist():
            if self.rows[n] is not None:
                raise StoreError(
                    f"generation {self.generation} has {shape.dim} dimensions, but Redis holds a vector of "
                    f"{len(self.rows[n])} bytes in it; does another program write into this namespace?"
                )
        return vectors, found


class Fetch:
    """Reads of one namespace, which remember the generation of the last."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known = 0
        self._served = ("HMGET", keys.current, "gen", "delisted_ms")
        self._change: bytes | None = None  # the number of the change up to which ``delisted`` is known
        self.delisted = frozenset[str]()  # ids that no answer may have, as of the last round trip

    def current(self) -> Steps[int]:
        """The number of the served generation, 0 for none."""
        self._known = yield from self._heard((yield from self.plain(self._served)))
        return self._known

    def get(self, manifest: Sequence[str], *hashes: Hashes) -> Steps[Fetched]:
        """Read ``hashes`` of the served generation, and fields of its manifest.

        Raises:
            ReplacedError: If it is not served any more when the read begins, or loses keys before it ends.
        """
        generation = self._known or (yield from self.current())
        if not generation:
            return _NOTHING
        return (yield from self._of(generation, None, manifest, _commands(self._keys, generation, hashes)))

    def alone(self, one: Hashes) -> Steps[tuple[int, Sequence[bytes | None]]]:
        """The generation and fields of the only id of ``one``, or 0 where ``get`` has to look closer.

        One hash is of one publish, and it is whole while it is there: nothing else has to be asked.
        """
        if not self._known:
            return 0, ()
        known = self._known
        served, row = _sound((yield [self._served, *_commands(self._keys, known, [one])]))
        return (known, row) if (yield from self._heard(served)) == known else (0, ())

    def more(self, publish: Publish, *hashes: Hashes) -> Steps[Fetched]:
        """Read more of the publish that an answer has begun with.

        Raises:
            ReplacedError: As ``get``; or if another publish has the generation's number now.
        """
        commands = _commands(self._keys, publish.generation, hashes)
        return (yield from self._of(publish.generation, publish, (), commands))

    def search(self, publish: Publish, commands: Sequence[Command]) -> Steps[Sequence[Any]]:
        """The answers of other commands that read keys of that publish; as ``more``."""
        return (yield from self._of(publish.generation, publish, (), commands)).rows

    def plain(self, command: Command) -> Steps[Any]:
        """The answer of one command that needs no generation."""
        return _sound((yield [command]))[0]

    def beside(self, command: Command) -> Steps[Any]:
        """The answer of one command that needs no generation, with ``delisted`` as of it."""
        served, answer = _sound((yield [self._served, command]))
        yield from self._heard(served)
        return answer

    def _heard(self, served: Sequence[bytes | None]) -> Steps[int]:
        """The generation that is served. If items were delisted or relisted since, they are read again."""
        number, change = served
        if change != self._change:
            sets = (self._keys.delisted, self._keys.delisted_by_topic)
            found = _sound((yield [("SMEMBERS", name) for name in sets]))
            self._change, self.delisted = change, frozenset(item.decode() for one in found for item in one)
        return int(number or 0)

    def _of(
        self, generation: int, publish: Publish | None, manifest: Sequence[str], commands: Sequence[Command]
    ) -> Steps[Fetched]:
        """The answers of ``commands`` if ``generation`` is served when they begin and exists when they end.

        The round trip asks first which generation is served, so that an answer is never older than the last
        switch before the call. It asks for the status last, which a generation loses before its first key.
        The token tells whether all round trips of an answer read the same publish.
        """
        rows: list[Any] = []
        describe = ("HMGET", self._keys.of(generation, "manifest"), "status", "token", *manifest)
        told: Sequence[bytes | None] = ()
        for first in range(0, max(len(commands), 1), IDS_PER_ROUND_TRIP):
            part = commands[first : first + IDS_PER_ROUND_TRIP]
            served, *found, (status, token, *told) = _sound((yield [self._served, *part, describe]))
            one, number = Publish(generation, token or b""), (yield from self._heard(served))
            if number != generation or status != _LIVE or publish not in (None, one):
                self._known = number
                raise ReplacedError(generation)
            publish = one
            rows += found
        return Fetched(publish or NOTHING, told, rows)


_NOTHING: Final = Fetched(NOTHING, (), ())


def _commands(keys: Keys, generation: int, hashes: Sequence[Hashes]) -> list[Command]:
    commands: list[Command] = []
    for side, fields, ids in hashes:
        name = "HGET" if len(fields) == 1 else "HMGET"
        commands += [(name, key, *fields) for key in keys.hashes(side, generation, ids)]
    return commands


def _sound(answers: list[Any]) -> list[Any]:
    """The answers, unless one is an error."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
