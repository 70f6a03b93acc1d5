"""How a vector is written: ``float32``, ``float16`` or ``int8``. The manifest's ``vectors`` names the form.

    Vectors ──► [encoded] ──► field ``embedding`` in Redis ──► [decoded] ──► EmbeddingReader

All numbers are little-endian. ``int8`` is a float32, the scale, and then for each dimension a signed byte:
the component divided by the scale, which is the largest component's size divided by 127.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np

from driftgraph.stream.arrays import F32, Mask

Form = Literal["float32", "float16", "int8"]
FORMS: Final[tuple[str, ...]] = get_args(Form)
FLOAT32: Final = "float32"  # also that of a manifest that names none
FLOAT16_MAX: Final = 65_504.0
_INT8_MAX: Final = 127
_TYPES: Final = {"float32": "<f4", "float16": "<f2"}


def bytes_of(form: str, dim: int) -> int:
    """Bytes of one vector."""
    return 4 + dim if form == "int8" else dim * (4 if form == FLOAT32 else 2)


def encoded(vectors: F32, form: str) -> list[bytes]:
    """Vectors [N, dim] as they are written."""
    if form != "int8":
        rows = np.ascontiguousarray(vectors, dtype=_TYPES[form])
        return [row.tobytes() for row in rows]
    largest = (
        np.abs(vectors).max(axis=1, keepdims=True)
        if vectors.size
        else np.zeros((len(vectors), 1), np.float32)
    )
    scale = (largest / _INT8_MAX).astype("<f4")
    rounded = np.rint(np.divide(vectors, scale, out=np.zeros_like(vectors), where=scale > 0))
    whole = np.clip(rounded, -_INT8_MAX, _INT8_MAX).astype(np.int8)
    return [one.tobytes() + row.tobytes() for one, row in zip(scale, whole, strict=True)]


def decoded(blobs: Sequence[bytes], form: str, dim: int) -> F32:
    """Vectors [N, dim] of what was written.

    Raises:
        ValueError: If a blob has another length.
    """
    joined = b"".join(blobs)
    if form == "int8":
        table = np.frombuffer(joined, np.dtype([("scale", "<f4"), ("whole", "i1", (dim,))]))
        scaled: F32 = table["whole"].astype(np.float32) * table["scale"][:, None]
        return scaled
    return np.frombuffer(joined, _TYPES[form]).reshape(len(blobs), dim).astype(np.float32, copy=False)


def rows_of(blobs: Sequence[bytes | None], form: str, dim: int) -> tuple[F32, Mask]:
    """Vectors [N, dim] of what was written, and which there are: zero where there is none of this length."""
    size = bytes_of(form, dim)
    sound = [blob for blob in blobs if blob is not None and len(blob) == size]
    if len(sound) == len(blobs):
        vectors = decoded(sound, form, dim)
        return (vectors if vectors.flags.writeable else vectors.copy()), np.ones(len(blobs), np.bool_)
    there = (blob is not None and len(blob) == size for blob in blobs)
    found = np.fromiter(there, np.bool_, len(blobs))
    rows = np.zeros((len(blobs), dim), np.float32)
    rows[found] = decoded(sound, form, dim)
    return rows, found
