"""Tastes: what the attributes of a candidate say, given what a user touched before.

    attributes of items, users' newest events ──► [Tastes.of] ──► the features ``taste`` and
                                                                  ``attribute_paths`` of the scorer

For a word w of an attribute (an author, a bucket of prices), m being ``PRIOR_EVENTS``:

    taste(u, i, t) = Σ_fields  mean over words w of i in the field:  log(1 + n_u(w, t) / (m · g(w)))

n_u sums 1 / (1 + place) over u's distinct items with w before t, the newest at place 0, and g is the share of
recent events on items with w. Up to a number that all candidates with the field share, it is the log of how
much more of w there is with u than with all, where a user of few events is shrunk to what all do. It is 0
where nothing is known. ``kin`` is how popular the items with an item's words are: a new item's own events do
not tell yet.

The second feature sums the paths user — own item — word — item, so that an item competes with the others
of its words alone, where a new one has a chance from its first event on:

    attribute_paths(u, i, t) = log(1 + Σ_fields  mean over words w of i:  n_u(w, t) · n_i / (1 + n(w)) / ε)

n_i and n(w) are the recent events on the item and on all candidates with w.

Shape suffixes: n users, C candidates, R rows of items, W places for words of an item, K words, P postings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from driftgraph.model.attributes.vocabulary import NO_WORD, Vocabulary, shares_of
from driftgraph.model.score.bank import COUNT_SCALE, HALF_LIVES_H, Bank
from driftgraph.model.score.scorer import ATTRIBUTE_PATHS, KIN, TASTE
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.window.adjacency import USER
from driftgraph.stream.window.writer import Cut, WindowView

EVENTS = 64  # newest of a user by relation that its taste is made of
PRIOR_EVENTS = 5.0  # with fewer items of a field a user is more like all than like itself
KIN_EVENTS = 5.0  # with so many events half of what an item's kin says of it is known of itself
GENERAL = HALF_LIVES_H.index(168)  # the half-life of what all do
RECENT = HALF_LIVES_H.index(24)  # the half-life of the events on the way from a word to an item
WORTH_SCALE = 200.0  # 1 / ε


class _Postings(NamedTuple):
    """The candidates of each word, and what the word counts for them."""

    start_K1: I64
    place_P: I64
    share_P: F32


class Tasted(NamedTuple):
    """What attributes say of n users and all candidates."""

    taste_nC: F32
    kin_C: F32
    paths_nC: F32

    def weighted(self, weight_F: F32) -> F32:
        """[n, C]: what they add to the scores."""
        found: F32 = weight_F[TASTE] * self.taste_nC + weight_F[KIN] * self.kin_C
        found += weight_F[ATTRIBUTE_PATHS] * self.paths_nC
        return found

    def features(self, user: I64, place: I64) -> F32:
        """[P, 3]: those of ``ATTRIBUTES``, of pairs of a user and a candidate."""
        taste_P, paths_P = self.taste_nC[user, place], self.paths_nC[user, place]
        return np.stack([taste_P, self.kin_C[place], paths_P], axis=1)


class Tastes:
    """The attributes of all items as of strictly before a moment, by row, and of the candidates by word."""

    def __init__(self, attributes: AttributeView, view: WindowView, bank: Bank, candidate: I64) -> None:
        """As of the bank's moment. O(rows · W)."""
        self._view, self._attributes = view, attributes
        rows = len(bank.degree_R)
        tokens_RW = attributes.tokens(np.arange(rows, dtype=np.uint32), bank.time_ms)
        self._vocabulary = vocabulary = Vocabulary.of(attributes.fields, tokens_RW[candidate])
        words_RW = vocabulary.words(tokens_RW)
        self._share_RW = shares_of(words_RW, vocabulary.field_W)
        known, number = np.unique(words_RW, return_inverse=True)
        first = int(len(known) > 0 and known[0] == NO_WORD)
        self._known_K: I64 = known[first:]
        self._number_RW: I64 = number.reshape(words_RW.shape) - first  # −1 where there is no word
        self._candidate, self._bank = candidate, bank
        words = len(known) - first
        self._general_K = self._general(bank, words_RW.max(initial=0) > 0, words)
        self._postings = self._posted(candidate, words)
        self.kin_C = self._kin(bank, candidate, words)
        self.follow()

    def follow(self) -> None:
        """Let the paths know the events that the bank has counted since. O(words of candidates)."""
        own, recent_C = self._postings, self._bank.count_FR[RECENT, self._candidate]
        word_P = np.repeat(np.arange(len(own.start_K1) - 1), np.diff(own.start_K1))
        recent_P = own.share_P * recent_C[own.place_P]
        summed_K = np.bincount(word_P, recent_P, minlength=len(own.start_K1))
        self._worths = own._replace(share_P=(recent_P / (1 + summed_K[word_P])).astype(np.float32))

    def of(self, rows: U32, times_ms: I64, cut: Cut) -> Tasted:
        """Of n users as of strictly before their times; candidates are as of the newest ``follow``.

        Raises:
            StaleCut: Events of the cut were overwritten meanwhile.
        """
        taste_nC, paths_nC = np.zeros((2, len(rows), len(self._candidate)), np.float32)
        user, item = self._own_items(rows, times_ms, cut)
        place = np.arange(len(user)) - np.searchsorted(user, user)
        word, share = self._words_of(item, times_ms[user])
        there, share = word >= 0, share / (1 + place)[:, None]
        words = max(len(self._general_K), 1)
        pair, at = np.unique((user[:, None] * words + np.maximum(word, 0))[there], return_inverse=True)
        pair_user, pair_word = np.divmod(pair, words)
        count = np.bincount(at, share[there], minlength=len(pair))
        value = np.log1p(count / (PRIOR_EVENTS * self._general_K[pair_word])).astype(np.float32)
        _spread(pair_user, pair_word, value, self._postings, taste_nC)
        _spread(pair_user, pair_word, (WORTH_SCALE * count).astype(np.float32), self._worths, paths_nC)
        paths_nC += 1
        return Tasted(taste_nC, self.kin_C, np.log(paths_nC, out=paths_nC))

    def _words_of(self, item: I64, times_ms: I64) -> tuple[I64, F64]:
        """[n, W] numbers of the words of items, −1 for none, and shares.

        An item of which nothing was said at the moment is as of its time: the newest items are often new.
        """
        at = np.minimum(item, len(self._number_RW) - 1)
        number, share = self._number_RW[at], self._share_RW[at]
        number[at != item] = -1
        late = np.flatnonzero((number < 0).all(axis=1))
        if len(late) and len(self._known_K):
            words = self._vocabulary.words(
                self._attributes.tokens(item[late].astype(np.uint32), times_ms[late])
            )
            at = np.minimum(np.searchsorted(self._known_K, words), len(self._known_K) - 1)
            number[late] = np.where(self._known_K[at] == words, at, -1)
            share[late] = shares_of(words, self._vocabulary.field_W)
        return number, share

    def _own_items(self, rows: U32, times_ms: I64, cut: Cut) -> tuple[I64, I64]:
        """User and item of each user's distinct items, the newest first, of one time by row."""
        near = self._view.recent(USER, rows, times_ms, EVENTS, cut)
        real = np.arange(EVENTS) < near.count_BR[:, :, None]
        user, item = real.nonzero()[0], near.neighbor_BRK[real].astype(np.int64)
        age_ms = times_ms[user] - near.time_ms_BRK[real]
        order = np.lexsort((age_ms, item, user))
        user, item, age_ms = user[order], item[order], age_ms[order]
        newest = np.ones(len(user), np.bool_)
        newest[1:] = (np.diff(user) != 0) | (np.diff(item) != 0)
        order = np.flatnonzero(newest)
        order = order[np.lexsort((age_ms[order], user[order]))]
        return user[order], item[order]

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
            made[user[n], postings.place_P[at]] += value[n] * postings.share_P[at]
