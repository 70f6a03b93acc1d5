"""Every number of the model and of its training, in one frozen value. Running state is elsewhere."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

STATE_FORMAT = 5  # of what a trainer saves; a state of another one is not read
LIST_LENGTH_MAX = 1_000  # of a published list; the longest that ``recommend`` prints, too
NEGATIVES = ("softmax", "lists")
NEGATIVES_MAX = 1_000  # of one event
NEGATIVES_OTHERS = 5  # of an event of a relation that a table of them does not name
SIZES = ("dim", "layers", "heads")  # a saved model goes on under the same ones only
# Of options; the words are pydantic's, since the tables of the configuration take their limits from here.
LIMITS: Final[Mapping[str, Mapping[str, float]]] = {
    "dim": {"ge": 2, "le": 1_024},
    "heads": {"ge": 1, "le": 64},
    "layers": {"ge": 1, "le": 3},
    "user_fanout": {"ge": 1, "le": 512},
    "item_fanout": {"ge": 1, "le": 512},
    "history_fanout": {"ge": 1},
    "uniform_pool": {"ge": 0, "le": 65_536},
    "batch_size": {"ge": 1, "le": 1 << 20},
    "sampled_negatives": {"ge": 0, "le": 1 << 20},
    "contrastive_weight": {"ge": 0, "le": 100},
    "learning_rate": {"gt": 0, "le": 1},
    "network_learning_rate": {"gt": 0, "le": 1},
    "clip_norm": {"gt": 0},
    "temperature": {"gt": 0},
    "half_life_share": {"gt": 0},
    "examples_max": {"ge": 1, "le": 1 << 31},
    "replay_ratio": {"ge": 0, "le": 100},
    "full_every_ms": {"ge": 0},
    "evaluations_max": {"ge": 1, "le": 1 << 31},
    "top": {"ge": 1},
}
_KINDS: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "ge": (operator.ge, "{} or more"),
    "gt": (operator.gt, "above {}"),
    "le": (operator.le, "{} or less"),
}


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """What a trainer is built from. Two trainers with equal options and equal events are bit-equal on a CPU.

    The extras (``skip`` to ``contrastive_weight``) are switches on top of the formula; docs/LOG.md has what
    each of them was worth.

    Raises:
        ValueError: An option is beyond its limits.
    """

    dim: int = 64  # of a published vector; the last channel carries the popularity
    heads: int = 4
    layers: int = 1  # 2 costs about 5 times as much and has not paid yet
    user_fanout: int = 12  # newest neighbors of a user by relation; older ones hardly move the result
    item_fanout: int = 6  # an item also has its id row, and there are more candidates than examples
    history_fanout: int = 4  # of a user that is an item's neighbor, where only the mean is asked for
    custom: str | None = None  # "package.module:Class" in the place of our network: model/custom.py
    backend: str = "torch"  # or "dgl": the class takes DGL blocks
    uniform_pool: int = 0  # neighbors drawn from so many newest instead of the newest; 0: the newest
    activation: str = "none"  # after each layer: "none", "elu" or "leaky_relu"

    skip: bool = True  # add what a layer was given to what it gives
    time_encoding: bool = True  # attention may depend on how much older than the newest a neighbor is
    relation_importance: bool = True  # learned share of each relation instead of a plain sum
    item_neighborhood: bool = True  # without it an item is its id row, and a new item is nothing
    popularity: bool = True  # recent popularity as a channel of the score
    contrastive_weight: float = 0.0  # of InfoNCE between two thinned neighborhoods of an item; 0 is off

    batch_size: int = 1_024  # also about the number of in-batch candidates
    sampled_negatives: int = 256  # uniform over the items known at the batch's time, shared by the batch
    negatives: str | Mapping[str, int] = "softmax"  # or "lists", or random items for an event by relation
    learning_rate: float = 6e-3
    network_learning_rate: float = 2e-3  # shared weights move less than rows
    clip_norm: float = 5.0  # of all gradients together; a healthy step is below 1
    temperature: float = 1.0  # divides the score in the loss
    first_contacts_only: bool = True  # what is recommended is what the user has not touched
    behavior_weights: Mapping[str, float] = field(default_factory=dict)  # in the loss; 1 where not named
    half_life_share: float = 1 / 14  # half-life of popularity, as a share of the longest span
    half_life_ms_max: float = 86_400_000.0  # but a day at most: over longer, what is new drowns
    slow_half_life_factor: float = 7.0  # the second, slower popularity

    examples_max: int = 100_000  # new events trained in one fit; beyond it the newest are taken
    replay_ratio: float = 2.0  # older examples for each new one
    first_examples_max: int = (
        100_000  # of a first model, for which users wait; beyond it the newest are taken
    )
    anew_examples_max: int = 200_000  # of a later one that begins anew
    first_examples_min: int = 10_000  # it goes through fewer several times, until it has seen so many
    first_passes_max: int = 8  # gently: model/fitting/beginning.py
    first_rounds: int = 16  # of them, one after the other in time, each mixed with earlier ones
    first_replay_ratio: float = 1.0  # earlier examples for each of a round
    replay_half_life_share: float = 0.25  # of the longest span
    full_every_ms: int = 0  # event time between two full retrains; 0: none but those that pay (beginning.py)
    skipped_in_a_row_max: int = 3  # non-finite steps; then the fit is rejected
    holdout_max: int = 512  # examples of each holdout of the gate
    holdout_share: float = 0.02  # of all events, by a hash of the event: never trained on
    loss_margin: float = 0.10  # nats that a holdout may get worse; a first model version must beat popularity
    norm_factor: float = 10.0  # the median norm may leave the running median by it

    attribution_ms: int = 1_800_000  # an event so long after an impression at most is its answer
    repeats: bool = False  # recommend what a user has touched, too; then every event is a target
    evaluations_max: int = 2_000  # scored events of an interval, drawn by the seed
    top: int = 20
    seed: int = 0
    device: str = "cpu"
    mixed_precision: bool = True  # on CUDA only

    @property
    def fanout(self) -> tuple[int, int, int]:
        """Neighbors by relation: of a user, of an item, of a user behind the last layer."""
        return self.user_fanout, self.item_fanout, self.history_fanout

    def check_relations(self, relations: Sequence[str]) -> None:
        """Raise ValueError if an option names a relation that is not one of these."""
        for name in ("behavior_weights", "negatives"):
            own = getattr(self, name)
            if not isinstance(own, str) and (unknown := set(own) - set(relations)):
                raise ValueError(f"{name} names {sorted(unknown)}; the relations are {list(relations)}")

    def __post_init__(self) -> None:
        for name, limits in LIMITS.items():
            for kind, limit in limits.items():
                holds, words = _KINDS[kind]
                if not holds(value := getattr(self, name), limit):
                    raise ValueError(f"{name} must be {words.format(limit)}, got {value}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} should be a multiple of heads {self.heads}")
        if self.backend not in ("torch", "dgl"):
            raise ValueError(f"backend must be torch or dgl, got {self.backend!r}")
        if self.custom is not None and re.fullmatch(r"\w+(\.\w+)*:\w+", self.custom) is None:
            raise ValueError(f'custom must be as in "package.module:Class", got {self.custom!r}')
        if self.backend == "dgl" and self.custom is None:
            raise ValueError('backend "dgl" trains a DGL module: name its class in custom')
        _check_negatives(self.negatives)
        if self.activation not in ("none", "elu", "leaky_relu"):
            raise ValueError(f"activation must be none, elu or leaky_relu, got {self.activation!r}")


def _check_negatives(own: str | Mapping[str, int]) -> None:
    if isinstance(own, str):
        if own not in NEGATIVES:
            either = " or ".join(NEGATIVES)
            raise ValueError(f"negatives must be {either}, or a number by relation, got {own!r}")
    else:
        for name, count in own.items():
            if not 1 <= count <= NEGATIVES_MAX:
                raise ValueError(f"negatives of {name} must be from 1 to {NEGATIVES_MAX}, got {count}")


def network_words(custom: str | None, backend: str) -> str:
    """Which network that is, for messages."""
    if custom is None:
        return "driftgraph's own network"
    return f"{custom}{' on DGL blocks' if backend == 'dgl' else ''}"


@dataclass(frozen=True, slots=True)
class ListLengths:
    """How many items the lists that are published have at most; 0: there are none."""

    lists: int = 100  # recommended to a user
    similar: int = 50  # similar to an item
    repeats: bool = False  # whether a user's list has items that the user has touched
