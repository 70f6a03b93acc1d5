"""What is said of items in the window becomes what a condition is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from driftgraph.app.publishing.item_attributes import attributes_of
from driftgraph.snapshots.reading.where import Where
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import Field
from driftgraph.stream.events import Strings
from driftgraph.stream.window.adjacency import ITEM
from tests.stream.attributes.test_attributes import batch_of, graph_of

FIELDS = AttributeFields(
    item=(
        Field("name", "text"), Field("sort", "category"), Field("tags", "tags"), Field("price", "number"),
    )
)  # fmt: skip
SAID = {
    "i0": ["A red shoe", "shoes", "red, warm;new", "19.99"],
    "i1": ["", "Boots & more", "warm", ""],
    "i2": ["", "", "", "-3"],
    "i3": ["words alone", "", "", ""],
}


@pytest.mark.parametrize(
    ("where", "fitting"),
    [
        ({"sort": "shoes"}, ["i0"]),
        ({"sort": ("shoes", "Boots & more")}, ["i0", "i1"]),
        ({"tags": "warm"}, ["i0", "i1"]),
        ({"tags": "warm", "price": (None, 20)}, ["i0"]),
        ({"price": (19.99, 19.99)}, ["i0"]),
        ({"price": (None, 0)}, ["i2"]),
        ({"price": (None, None)}, ["i0", "i2"]),
        ({"name": "shoe"}, []),
    ],
)
def test_conditions_hold_for_what_was_said_before_the_time(where: dict[str, Any], fitting: list[str]) -> None:
    graph = graph_of()
    table = Attributes(None, FIELDS, graph)
    batch = batch_of([("u", item, 100, said) for item, said in SAID.items()])
    later = batch_of([("u", "i0", 200, ["", "hats", "", "1"])])
    for one in (batch, later):
        graph.apply(one)
        table.apply(one)
    view, rows = table[ITEM], graph.find(ITEM, Strings.of(list(SAID))).astype(np.uint32)
    assert view is not None
    told = attributes_of(view, rows, 200)
    assert told.names == ("sort", "tags", "price"), "the words of a text are no condition"
    assert [i for i, own in zip(SAID, told.rows, strict=True) if Where(where).fits(own)] == fitting
    assert attributes_of(view, rows, 100).rows == [b""] * 4
    assert Where({"sort": "hats"}).fits(attributes_of(view, rows, 201).rows[0])
