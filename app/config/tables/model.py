"""The tables of the configuration about the network and its training: model and fit.

Defaults and limits are those of ``TrainerOptions``; only what a user reads about a key is said here.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from driftgraph.app.config.tables.sections import Section
from driftgraph.model.options import LIMITS, NEGATIVES, NEGATIVES_MAX, NEGATIVES_OTHERS, TrainerOptions
from driftgraph.stream.time.durations import Duration, PositiveDurationField, positive_duration

Auto = Literal["auto"]
_TRAINER: Final = {option.name: option for option in fields(TrainerOptions)}


def _of_trainer(name: str, description: str) -> Any:
    """The key of an option of the trainer."""
    limits: dict[str, Any] = dict(LIMITS.get(name, {}))
    return Field(default=_TRAINER[name].default, description=description, **limits)


def _negatives(value: object) -> str | dict[str, int]:
    """A way to choose negatives, or how many an event has by relation."""
    if isinstance(value, str) and value in NEGATIVES:
        return value
    if not isinstance(value, dict):
        words = " or ".join(NEGATIVES)
        raise ValueError(f"should be {words}, or a table of numbers by relation")  # noqa: TRY004  # pydantic's
    for name, count in value.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= NEGATIVES_MAX:
            raise ValueError(f"{name} should have from 1 to {NEGATIVES_MAX} negatives, got {count!r}")
    return value


NegativesField = Annotated[
    str | dict[str, int],
    PlainValidator(_negatives),
    WithJsonSchema({"anyOf": [{"enum": list(NEGATIVES)}, {"type": "object"}]}),
]


class ModelSettings(Section):
    """The multi-behavior graph attention network, or one of your own, and how it is trained."""

    dim: int = _of_trainer("dim", "Length of an embedding; a multiple of heads.")
    heads: int = _of_trainer("heads", "Attention heads of a layer.")
    layers: int = _of_trainer("layers", "Hops of the graph that a vector looks at.")
    user_fanout: int = _of_trainer("user_fanout", "Newest neighbors of a user taken by relation and hop.")
    item_fanout: int = _of_trainer("item_fanout", "Newest neighbors of an item taken by relation and hop.")
    custom: str | None = Field(
        default=None,
        description='A network of your own in the place of ours, as "package.module:Class" '
        "(driftgraph.model.custom has its protocol).",
        examples=["my_models:Gru"],
    )
    backend: Literal["torch", "dgl"] = Field(
        default="torch",
        description='What model.custom is given: "torch" tensors, or blocks of "dgl".',
    )
    uniform_pool: int = _of_trainer(
        "uniform_pool", "Draw neighbors uniformly from so many newest; 0: take the newest."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description='"auto" (CUDA where there is one, else the processor), "cpu", "cuda" or "cuda:1".',
    )
    mixed_precision: bool = _of_trainer("mixed_precision", "Half precision where it is safe; on CUDA only.")
    learning_rate: float = _of_trainer("learning_rate", "Step size of the rows of users and items.")
    network_learning_rate: float = _of_trainer("network_learning_rate", "Step size of the shared weights.")
    batch_size: int = _of_trainer("batch_size", "Events of one training step.")
    sampled_negatives: int = _of_trainer(
        "sampled_negatives", "Items drawn beside those of the batch to compare with, in each step."
    )
    negatives: NegativesField = Field(
        default="softmax",
        description=(
            'What an event\'s item is compared with. "softmax": all items of the step. "lists": the same, '
            "and half of the drawn items are from users' lists. Numbers, as in { buy = 10, click = 5 }: "
            "so many random items for an event, each a no beside its yes; "
            f"{NEGATIVES_OTHERS} where none is named."
        ),
    )
    contrastive_weight: float = _of_trainer(
        "contrastive_weight",
        "Weight of the contrastive loss between two thinned neighborhoods of an item; 0: off.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> ModelSettings:
        TrainerOptions(dim=self.dim, heads=self.heads, custom=self.custom, backend=self.backend)
        return self


def _every(value: object) -> Duration | Auto:
    """The event time between two fits, or ``auto``."""
    if value == "auto":
        return "auto"
    try:
        return positive_duration(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "auto"') from None


EveryField = Annotated[
    Duration | Auto,
    PlainValidator(_every),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]


class FitSettings(Section):
    """When a fit is due."""

    every: EveryField = Field(
        default="auto",
        description=(
            'Event time between two fits, such as "6h". "auto": a fit is due once one in 16 of '
            "the events in the window is new (2,000 events at least, examples_max at most), from 6 hours to "
            "14 days after the one before."
        ),
    )
    events: int | None = Field(
        default=None,
        ge=1,
        description="Also after this many events, whichever comes first.",
        examples=[100_000],
    )
    full_every: PositiveDurationField | None = Field(
        default=None,
        description=(
            "Event time between two full retrains: the fit that is due next then draws the items towards "
            "the solution in closed form of the whole window, and keeps them near to before. Not set: none."
        ),
        examples=["7d"],
    )
    examples_max: int = _of_trainer(
        "examples_max", "New events that one fit learns from at most, the newest ones."
    )
    replay_ratio: float = _of_trainer(
        "replay_ratio", "Older events repeated for each new one, against forgetting."
    )
    evaluations_max: int = _of_trainer(
        "evaluations_max", "Events scored before a fit at most, drawn by the seed."
    )
