"""What kernels take from numba beyond its documentation, and up to which release that was tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from driftgraph.stream.arrays import I64
from driftgraph.stream.kernels import kernel_cache
from driftgraph.stream.kernels.compile import kernel, plain_kernel

ROOT = Path(__file__).resolve().parents[3]


class Pair(NamedTuple):
    first: I64
    second: I64
    calls: int


def chosen(pair: Pair, which: int) -> Any:
    column = pair.first if which else pair.second
    return Pair(column, column, pair.calls)


def summed(declare: Any) -> Any:
    """A kernel that hands arrays on to another one, in and out of tuples."""
    choose = declare(chosen)

    def total(pair: Pair) -> int:
        found = 0
        for which in range(pair.calls):
            found += choose(pair, which).first[0]
        return found

    return declare(total)


def counts_references(compiled: Any) -> bool:
    [code] = compiled.inspect_llvm().values()
    return "NRT_incref" in code or "NRT_decref" in code


def test_a_kernel_takes_tuples_of_arrays_and_counts_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain kernel beside it counts them, so that the test knows what it looks for."""
    monkeypatch.setattr(kernel_cache, "folder", lambda: None)  # kept machine code cannot be looked into
    pair = Pair(np.array([1]), np.array([10]), 2)
    ours, plain = summed(kernel), summed(plain_kernel)
    assert (ours(pair), plain(pair)) == (11, 11)
    assert counts_references(plain)
    assert not counts_references(ours)


def test_numba_is_allowed_up_to_the_release_that_was_tried() -> None:
    """To raise the bound: pin the new release in constraints.txt, run the tests of stream and
    ``benchmarks/window.py`` with it, and compare the rates with those of docs/LOG.md.
    """
    declared = re.search(r'"numba>=[\d.]+,<(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    pinned = re.search(r"^numba==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert declared is not None
    assert pinned is not None
    bound = (int(declared[1]), int(declared[2]))
    assert bound == (int(pinned[1]), int(pinned[2]) + 1), (
        test_numba_is_allowed_up_to_the_release_that_was_tried.__doc__
    )
