"""The section [events.attributes] of the configuration: what is said of items and users, and where.

driftgraph.toml ──► [AttributeSettings] ──► fields() ──► stream/attributes; paths() ──► the formats of events
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, model_validator

from driftgraph.app.config.tables.sections import Section
from driftgraph.app.config.tables.values import PathField
from driftgraph.stream.attributes.attributes import AttributeFields
from driftgraph.stream.attributes.fields import FIELDS_MAX, KINDS
from driftgraph.stream.attributes.fields import Field as Attribute
from driftgraph.stream.attributes.topic import CatalogTopic
from driftgraph.stream.formats.paths import steps_of
from driftgraph.stream.window.adjacency import ITEM, USER

FORM: Final = 'NAME = "category" or NAME = { kind = "tags", field = "video.tags" }'


def _table(written: dict[str, Any]) -> dict[str, Any]:
    if len(written) > FIELDS_MAX:
        raise ValueError(f"should have {FIELDS_MAX} attributes at most, got {len(written)}")
    for name, one in written.items():
        kind = one.get("kind") if isinstance(one, dict) else one
        if kind not in KINDS:
            raise ValueError(f"{name} should be of a kind {', '.join(KINDS)}: {FORM}")
        if isinstance(one, dict) and not (
            set(one) <= {"kind", "field"} and isinstance(one.get("field", ""), str)
        ):
            raise ValueError(f"{name} should be like {FORM}")
    return written


Table = Annotated[dict[str, Any], AfterValidator(_table)]
_KINDS_TOLD: Final = (
    'Each is NAME = KIND, or NAME = { kind = KIND, field = "path or column" }. Kinds: "category", one value; '
    '"tags", a list, or a text with , ; or | between; "number"; "text", words.'
)


class AttributeSettings(Section):
    """What is said of items and users, beside what happens."""

    item: Table | None = Field(
        default=None,
        description=f"The attributes of items. {_KINDS_TOLD}",
        examples=[{"category": "category", "tags": {"kind": "tags", "field": "video.tags"}}],
    )
    user: Table | None = Field(
        default=None, description="Those of users, written so, too.", examples=[{"city": "category"}]
    )
    item_file: PathField | None = Field(
        default=None,
        description="A CSV or Parquet file with the items' attributes, one row an item, read at each start; "
        "not set: events have them.",
        examples=["items.csv"],
    )
    item_key: str = Field(default="item_id", min_length=1, description="The column of item_file with the id.")
    user_file: PathField | None = Field(
        default=None, description="The same for the users' attributes.", examples=["users.csv"]
    )
    user_key: str = Field(default="user_id", min_length=1, description="The column of user_file with the id.")
    item_topic: str | None = Field(
        default=None,
        min_length=1,
        description="A compacted topic of the same Kafka with the items' attributes, in place of a file: the "
        "key is the id, the value a JSON object of all its attributes, and a record without a value takes "
        "the item out.",
        examples=["items"],
    )
    user_topic: str | None = Field(
        default=None,
        min_length=1,
        description="The same for the users' attributes.",
        examples=["users"],
    )
    cold_max: int = Field(
        default=10_000,
        ge=0,
        description="How many items of item_file or item_topic are candidates for lists though they have no "
        "event, and how many users of user_file or user_topic have a list without one.",
    )

    @model_validator(mode="after")
    def _files_and_topics_have_attributes(self) -> AttributeSettings:
        for side in ("item", "user"):
            topic = getattr(self, f"{side}_topic")
            for key in (f"{side}_file", f"{side}_topic"):
                if getattr(self, key) is not None and not getattr(self, side):
                    raise ValueError(f"{key} is set, but no attribute: say in the table {side} what it has")
            if topic is not None and getattr(self, f"{side}_file") is not None:
                raise ValueError(f"{side}_file and {side}_topic are both set: name one place of attributes")
            for path in self._places(side) if topic is not None else ():
                try:
                    steps_of(path)
                except ValueError as error:
                    raise ValueError(f"{side} has the field {path!r}: {error}") from error
        if self.item_topic is not None and self.item_topic == self.user_topic:
            raise ValueError(
                f"item_topic and user_topic are both {self.item_topic!r}: items and users need a topic each"
            )
        return self

    def fields(self) -> AttributeFields:
        """The attributes of each side."""
        user, item = (
            tuple(
                Attribute(name, one["kind"] if isinstance(one, dict) else one)
                for name, one in (table or {}).items()
            )
            for table in (self.user, self.item)
        )
        in_files = (self.user_file is not None, self.item_file is not None)
        in_topics = (self.user_topic is not None, self.item_topic is not None)
        return AttributeFields(user, item, in_files, self.cold_max, in_topics)

    def topics(self) -> tuple[CatalogTopic, ...]:
        """The topics of attributes."""
        return tuple(
            CatalogTopic(topic, side, tuple(map(steps_of, self._places(name))))
            for topic, side, name in ((self.user_topic, USER, "user"), (self.item_topic, ITEM, "item"))
            if topic is not None
        )

    def said_by(self) -> dict[str, str]:
        """For each topic how its records are read, as a text: what was read otherwise is read again."""
        fields = self.fields()
        return {
            one.topic: json.dumps(
                [[f.name, f.kind, *p] for f, p in zip(fields.of(one.side), one.paths, strict=True)]
            )
            for one in self.topics()
        }

    def paths(self) -> tuple[str, ...]:
        """Where in an event the values stand, of the item and then of the user; not those of a catalog."""
        return (*self.places("item", in_file=False), *self.places("user", in_file=False))

    def places(self, side: str, *, in_file: bool) -> tuple[str, ...]:
        """The paths or columns of one side's attributes, if they are in a file (in events); else none."""
        is_there = getattr(self, f"{side}_topic") is None
        if not is_there or (getattr(self, f"{side}_file") is not None) != in_file:
            return ()
        return self._places(side)

    def _places(self, side: str) -> tuple[str, ...]:
        return tuple(
            one.get("field", name) if isinstance(one, dict) else name
            for name, one in (getattr(self, side) or {}).items()
        )
