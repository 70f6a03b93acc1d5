"""From the tokens of an attribute table to words: numbers that mean one thing whatever the field.

AttributeView.tokens ──► [Vocabulary.words] ──► tastes, token vectors

The tokens of categories, tags and texts are words as they are. A number is the word of its bucket, whose
edges are quantiles of what was known when the vocabulary was made: so the buckets follow the stream, and
nothing that came later has a say in where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftgraph.stream.arrays import F64, I64, U32
from driftgraph.stream.attributes.fields import Field, number_of

NUMBER_BUCKETS = 8
NO_WORD = -1
FIELD_BIT = 32  # a word is field << FIELD_BIT | token


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The fields of a side, and the edges of the buckets of their numbers."""

    fields: tuple[Field, ...]
    edges_FB: F64  # ascending; inf where a field has no numbers

    @classmethod
    def of(cls, fields: Sequence[Field], tokens_NW: U32) -> Vocabulary:
        """Edges by the numbers among the tokens of N ids."""
        edges = np.full((len(fields), NUMBER_BUCKETS - 1), np.inf)
        column = 0
        for f, field in enumerate(fields):
            if field.kind == "number":
                numbers = number_of(tokens_NW[:, column])
                numbers = numbers[np.isfinite(numbers)].astype(np.float64)
                if len(numbers):
                    shares = np.arange(1, NUMBER_BUCKETS) / NUMBER_BUCKETS
                    edges[f] = np.quantile(numbers, shares, method="inverted_cdf")
            column += field.width
        return cls(tuple(fields), edges)

    @property
    def field_W(self) -> I64:  # noqa: N802  # W is the shape
        """[W] the field of each column of tokens."""
        return np.repeat(np.arange(len(self.fields)), [field.width for field in self.fields])

    def words(self, tokens_NW: U32) -> I64:
        """[N, W]; ``NO_WORD`` where there is no token."""
        field_W = self.field_W
        token_NW = tokens_NW.astype(np.int64)
        for w, f in enumerate(field_W.tolist()):
            if self.fields[f].kind == "number":
                bucket_N = np.searchsorted(self.edges_FB[f], number_of(tokens_NW[:, w]), side="left")
                token_NW[:, w] = np.where(tokens_NW[:, w] > 0, 1 + bucket_N, 0)
        words: I64 = np.where(token_NW > 0, (field_W << FIELD_BIT) | token_NW, NO_WORD)
        return words


def shares_of(words_NW: I64, field_W: I64) -> F64:
    """[N, W] what each word counts: the words of a field share 1; 0 where there is none."""
    shares = np.zeros(words_NW.shape)
    for f in np.unique(field_W):
        there = words_NW[:, field_W == f] != NO_WORD
        shares[:, field_W == f] = there / np.maximum(there.sum(1, keepdims=True), 1)
    return shares
