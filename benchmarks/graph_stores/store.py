"""A store of a temporal graph, as the benchmark sees it: the window and each of its peers are one.

    traffic ──► Store.load, append ──► Sampler.recent ──► answers, compared with the oracle and timed

A store is ready to be sampled when ``append`` returns. Packages of peers are imported when a peer is made, so
that a benchmark can say which one is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from benchmarks.traffic import Shop, Traffic
from driftgraph.stream.arrays import I64, U32

USER, ITEM = 0, 1  # sides, as the window numbers them
ALL_RELATIONS = -1  # the relation of answers by a peer that knows only one
K = 10
BATCH = 20_000


@dataclass(frozen=True, slots=True)
class Answers:
    """Neighbors found, one entry each, in any order."""

    node: npt.NDArray[Any]
    relation: npt.NDArray[Any]
    neighbor: npt.NDArray[Any]
    time_ms: I64


class Sampler(Protocol):
    """Finds neighbors. What ``recent`` returns is the peer's own form; the other methods read it."""

    by_relation: bool  # K of each relation, or K of all together
    hops: int  # how many hops it is asked for
    seeds_share: float  # of the seeds of a batch that it is timed with

    def recent(self, side: int, nodes: U32, before_ms: I64) -> Any:
        """The K most recent neighbors of each node before its time, or what it has in their place. Timed."""
        ...

    def found(self, result: Any) -> tuple[U32, I64]:
        """Neighbors and event times of a result, flat: the seeds of the next hop. Timed in two hops."""
        ...

    def answers(self, side: int, nodes: U32, before_ms: I64) -> Answers:
        """The same as ``recent`` for comparing; not timed."""
        ...


class Store(Protocol):
    """Takes events in."""

    whole_window: bool  # keeps every event, not only the last of each node
    incremental: bool  # an append does not start from the log
    events_max: int  # more it is not asked to hold; its rates are those at so many

    def load(self, traffic: Traffic) -> None:
        """Take the first events, as fast as it can. Not timed."""

    def append(self, batch: Traffic) -> None:
        """Take a batch; sampling may begin when this returns. Timed."""

    def samplers(self) -> Mapping[str, Sampler]:
        """By name. Called when all events are in."""
        ...


PACKAGES = {
    "dgl": "dgl",
    "torch_geometric": "torch_geometric",
    "tgm": "tgm-lib",
    "scipy": "scipy",
    "lists": "",
}
MODULES = {
    "dgl": "with_dgl",
    "torch_geometric": "with_torch_geometric",
    "tgm": "with_tgm",
    "scipy": "with_scipy",
    "lists": "with_lists",
}


class MissingPeer(Exception):  # noqa: N818  # not a fault of the benchmark
    """A peer's package is not installed: says which, and how to install it."""


def store_of(name: str, shop: Shop) -> Store:
    """Make an empty store.

    Raises:
        MissingPeer: Its package is not there.
    """
    try:
        module = importlib.import_module(f"benchmarks.graph_stores.peers.{MODULES[name]}")
    except ImportError as error:
        raise MissingPeer(
            f"{PACKAGES[name]} cannot be imported ({error}): pip install -c constraints.txt -e '.[bench]'"
        ) from error
    made: Store = module.make(shop)
    return made
