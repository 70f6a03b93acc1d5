"""What is said of items, as Redis gets it beside their vectors: for conditions such as a category or a price.

AttributesView ──► [attributes_of] ──► Vectors.attributes ──► an item's hash, and the vector set
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from driftgraph.snapshots.generations.vectors import ItemAttributes
from driftgraph.snapshots.reading.where import key_of
from driftgraph.stream.arrays import U32
from driftgraph.stream.attributes.fields import number_of
from driftgraph.stream.attributes.table import AttributeView

TOLD: Final = ("category", "tags", "number")  # the words of a text are no condition


def attributes_of(own: AttributeView, rows: U32, before_ms: int) -> ItemAttributes:
    """What is said of items [n] strictly before a time, each as JSON by field: tokens, or a number."""
    tokens = own.tokens(rows, before_ms)
    found: list[dict[str, list[int] | float]] = [{} for _ in rows]
    names = list[str]()
    for n, field in enumerate(own.fields):
        if field.kind not in TOLD:
            continue
        names.append(field.name)
        key, part = key_of(field.name), tokens[:, int(own.first[n]) : int(own.first[n + 1])]
        for row in np.flatnonzero(part[:, 0]).tolist():
            found[row][key] = (
                float(number_of(part[row, :1])[0])
                if field.kind == "number"
                else [int(token) for token in part[row] if token]
            )
    return ItemAttributes(tuple(names), [msgspec.json.encode(one) if one else b"" for one in found])
