"""The vectors of one side of a generation (users or items), checked, and in the form that Redis takes.

Trainer ──► [Vectors] ──► GenerationStore (store.py)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from driftgraph.snapshots.generations.keys import LIST_FIELDS, TOUCHED_MAX
from driftgraph.snapshots.generations.vector_forms import FLOAT16_MAX, FLOAT32, encoded
from driftgraph.stream.arrays import F32, F64, I64

# The product of two vectors of this length, and the square of one, which a vector set computes, are far below
# the limit of float32 at 3.4e38. Lengths of a trained model are near 1.
NORM_MAX = 1e18

Listed = tuple[bytes, bytes]  # items, best first: ids as a JSON list, scores as float32 little-endian
NO_LIST: Final[Listed] = (b"", b"")  # for a user or an item without one; an empty list is (b"[]", b"")


class ItemAttributes(NamedTuple):
    """What is said of N items: the names of the fields, and each item's values as JSON, empty for none.

    ``reading.where`` has the form.
    """

    names: tuple[str, ...]
    rows: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Vectors:
    """One side of a generation: N users or items by id.

    ``event_ms`` is the time of the newest event that is in the vector. ``touched`` (users only) lists the
    items a user had contact with, newest first; a reader leaves them out. The first ``TOUCHED_MAX`` are kept.
    ``lists`` has the items recommended to each user, which replace a ranking by vectors, or the items similar
    to each item. ``heads`` is what each adds to the logits of the heads. ``attributes`` is of items only.
    """

    ids: Sequence[str]
    vectors: F32  # [N, dim]
    event_ms: I64  # [N]
    touched: Sequence[Sequence[str]] | None = None
    lists: Sequence[Listed] | None = None
    heads: F32 | None = None  # [N, B]: what each adds to the logit of each head
    attributes: ItemAttributes | None = None

    def __len__(self) -> int:
        return len(self.ids)


def check(vectors: Vectors, side: str, form: str = FLOAT32) -> None:
    """Refuse vectors that must not reach Redis: wrong shapes, duplicate or empty ids, NaN and infinity.

    A vector longer than ``NORM_MAX`` counts as infinite, since its scores would be infinite.

    Raises:
        ValueError: If the vectors are not valid; the message names the side, the value and the rule.
    """
    n = len(vectors.ids)
    if vectors.vectors.ndim != 2 or vectors.vectors.dtype != np.float32:
        raise ValueError(
            f"{side} vectors must be float32 [N, dim], got {vectors.vectors.dtype} {vectors.vectors.shape}"
        )
    lengths = (len(vectors.vectors), len(vectors.event_ms))
    said = None if vectors.attributes is None else vectors.attributes.rows
    if lengths != (n, n) or any(
        len(c) != n for c in (vectors.touched, vectors.lists, vectors.heads, said) if c is not None
    ):
        raise ValueError(
            f"{side} columns disagree in length: {n} ids, {lengths[0]} vectors, {lengths[1]} times"
        )
    if len(set(vectors.ids)) != n:
        doubled = Counter(vectors.ids).most_common(1)[0][0]
        raise ValueError(f"{side} ids must be unique, {doubled!r} is there twice")
    if vectors.heads is not None and not np.isfinite(vectors.heads).all():
        raise ValueError(f"the heads' numbers of {side}s must be finite")
    if "" in vectors.ids:
        raise ValueError(f"a {side} id is empty; ids are 1 character or longer")
    sound = norms(vectors.vectors) <= NORM_MAX  # False for NaN
    if not sound.all():
        bad = int(np.argmin(sound))
        raise ValueError(
            f"{side} vectors must be finite and not longer than {NORM_MAX:g}, {n - int(sound.sum())} are "
            f"not; first: {vectors.ids[bad]!r}"
        )
    if form == "float16" and vectors.vectors.size and np.abs(vectors.vectors).max() > FLOAT16_MAX:
        raise ValueError(
            f"{side} vectors have a component beyond {FLOAT16_MAX:g}, which float16 cannot hold; set "
            "publish.vectors to float32"
        )


def dim_of(users: Vectors, items: Vectors, form: str = FLOAT32) -> int:
    """The number of dimensions of a generation, checked.

    Raises:
        ValueError: As ``check``; or if a side is empty, or the two sides differ in dimensions.
    """
    check(users, "user", form)
    check(items, "item", form)
    if not len(users) or not len(items):
        raise ValueError(f"a generation needs users and items, got {len(users)} and {len(items)}")
    dim, item_dim = int(users.vectors.shape[1]), int(items.vectors.shape[1])
    if dim != item_dim or dim == 0:
        raise ValueError(
            f"users have {dim} dimensions and items {item_dim}; they must agree and be at least 1"
        )
    return dim


def norms(vectors: F32) -> F64:
    """Lengths [N] of vectors [N, d], also where float32 could not hold their squares."""
    squared: F64 = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.sqrt(squared)


def digest_of(*sides: Vectors) -> str:
    """A digest that is equal for generations with the same content."""
    digest = hashlib.sha256()
    for side in sides:
        digest.update(msgspec.json.encode((side.ids, side.event_ms.tolist(), side.touched)))
        digest.update(side.vectors.tobytes())
        for ids, scores in side.lists or ():
            digest.update(b"%d:%b%b" % (len(ids), ids, scores))
        if side.heads is not None:
            digest.update(side.heads.astype("<f4").tobytes())
        if side.attributes is not None:
            digest.update(msgspec.json.encode(side.attributes))
    return digest.hexdigest()


def one_length(items: F32) -> F32:
    """Item vectors [N, d] as [N, d + 1], all as long as the longest; see ``of_length``."""
    return of_length(items, longest(items))


def longest(items: F32) -> float:
    """The length of the longest of these vectors; 1 if all are zero, since any length will do then."""
    return float(norms(items).max(initial=0)) or 1.0


def of_length(items: F32, norm: float) -> F32:
    """Item vectors [N, d] as [N, d + 1], all of one length, so that a search by cosine ranks by dot product.

    A vector set ranks by cosine and our score is a dot product. Each item becomes ``[x, sqrt(M² − |x|²)]``
    with M the length; for a query ``[u, 0]`` the cosine then orders exactly as ``u · x`` does. An item that
    is longer than M, as one may be that was made after a publish, ranks as if it were as long as M.

    Source: Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean Transformation for
    Inner-Product Spaces", RecSys 2014, section 3.
    """
    squared = np.einsum("nd,nd->n", items, items, dtype=np.float64)
    extra = np.sqrt(np.maximum(norm * norm - squared, 0)).astype(np.float32)
    return np.ascontiguousarray(np.concatenate([items, extra[:, None]], axis=1), dtype="<f4")


def hash_args(
    vectors: Vectors, side: str, number: int, rows: Sequence[int], form: str = FLOAT32
) -> Iterator[Any]:
    """The entries of the scripts (scripts.HASHES) for some rows of generation ``number``.

    For each id: the id, a number n, and n words, which are fields and values; a list comes last. Of what is
    None nothing is written.
    """
    ids_field, scores_field = LIST_FIELDS[side]
    blobs = encoded(vectors.vectors[rows], form)
    heads = None if vectors.heads is None else np.ascontiguousarray(vectors.heads[rows], dtype="<f4")
    for n, (row, event_ms) in enumerate(zip(rows, vectors.event_ms[rows].tolist(), strict=True)):
        words = [b"embedding", blobs[n], b"gen", number, b"event_ms", event_ms]
        if vectors.touched is not None:
            words += (b"touched", msgspec.json.encode(vectors.touched[row][:TOUCHED_MAX]))
        if heads is not None:
            words += (b"head", heads[n].tobytes())
        if vectors.attributes is not None:
            words += (b"attributes", vectors.attributes.rows[row])
        if vectors.lists is not None and vectors.lists[row] != NO_LIST:
            listed = vectors.lists[row]
            words += (ids_field, listed[0], scores_field, listed[1])
        yield vectors.ids[row]
        yield len(words)
        yield from words


def chunks(count: int, size: int) -> Iterator[tuple[int, int]]:
    """``0`` to ``count`` as (first, stop) pairs of at most ``size``."""
    for first in range(0, count, size):
        yield first, min(first + size, count)
