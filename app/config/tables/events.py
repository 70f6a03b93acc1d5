"""The section [events] of the configuration: the format of events.

    driftgraph.toml ──► [EventSettings] ──► mapping() ──► app/config/formats.py ──► a decoder

A mapping is compiled here once, so that each fault in it is told with its key and value when the
configuration is loaded, and not at the first message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, model_validator

from driftgraph.app.config.tables.attributes import AttributeSettings
from driftgraph.app.config.tables.sections import ENV_PREFIX, Section
from driftgraph.app.config.tables.values import PathField
from driftgraph.stream.addresses import fault_of
from driftgraph.stream.formats.field_mapping import EventMapping, MappingError, Value
from driftgraph.stream.formats.paths import Condition, steps_of
from driftgraph.stream.formats.presets import PRESETS, merged
from driftgraph.stream.time.durations import Duration, PositiveDurationField
from driftgraph.stream.time.time_text import zone_named

MAPPED: Final = ("mapping", "registry", *PRESETS)  # formats with a mapping
FILES_ONLY: Final = ("csv", "taobao", "parquet")
KAFKA_ONLY: Final = ("registry", "arrow")


def _value(written: Any) -> Any:
    Value.parse(written)
    return written


def _condition(written: str) -> str:
    Condition.parse(written)
    return written


def _messages(written: str) -> str:
    steps_of(written)
    return written


def _timezone(value: str) -> str:
    if zone_named(value) is None:
        raise ValueError("should be the name of a zone in the IANA database, such as Asia/Shanghai or UTC")
    return value


def _separator(written: str) -> str:
    value = "\t" if written == "\\t" else written  # a shell passes \t as two characters
    if len(value) != 1 or not value.isascii() or value.isalnum() or value in '"\r\n':
        raise ValueError(r"should be one character such as ; or | or \t, and no letter, digit or quote")
    return value


def _registry_url(value: str) -> str:
    if (fault := fault_of(value, ("http", "https"))) is not None:
        raise ValueError(fault)
    parts = urlsplit(value)
    if not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError(
            "should be http:// or https:// with a host, such as http://localhost:8081, without a ?; "
            "the user goes into username, the password into password"
        )
    return value


ValueField = Annotated[Any, AfterValidator(_value)]


class ColumnSettings(Section):
    """The names of the fields or columns with the five values; one that is not set has its usual name."""

    user: str | None = Field(
        default=None, min_length=1, description="The user's id; not set: user_id.", examples=["user_id"]
    )
    item: str | None = Field(
        default=None, min_length=1, description="The item's id; not set: item_id.", examples=["item_id"]
    )
    behavior: str | None = Field(
        default=None, min_length=1, description="What the user did; not set: behavior.", examples=["behavior"]
    )
    ts: str | None = Field(
        default=None,
        min_length=1,
        description="When; not set: ts in JSON, timestamp in CSV.",
        examples=["ts"],
    )
    event_id: str | None = Field(
        default=None,
        min_length=1,
        description="What a repeated delivery is recognized by; not set: event_id, where there is one.",
        examples=["event_id"],
    )

    def given(self) -> dict[str, str]:
        """The names that are set."""
        named: dict[str, str] = self.model_dump(exclude_none=True)
        return named


class MappingSettings(Section):
    """The paths of the five values in a message."""

    user: ValueField | None = Field(
        default=None,
        description="A path such as user.id; a list of paths, of which the first that finds something (not "
        'null, not blank) counts; { const = "text" }; or { join = ["path", "path"] }. $key, $timestamp and '
        "$header.NAME are those of the Kafka record.",
        examples=["user.id"],
    )
    item: ValueField | None = Field(
        default=None,
        description="[*] loops over a list: each of its elements is an event.",
        examples=["properties.products[*].product_id"],
    )
    behavior: ValueField | None = Field(
        default=None, description="The name of what the user did.", examples=["event"]
    )
    ts: ValueField | None = Field(default=None, description="When.", examples=["timestamp"])
    event_id: ValueField | None = Field(
        default=None,
        description="What a repeated delivery is recognized by; the events of a loop get its number added.",
        examples=["messageId"],
    )
    messages: Annotated[str, AfterValidator(_messages)] | None = Field(
        default=None,
        description="A list in a message whose elements are messages, such as batch in the bodies of "
        "Segment's HTTP API. What stands beside the list holds for each of them.",
        examples=["batch"],
    )
    when: Annotated[str, AfterValidator(_condition)] | None = Field(
        default=None,
        description="Messages for which this does not hold are ignored. PATH, one of == != < <= > >= in, "
        'and a JSON value; or "PATH exists", "PATH missing"; several with "and".',
        examples=['type == "track"'],
    )
    behaviors: dict[str, Any] | None = Field(
        default=None,
        description="From the names in the messages to relations; not set: they are the relations. A "
        "relation may depend on a condition; then the first that holds counts, and if none does the event is "
        "ignored.",
        examples=[
            {"Order Completed": "purchase", "rated": [{"relation": "favorite", "when": "rating >= 4"}]}
        ],
    )
    others: Literal["keep", "ignore"] | None = Field(
        default=None,
        description='Names that are not in behaviors: "keep" judges them as they are, "ignore" leaves them '
        "out. Not set: keep; the presets ignore.",
        examples=["ignore"],
    )
    none: tuple[str, ...] | None = Field(
        default=None,
        description="Texts that mean that there is no value.",
        examples=[["", "null", "undefined"]],
    )

    @model_validator(mode="after")
    def _behaviors_are_right(self) -> MappingSettings:
        anything = {"user": "u", "item": "i", "behavior": "b", "ts": "t"}
        if self.behaviors is not None:
            try:
                EventMapping.of({**anything, "behaviors": self.behaviors})
            except MappingError as error:
                raise ValueError(f"{error.key} {error.problem}") from error
        return self

    def given(self) -> dict[str, Any]:
        """The keys that are set."""
        return {key: value for key, value in self if value is not None}


class RegistrySettings(Section):
    """A schema registry that speaks Confluent's API."""

    url: Annotated[str, AfterValidator(_registry_url)] | None = Field(
        default=None,
        description='Address, with the path that the API has there; for format = "registry".',
        examples=["http://localhost:8081"],
    )
    username: str | None = Field(default=None, description="User, or API key.", examples=["driftgraph"])
    password: SecretStr | None = Field(
        default=None,
        description=f"Better set in the environment: {ENV_PREFIX}EVENTS__REGISTRY__PASSWORD.",
        examples=["…"],
    )
    ca_file: PathField | None = Field(
        default=None,
        description="Certificates to trust, as PEM; not set: those of the system.",
        examples=["/etc/ssl/company.pem"],
    )


class EventSettings(Section):
    """The format of events."""

    format: (
        Literal[
            "json", "mapping", "cloudevents", "segment", "ga4", "ga4-mp", "snowplow", "registry", "arrow",
            "csv", "taobao", "parquet",
        ]
        | None
    ) = Field(
        default=None,
        description='"json": an object, or an array of them, a message or line; "mapping": JSON as '
        '[events.mapping] says; "cloudevents", "segment", "ga4" (as BigQuery exports it), "ga4-mp" '
        '(Measurement Protocol), "snowplow": mappings that are there already; "registry": Avro, Protobuf or '
        'JSON by a schema registry; "arrow": an Arrow IPC stream a message; for files also "csv", "taobao" '
        "(the headerless UserBehavior.csv: user, item, category, behavior, seconds) and "
        '"parquet"; not set: JSON on Kafka, for a file by name.',
        examples=["segment"],
    )  # fmt: skip
    ignore: tuple[str, ...] = Field(
        default=("impression",),
        description="Behaviors that are seen but are no edge: counted and left out of the graph.",
    )
    impressions: tuple[str, ...] = Field(
        default=(),
        description="Behaviors that say what was shown. They make no edge; from them the heads learn how "
        "probable each relation is for an item that is shown to a user.",
        examples=[["impression"]],
    )
    attribution: PositiveDurationField = Field(
        default=Duration.parse("30m"),
        description="An event of the same user and item this long after an impression at most is its answer; "
        "until then nobody learns from the impression.",
    )
    erase: str = Field(
        default="$erase",
        min_length=1,
        description="The behavior that asks to forget the user; so does a Kafka record without a value whose "
        "key is the user, see tombstones.",
    )
    tombstones: Literal["erase", "ignore"] | None = Field(
        default=None,
        description='What a Kafka record without a value does: "erase" forgets the user that its key names; '
        '"ignore" is for topics whose keys name rows, as those of Debezium do. Not set: erase where the key '
        "is the user (json, arrow, and a mapping with user = $key), else ignore.",
        examples=["ignore"],
    )
    timezone: Annotated[str, AfterValidator(_timezone)] | None = Field(
        default=None,
        description="The zone of times that are written without one (a name of the IANA database); not set: "
        "such times are rejected. A time that clocks skip is rejected, too, and of one that comes twice, the "
        "first is taken.",
        examples=["Asia/Shanghai"],
    )
    reject_share_max: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The updater stops when more than this share of the newest reject_window events is "
        "rejected: a bad deploy must not drain the topic into the dead letters. 1: never.",
    )
    reject_window: int = Field(
        default=10_000, ge=10, le=1 << 31, description="The newest events; judged from a tenth of them on."
    )
    header: bool = Field(
        default=True,
        description="The first line of a CSV names its columns; without it, columns are numbers from 0.",
    )
    separator: Annotated[str, AfterValidator(_separator)] | None = Field(
        default=None,
        description="What stands between the fields of a CSV, one character; not set: a comma, and a tab in "
        "a file called .tsv.",
        examples=[";"],
    )
    columns: ColumnSettings = Field(
        default=ColumnSettings(),
        description="Which column, or field at the top of a message, holds what; one not set has its usual "
        "name.",
    )
    mapping: MappingSettings = Field(
        default=MappingSettings(),
        description="Where in a message each value stands: for the format mapping, on top of a preset such "
        "as segment, and for registry.",
    )
    attributes: AttributeSettings = Field(
        default=AttributeSettings(), description="What is said of items and users, beside what happens."
    )
    registry: RegistrySettings = Field(
        default=RegistrySettings(), description="Where the schemas of the format registry are."
    )

    def erase_by_key(self) -> bool | None:
        """Whether a record without a value erases a user; None: the format decides."""
        return None if self.tombstones is None else self.tombstones == "erase"

    def zone(self) -> ZoneInfo | None:
        """The zone for times that are written without one."""
        return None if self.timezone is None else zone_named(self.timezone)

    @model_validator(mode="after")
    def _format_has_what_it_needs(self) -> EventSettings:
        if self.format not in (*MAPPED, *FILES_ONLY) and self.mapping.given():  # a file may be read besides
            raise ValueError(
                f"mapping is for the formats {', '.join(MAPPED)}, and format is "
                f"{'not set' if self.format is None else self.format}: set format"
            )
        if self.format == "registry" and self.registry.url is None:
            raise ValueError("the format registry needs registry.url")
        if self.erase in self.ignore:
            raise ValueError(f"erase and ignore both have {self.erase}: take it out of ignore")
        if self.erase in self.impressions:
            raise ValueError(f"erase and impressions both have {self.erase}: take it out of impressions")
        self.json_mapping()
        return self

    def event_mapping(self) -> EventMapping | None:
        """The mapping of messages; None for a format without one.

        Raises:
            ValueError: If the mapping is not complete, or its parts contradict each other.
        """
        if self.format not in MAPPED:
            return None
        return self._mapping(PRESETS.get(self.format, CANONICAL if self.format == "registry" else {}))

    def json_mapping(self) -> EventMapping | None:
        """The mapping of JSON: that of the format, or where plain JSON has attributes; None without either.

        Raises:
            ValueError: As ``event_mapping``.
        """
        if self.format in (None, "json") and self.attributes.paths():
            return self._mapping(CANONICAL)
        return self.event_mapping()

    def _mapping(self, preset: Mapping[str, Any]) -> EventMapping:
        columns = {key: json.dumps(name) for key, name in self.columns.given().items()}  # as a quoted path
        try:
            written = merged({**preset, **columns}, self.mapping.given())
            return EventMapping.of(written, erase=self.erase, attributes=self.attributes.paths())
        except MappingError as error:
            raise ValueError(f"mapping.{error.key} {error.problem}") from error


CANONICAL: Final[dict[str, Any]] = {
    "user": "user_id",
    "item": "item_id",
    "behavior": "behavior",
    "ts": "ts",
    "event_id": "event_id",
}
