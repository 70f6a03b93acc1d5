"""Cold start: the vectors of items and users that no fit has seen with events, from what is said of them.

a fit's Embedding ──► [ColdStart.learned] ──► ColdStart ──► Encoder: new items, users without an event
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from driftgraph.model.attributes.token_vectors import TokenVectors
from driftgraph.stream.arrays import F32, I64, U32, Mask
from driftgraph.stream.attributes.attributes import AttributesView
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.writer import Cut, WindowView

PRIOR_EVENTS = 4.0  # with so many events a new item is half what its users say, half what its attributes do
EVENTS_MAX = 16  # of a relation that are counted


class Vectors(Protocol):
    """Rows and vectors of both sides: an ``Embedding``."""

    @property
    def user_rows(self) -> U32:
        """[U]"""
        ...

    @property
    def user(self) -> F32:
        """[U, D]"""
        ...

    @property
    def item_rows(self) -> U32:
        """[I]"""
        ...

    @property
    def item(self) -> F32:
        """[I, D]"""
        ...


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Word vectors of each side by the newest fit; without attributes it changes no vector."""

    attributes: AttributesView | None = None
    item_words: TokenVectors | None = None
    user_words: TokenVectors | None = None

    @property
    def item_attributes(self) -> AttributeView | None:
        """What is said of items; None if nothing is."""
        return None if self.attributes is None else self.attributes[ITEM]

    def without_events(self, side: int, versions: U32, live: U32, before_ms: int) -> U32:
        """Rows that ids have for their attributes, though they are not among the ``live`` ones; ascending.

        ``versions`` are those of the window's rows. Only those are told of whom something is said before the
        time.
        """
        own = None if self.attributes is None else self.attributes[side]
        if own is None:
            return np.zeros(0, np.uint32)
        rows = np.setdiff1d(own.cold(versions), live, assume_unique=True)
        found: U32 = rows[own.tokens(rows, before_ms).any(axis=1)]
        return found

    def is_in_catalog(self, rows: U32, before_ms: int) -> Mask:
        """[n] whether each item needs no event to be known, since a catalog says something of it."""
        own = self.item_attributes
        if self.attributes is None or own is None or not self.attributes.fields.has_catalog(ITEM):
            return np.zeros(len(rows), np.bool_)
        return np.asarray(own.tokens(rows, before_ms).any(axis=1), np.bool_)

    def learned(self, fitted: Vectors, before_ms: int) -> ColdStart:
        """The same for the vectors of a fit, by what is said before a time.

        The last channel, popularity, is no matter of attributes: words have zeros there.
        """
        if self.attributes is None:
            return self
        user, item = (
            None if (own := self.attributes[side]) is None else _fitted(own, *vectors, before_ms)
            for side, vectors in (
                (USER, (fitted.user_rows, fitted.user)),
                (ITEM, (fitted.item_rows, fitted.item)),
            )
        )
        return ColdStart(self.attributes, item, user)

    def items(self, made_nD: F32, view: WindowView, cut: Cut, rows: U32, times_ms: I64) -> F32:
        """Blend what their users say of new items with their attributes, by the count of their events."""
        own = self.item_attributes
        if own is None or self.item_words is None or not len(rows):
            return made_nD
        prior_nD, known = self.item_words.of(own, rows, times_ms)
        near = view.recent(ITEM, rows, times_ms, EVENTS_MAX, cut)
        count_n = near.count_BR.sum(axis=1)
        share_n: F32 = np.where(known, PRIOR_EVENTS / (PRIOR_EVENTS + count_n), 0).astype(np.float32)
        blended = made_nD.copy()
        blended += share_n[:, None] * (prior_nD - made_nD)
        blended[:, -1] = made_nD[:, -1]
        return blended

    def users(self, made_nD: F32, view: WindowView, cut: Cut, rows: U32, times_ms: I64) -> F32:
        """Users without an event before their time are what their attributes say."""
        own = None if self.attributes is None else self.attributes[USER]
        if own is None or self.user_words is None or not len(rows):
            return made_nD
        cold = np.flatnonzero(view.recent(USER, rows, times_ms, 1, cut).count_BR.sum(axis=1) == 0)
        prior_nD, known = self.user_words.of(own, rows[cold], times_ms[cold])
        made_nD = made_nD.copy()
        made_nD[cold[known], :-1] = prior_nD[known, :-1]
        return made_nD

    def state_dict(self) -> dict[str, Mapping[str, Tensor]]:
        """Parts of the trainer's state; a side without words is left out."""
        words = {"item_words": self.item_words, "user_words": self.user_words}
        return {name: own.state_dict() for name, own in words.items() if own is not None}

    def of_state(self, parts: Mapping[str, Mapping[str, Tensor]], fields: object) -> ColdStart:
        """Go on from a saved state; words of other fields than those of now are left behind."""
        if self.attributes is None:
            return self
        assert isinstance(fields, dict)
        loaded: dict[str, TokenVectors | None] = {"item_words": None, "user_words": None}
        for name, side in (("item_words", ITEM), ("user_words", USER)):
            own = self.attributes[side]
            if own is not None and name in parts and fields.get(name) == _told(own):
                loaded[name] = TokenVectors.of_state(parts[name], own)
        return ColdStart(self.attributes, **loaded)

    def fields(self) -> dict[str, object]:
        """The fields by side, as JSON values: for ``of_state``."""
        sides = {"item_words": ITEM, "user_words": USER}
        attributes = self.attributes
        if attributes is None:
            return {}
        return {name: _told(own) for name, side in sides.items() if (own := attributes[side]) is not None}


def _fitted(own: AttributeView, rows: U32, vector_ND: F32, before_ms: int) -> TokenVectors:
    body_ND = vector_ND.copy()
    body_ND[:, -1] = 0
    return TokenVectors.fit(own, rows, body_ND, before_ms)


def _told(own: AttributeView) -> list[list[str]]:
    return [[field.name, field.kind] for field in own.fields]
