"""A generation on its way to Redis: ids and lists of its parts, the write, and who refreshes it from then on.

Worker ──► [NextGeneration] ──► [GenerationWriter.write] ──► GenerationStore ──► readers
                                         └──► Refresher.serve, at the switch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from driftgraph.app.console.status_text import named
from driftgraph.app.publishing import serving_parts
from driftgraph.app.publishing.by_id import generation_by_id
from driftgraph.app.publishing.refresher import USERS_AT_ONCE, GenerationRefresh, Refresher
from driftgraph.model.heads.head_parts import HeadParts
from driftgraph.model.network.embed import Embedding
from driftgraph.model.network.served_model import ServedModel
from driftgraph.model.options import ListLengths
from driftgraph.model.score.lists import ListMaker
from driftgraph.snapshots.generations.choice import Choice
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.window.heterograph import HeterographView, Moment
from driftgraph.stream.window.writer import StaleCut

CATCH_UPS_MAX = 8  # refreshes of a generation before its switch: each has what came during the one before
FEW_USERS = 2 * USERS_AT_ONCE  # while they are refreshed, so few come that their round can be waited for


class Stages(Protocol):
    """Whoever is told what a publish is at."""

    def start(self, label: str, total: int | None = None, span: str = "") -> None:
        """Begin a stage of so many steps."""

    def advance(self, n: int) -> None:
        """Count steps."""


class NoStages:
    """Tells nobody: another stage is told already."""

    def start(self, label: str, total: int | None = None, span: str = "") -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class NextGeneration:
    """What a generation is made of, as of one moment.

    Always true: a fit changes nothing of it, so that it can be written while one goes on.
    """

    version: int  # of the model; 0: no model made it
    moment: Moment
    embedding: Embedding
    lists: ListMaker
    model: ServedModel | None
    heads: HeadParts | None
    facts: Mapping[str, str | int | float]  # of the manifest, without the number
    said: AttributeView | None  # of items


class GenerationWriter:
    """Writes generations; one thread at a time uses it."""

    def __init__(
        self,
        graph: HeterographView,
        store: GenerationStore,
        refresher: Refresher,
        lengths: ListLengths,
        clock: Clock,
    ) -> None:
        self._graph, self._store, self._refresher, self._lengths = graph, store, refresher, lengths
        self._clock = clock

    def write(
        self, made: NextGeneration, follows: Choice, stages: Stages, on_published: Callable[[int], None]
    ) -> int:
        """Publish it; its number, 0 if nothing of it has an id. ``on_published`` is told the milliseconds.

        Raises:
            StoreError: Redis did not take it.
        """
        embedding, moment, store = made.embedding, made.moment, self._store
        stages.start("ids and lists of all users and items", len(embedding), span="lists")
        parts = (embedding, moment, made.lists, self._lengths, made.heads, stages.advance, made.said)
        users, items = generation_by_id(self._graph, *parts)
        if not (len(users) and len(items)):
            return 0
        number, store.follows = store.next_number(), follows
        manifest = {"generation": number, **made.facts}
        stages.start(f"publishing {named(number, made.version)}", len(users) + len(items), span="publish")
        begun_ms = self._clock.now_ms()
        kept = serving_parts.refresh_of(
            number, made.model, made.heads, made.lists, self._graph, moment, embedding, self._lengths
        )
        store.publish(
            number, users, items, manifest, on_written=stages.advance,
            at_switch=lambda: self._switch(kept, stages),
        )  # fmt: skip
        on_published(self._clock.now_ms() - begun_ms)
        self._refresher.serve(kept)
        return number

    @contextmanager
    def _switch(self, kept: GenerationRefresh, stages: Stages) -> Iterator[None]:
        """Refresh a generation that is about to be served, so that the switch takes nobody's news back.

        The refresh of the generation before goes on beside the long rounds. It rests during the last one,
        which needs its core, and whose users it would write for a generation that is left at once. Where
        events come faster than they are caught up, it has the rest after the switch.
        """
        are_few = False
        stages.start(
            f"catching up generation {kept.serving.number} with what came meanwhile", span="catch up"
        )
        with suppress(StaleCut):  # what is missing is refreshed after the switch
            are_few = any(self._catch_up(kept) < FEW_USERS for _ in range(CATCH_UPS_MAX))
        with self._refresher.switching_to(kept):
            if are_few:
                with suppress(StaleCut):
                    self._catch_up(kept)
            yield

    def _catch_up(self, kept: GenerationRefresh) -> int:
        return kept.whole(self._graph.moment(), self._store, self._clock)
