"""The table ``[dead_letters]`` of the configuration: the place of events that could not be applied."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from driftgraph.app.config.tables.sections import Section


class DeadLetterSettings(Section):
    """The place of events that could not be applied."""

    to: Literal["files", "kafka"] = Field(
        default="files",
        description='"files": in data_dir/dead_letters, which needs no right on the broker and works while '
        'it is away; "kafka": in a topic, where other tools and machines see them.',
    )
    topic: str | None = Field(
        default=None,
        min_length=1,
        description='Topic of the letters with to = "kafka", made if it is missing; not set: '
        'kafka.topic with ".dlq" at its end.',
        examples=["events.dlq"],
    )
    max_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="Of all letters; beyond it the oldest go. A topic that is there keeps its own limit.",
    )

    def topic_of(self, source: str) -> str:
        """The topic of dead letters for the topic ``source``."""
        return self.topic or f"{source}.dlq"
