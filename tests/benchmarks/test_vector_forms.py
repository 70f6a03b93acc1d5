"""The benchmark of vector forms says of float32 that it loses nothing, and of int8 that it loses a bit."""

from __future__ import annotations

import numpy as np

from benchmarks import vector_forms
from driftgraph.snapshots.generations.vectors import Vectors

RNG = np.random.default_rng(3)


def test_each_form_is_held_against_float32() -> None:
    ids = [f"i{n}" for n in range(2_000)]
    items = Vectors(ids, RNG.standard_normal((2_000, 16)).astype(np.float32), np.arange(2_000))
    users = Vectors(["a", "b"], RNG.standard_normal((2, 16)).astype(np.float32), np.arange(2), [["i1"], []])
    found = {(one["vectors"], one["index"]): one for one in vector_forms.measured(users, items, ["a", "b"])}
    assert found.keys() == {*vector_forms.FORMS}
    for way in ("by_all_items", "by_vector_set"):
        assert found["float32", "float32"][way]["recall"] == 1
        assert found["float32", "float32"][way]["score_off_of_spread"] == 0
        assert 0 < found["float16", "float32"][way]["score_off_of_spread"] < 0.01
        assert found["int8", "float32"][way]["score_off_of_spread"] > 0.0005
        assert found["int8", "int8"][way]["recall"] > 0.8
    assert found["int8", "int8"]["megabytes"] < found["float32", "float32"]["megabytes"]
