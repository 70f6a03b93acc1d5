"""A vector for each word of the attributes, such that an id is about the sum of its words: cold start.

    vectors that a fit published ──► [TokenVectors.fit] ──► of(rows, time): vectors by attributes

An id without events, or with few, has the vector of its words in place of one that nothing has taught yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from driftgraph.model.attributes.vocabulary import NO_WORD, Vocabulary, shares_of
from driftgraph.stream.arrays import F32, I64, U32, Mask
from driftgraph.stream.attributes.table import AttributeView

RIDGE = 3.0  # ids with a word: with so many it has half of what they have in common
WORDS_MAX = 65_536  # that have a vector; the most frequent ones
STEPS = 30  # of conjugate gradients
CONVERGED = 1e-8  # of the squared length that they began with


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """Vectors z of words, least squares with a ridge: Σ_ids |x − m − Σ_w share_w z_w|² + λ Σ_w |z_w|².

    Always true: ``words`` ascend; a word that was not seen in the fit has a vector of zeros.

    Source: the attribute part of Pilászy and Tikk, "Recommending new movies: even a few ratings are more
    valuable than metadata", RecSys 2009, with shares in place of counts.
    """

    vocabulary: Vocabulary
    words: I64  # [K]
    vector_KD: F32
    mean_D: F32

    @classmethod
    def fit(cls, attributes: AttributeView, rows: U32, vector_ND: F32, before_ms: int) -> TokenVectors:
        """By these rows' vectors, and their attributes as of strictly before a time."""
        tokens = attributes.tokens(rows, before_ms)
        vocabulary = Vocabulary.of(attributes.fields, tokens)
        words_NW = vocabulary.words(tokens)
        known, count = np.unique(words_NW[words_NW != NO_WORD], return_counts=True)
        if len(known) > WORDS_MAX:
            known = np.sort(known[np.argsort(-count, kind="stable")[:WORDS_MAX]])
        has = (words_NW != NO_WORD).any(axis=1)
        mean_D = vector_ND[has].mean(0) if has.any() else np.zeros(vector_ND.shape[1], np.float32)
        made = cls(vocabulary, known, np.zeros((len(known), vector_ND.shape[1]), np.float32), mean_D)
        number_NW, share_NW = made._numbered(words_NW[has])
        vector_KD = _solve(number_NW, share_NW, vector_ND[has] - mean_D, len(known))
        return cls(vocabulary, known, vector_KD, mean_D)

    def of(self, attributes: AttributeView, rows: U32, before_ms: int | I64) -> tuple[F32, Mask]:
        """[n, D] the vector of each row's attributes, and [n] whether it has one that the fit knew."""
        number_NW, share_NW = self._numbered(self.vocabulary.words(attributes.tokens(rows, before_ms)))
        if not len(self.words):
            return np.tile(self.mean_D, (len(rows), 1)), np.zeros(len(rows), np.bool_)
        summed = functional.embedding_bag(
            torch.from_numpy(number_NW),
            torch.from_numpy(self.vector_KD),
            per_sample_weights=torch.from_numpy(share_NW),
            mode="sum",
        )
        known = np.asarray((share_NW > 0).any(axis=1), np.bool_)
        return self.mean_D + summed.numpy(), known

    def state_dict(self) -> dict[str, Tensor]:
        """As tensors."""
        return {
            "words": torch.from_numpy(self.words),
            "vectors": torch.from_numpy(self.vector_KD),
            "mean": torch.from_numpy(self.mean_D),
            "edges": torch.from_numpy(self.vocabulary.edges_FB),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], attributes: AttributeView) -> TokenVectors:
        """From ``state_dict``, for the same fields."""
        vocabulary = Vocabulary(attributes.fields, state["edges"].numpy())
        return cls(vocabulary, state["words"].numpy(), state["vectors"].numpy(), state["mean"].numpy())

    def _numbered(self, words_NW: I64) -> tuple[I64, F32]:
        """The place of each word among ``words``, and what it counts; 0 and 0 where it is not there."""
        at = np.minimum(np.searchsorted(self.words, words_NW), max(len(self.words) - 1, 0))
        known = self.words[at] == words_NW if len(self.words) else np.zeros(words_NW.shape, np.bool_)
        share_NW = shares_of(words_NW, self.vocabulary.field_W)
        return np.where(known, at, 0), np.where(known, share_NW, 0).astype(np.float32)


def _solve(number_NW: I64, share_NW: F32, target_ND: F32, words: int) -> F32:
    """[K, D]: (AᵀA + λI) z = Aᵀ x by conjugate gradients, all channels at once, in double precision."""
    number, share = torch.from_numpy(number_NW), torch.from_numpy(share_NW.astype(np.float64))
    place, column = share_NW.nonzero()
    order = np.argsort(number_NW[place, column], kind="stable")
    source = torch.from_numpy(place[order])
    weight = torch.from_numpy(share_NW[place, column][order].astype(np.float64))
    counts = np.bincount(number_NW[place, column], minlength=words)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)[:-1]]))

    def down(value_KD: Tensor) -> Tensor:
        return functional.embedding_bag(number, value_KD, per_sample_weights=share, mode="sum")

    def up(value_ND: Tensor) -> Tensor:
        return functional.embedding_bag(source, value_ND, offsets, per_sample_weights=weight, mode="sum")

    left_KD = up(torch.from_numpy(target_ND.astype(np.float64)))
    found_KD, way_KD = torch.zeros_like(left_KD), left_KD.clone()
    squared_D = first_D = (left_KD**2).sum(0)
    for _ in range(STEPS):
        if bool((squared_D <= CONVERGED * first_D).all()):
            break
        pushed_KD = up(down(way_KD)) + RIDGE * way_KD
        rate_D = squared_D / (way_KD * pushed_KD).sum(0).clamp_min(1e-300)
        found_KD += rate_D * way_KD
        left_KD -= rate_D * pushed_KD
        before_D, squared_D = squared_D, (left_KD**2).sum(0)
        way_KD = left_KD + (squared_D / before_D.clamp_min(1e-300)) * way_KD
    made: F32 = found_KD.numpy().astype(np.float32)
    return made
