"""Tastes: how much of what a user touched before has the attributes of a candidate.

    attributes of items, users' newest events ──► [Tastes.of] ──► the feature ``taste`` of the scorer

For a word w of an attribute (an author, a bucket of prices), m being ``PRIOR_EVENTS``:

    taste(u, i, t) = Σ_fields  mean over words w of i in the field:  log(1 + n_u(w, t) / (m · g(w)))

n_u is the count of u's distinct items with w before t, decayed by age, and g the share of recent events on
items with w. Up to a number that all candidates with the field share, it is the log of how much more of w
there is with u than with all, where a user of few events is shrunk to what all do. It is 0 where nothing is
known. ``kin`` is how popular the items with an item's words are: a new item's own events do not tell yet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from driftgraph.model.attributes.vocabulary import NO_WORD, Vocabulary, shares_of
from driftgraph.model.score.bank import COUNT_SCALE, HALF_LIVES_H, HOUR_MS, Bank
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.writer import Cut, WindowView

HALF_LIFE_MS = 7 * 24 * HOUR_MS
EVENTS = 64  # newest of a user by relation that its taste is made of
PRIOR_EVENTS = 5.0  # with fewer items of a field a user is more like all than like itself
KIN_EVENTS = 5.0  # with so many events half of what an item's kin says of it is known of itself
GENERAL = HALF_LIVES_H.index(168)  # the half-life of what all do


class _Postings(NamedTuple):
    """The candidates of each word, and what the word counts for them."""

    start_K1: I64
    place: I64
    share: F32


class Tastes:
    """The attributes of all items as of strictly before a moment, by row, and of the candidates by word."""

    def __init__(self, attributes: AttributeView, view: WindowView, bank: Bank, candidate: I64) -> None:
        """As of the bank's moment. O(rows · W)."""
        self._view = view
        rows = len(bank.degree_R)
        tokens_RW = attributes.tokens(np.arange(rows, dtype=np.uint32), bank.time_ms)
        vocabulary = Vocabulary.of(attributes.fields, tokens_RW[candidate])
        words_RW = vocabulary.words(tokens_RW)
        self._share_RW = shares_of(words_RW, vocabulary.field_W)
        known, number = np.unique(words_RW, return_inverse=True)
        first = int(len(known) > 0 and known[0] == NO_WORD)
        self._number_RW: I64 = number.reshape(words_RW.shape) - first  # −1 where there is no word
        self._candidates = len(candidate)
        self._general_K = self._general(bank, words_RW.max(initial=0) > 0, len(known) - first)
        self._postings = self._posted(candidate, len(known) - first)
        self.kin_C = self._kin(bank, candidate, len(known) - first)

    def of(self, rows: U32, times_ms: I64, cut: Cut) -> F32:
        """[n, C] of n users as of strictly before their times.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        made = np.zeros((len(rows), self._candidates), np.float32)
        near = self._view.recent(USER, rows, times_ms, EVENTS, cut)
        real = np.arange(EVENTS) < near.count_BR[:, :, None]
        user, item = real.nonzero()[0], near.neighbor_BRK[real].astype(np.int64)
        age_ms = times_ms[user] - near.time_ms_BRK[real]
        order = np.lexsort((age_ms, item, user))
        user, item, age_ms = user[order], item[order], age_ms[order]
        newest = np.ones(len(user), np.bool_)
        newest[1:] = (np.diff(user) != 0) | (np.diff(item) != 0)
        newest &= item < len(self._number_RW)
        user, item, age_ms = user[newest], item[newest], age_ms[newest]
        word, share = self._number_RW[item], self._share_RW[item]
        there = word >= 0
        weight = (2.0 ** (-age_ms / HALF_LIFE_MS))[:, None] * share
        words = max(len(self._general_K), 1)
        pair, at = np.unique((user[:, None] * words + np.maximum(word, 0))[there], return_inverse=True)
        count = np.bincount(at, weight[there], minlength=len(pair))
        value = np.log1p(count / (PRIOR_EVENTS * self._general_K[pair % words])).astype(np.float32)
        _spread(pair // words, pair % words, value, self._postings, made)
        return made

    def _general(self, bank: Bank, has_words: bool, words: int) -> F64:
        """[K] the share of recent events that each word has among those of its field."""
        if not has_words:
            return np.ones(words)
        count_R = bank.count_FR[GENERAL] + 1e-9
        weight_RW = count_R[:, None] * self._share_RW
        there = self._number_RW >= 0
        by_word = np.bincount(self._number_RW[there], weight_RW[there], minlength=words)
        total: F64 = by_word / max(float(count_R.sum()), 1e-9)
        return np.maximum(total, 1e-6)

    def _kin(self, bank: Bank, candidate: I64, words: int) -> F32:
        """[C] how popular the items with a candidate's words are, as far as its own events do not tell."""
        number_CW, share_CW = self._number_RW[candidate], self._share_RW[candidate]
        there = number_CW >= 0
        count_C = bank.count_FR[GENERAL, candidate]
        summed = np.bincount(number_CW[there], (share_CW * count_C[:, None])[there], minlength=words)
        items = np.bincount(number_CW[there], share_CW[there], minlength=words)
        worth_K = np.log1p(COUNT_SCALE * summed / np.maximum(items, 1e-9))
        worth_CW = np.where(there, worth_K[np.maximum(number_CW, 0)] if words else 0.0, 0.0)
        fields_C = np.maximum(share_CW.sum(1), 1)
        known_C = KIN_EVENTS / (KIN_EVENTS + bank.degree_R[candidate])
        kin: F32 = ((worth_CW * share_CW).sum(1) / fields_C * known_C).astype(np.float32)
        return kin

    def _posted(self, candidate: I64, words: int) -> _Postings:
        number_CW, share_CW = self._number_RW[candidate], self._share_RW[candidate]
        place, column = (number_CW >= 0).nonzero()
        word = number_CW[place, column]
        order = np.argsort(word, kind="stable")
        return _Postings(
            np.concatenate([[0], np.cumsum(np.bincount(word, minlength=words))]).astype(np.int64),
            place[order].astype(np.int64),
            share_CW[place, column][order].astype(np.float32),
        )


@kernel
def _spread(
    user: I64, word: I64, value: F32, postings: _Postings, made: F32
) -> None:  # pragma: no cover - compiled
    """Give each candidate of a user's word the word's value."""
    for n in range(len(user)):
        for at in range(postings.start_K1[word[n]], postings.start_K1[word[n] + 1]):
            made[user[n], postings.place[at]] += value[n] * postings.share[at]
