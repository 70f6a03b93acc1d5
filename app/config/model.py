"""The tables of the configuration about the network and its training: model and fit."""

from __future__ import annotations

from pydantic import Field, model_validator

from driftgraph.app.config.sections import Section
from driftgraph.stream.time.durations import Duration, PositiveDurationField


class ModelSettings(Section):
    """The multi-behavior graph attention network, and how a step of its training is made."""

    dim: int = Field(default=64, ge=2, le=1024, description="Length of an embedding; a multiple of heads.")
    heads: int = Field(default=4, ge=1, le=64, description="Attention heads of a layer.")
    layers: int = Field(default=1, ge=1, le=3, description="Hops of the graph that a vector looks at.")
    user_fanout: int = Field(
        default=12, ge=1, le=512, description="Newest neighbors of a user taken by relation and hop."
    )
    item_fanout: int = Field(
        default=6, ge=1, le=512, description="Newest neighbors of an item taken by relation and hop."
    )
    uniform_pool: int = Field(
        default=0,
        ge=0,
        le=65_536,
        description="Draw neighbors uniformly from so many newest; 0: take the newest.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description='"auto" (CUDA where there is one, else the processor), "cpu", "cuda" or "cuda:1".',
    )
    mixed_precision: bool = Field(default=True, description="Half precision where it is safe; on CUDA only.")
    learning_rate: float = Field(
        default=0.006, gt=0, le=1, description="Step size of the rows of users and items."
    )
    network_learning_rate: float = Field(
        default=0.002, gt=0, le=1, description="Step size of the shared weights."
    )
    batch_size: int = Field(default=1_024, ge=1, le=1 << 20, description="Events of one training step.")
    sampled_negatives: int = Field(
        default=256,
        ge=0,
        le=1 << 20,
        description="Items drawn beside those of the batch to compare with, in each step.",
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> ModelSettings:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} should be a multiple of heads {self.heads}")
        return self


class FitSettings(Section):
    """When a fine-tune is due."""

    every: PositiveDurationField = Field(
        default=Duration.parse("6h"), description="Event time between two fine-tunes."
    )
    events: int | None = Field(
        default=None,
        ge=1,
        description="Also after this many events, whichever comes first.",
        examples=[100_000],
    )
    examples_max: int = Field(
        default=100_000,
        ge=1,
        le=1 << 31,
        description="New events one fine-tune learns from at most, the newest ones.",
    )
    replay_ratio: float = Field(
        default=2.0, ge=0, le=100, description="Older events repeated for each new one, against forgetting."
    )
    evaluations_max: int = Field(
        default=2_000,
        ge=1,
        le=1 << 31,
        description="Events scored before a fine-tune at most, drawn by the seed.",
    )
