"""How a vector is written: ``float32``, ``float16`` or ``int8``. The manifest's ``vectors`` names the form.

    Vectors ──► [encoded] ──► field ``embedding`` in Redis ──► [decoded] ──► EmbeddingReader

All numbers are little-endian. ``int8`` is a float32, the scale, and then for each dimension a signed byte:
the component divided by the scale, which is the largest component's size divided by 127.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from driftgraph.stream.arrays import F32, Mask

Form = Literal["float32", "float16", "int8"]
FLOAT32: Final = "float32"  # also that of a manifest that names none
FLOAT16_MAX: Final = 65_504.0
_INT8_MAX: Final = 127
_TYPES: Final = {"float32": "<f4", "float16": "<f2"}


def bytes_of(form: str, dim: int) -> int:
    """Bytes of one vector."""
    return 4 + dim if form == "int8" else dim * np.dtype(_TYPES[form]).itemsize


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
        ValueError: If a blob has another length, or the form is not known to this version.
    """
    joined = b"".join(blobs)
    if form == "int8":
        table = np.frombuffer(joined, np.dtype([("scale", "<f4"), ("whole", "i1", (dim,))]))
        scaled: F32 = table["whole"].astype(np.float32) * table["scale"][:, None]
        return scaled
    if form not in _TYPES:
        raise ValueError(f"vectors are written as {form!r}, which this version of driftgraph cannot read")
    return np.frombuffer(joined, _TYPES[form]).reshape(-1, dim).astype(np.float32, copy=False)


def rows_of(blobs: Sequence[bytes | None], count: int, dim: int, form: str = FLOAT32) -> tuple[F32, Mask]:
    """Vectors [count, dim] of the answers, zero and not found where there is none."""
    found = np.zeros(count, np.bool_)
    found[: len(blobs)] = [blob is not None for blob in blobs]
    vectors = np.zeros((count, dim), np.float32)
    vectors[found] = decoded([b for b in blobs if b], form, dim) if dim else 0
    return vectors, found
