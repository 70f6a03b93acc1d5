"""The tables of the configuration: every key with its default, its limits and its description.

The descriptions here are the only ones: ``driftgraph init`` writes them into its file (``text``), so that
each key is described in one place.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from driftgraph.app.config.tables import values
from driftgraph.app.config.tables.values import PathField
from driftgraph.model.options import LIST_LENGTH_MAX, ListLengths
from driftgraph.stream.addresses import public_url
from driftgraph.stream.time.durations import Duration, DurationField, PositiveDurationField

ENV_PREFIX = "DRIFTGRAPH__"
# properties that the user may not set, since events would be lost or repeated: the updater commits
OWNED_OPTIONS = frozenset(
    {
        "bootstrap.servers", "metadata.broker.list", "group.id", "auto.offset.reset", "enable.auto.commit",
        "enable.auto.offset.store", "isolation.level", "enable.partition.eof",
    }
)  # fmt: skip
# secret properties by their names, also those of a later librdkafka and of Java's clients
SECRET_OPTION = re.compile(
    r"passw|secret|passphrase|jaas|user\.info|credentials?$|api[._-]?key|key\.pem|ssl_key|private\.key$"
    r"|oauthbearer\.config|oauthbearer\.extensions|kinit\.cmd|(^|[._-])token$",
    re.IGNORECASE,
)


class Section(BaseModel):
    """A table of the file. It is frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class KafkaSettings(Section):
    """Where events come from."""

    bootstrap_servers: Annotated[str, AfterValidator(values.brokers)] = Field(
        default="localhost:9092",
        min_length=1,
        description="Brokers to ask for the others, as host:port,host:port.",
    )
    topic: str = Field(default="events", min_length=1, description="Topic of behavior events, keyed by user.")
    start: Annotated[str, AfterValidator(values.start)] = Field(
        default="last span",
        description='Where the very first start reads from: "last span" (now minus the longest span, the '
        'lateness and the skew, so that the window is full at once), "earliest", "latest", or a time before '
        'now such as "6h". Records are found by their own times.',
    )
    out_of_range: Literal["fail", "earliest", "latest"] = Field(
        default="fail",
        description='When the next event is no longer on the topic: "fail", or go on at its "earliest" or '
        '"latest" event and count what is left out.',
    )
    shard: Annotated[str, AfterValidator(values.shard)] = Field(
        default="0/1",
        description='The share of the partitions this updater takes: "i/n" takes those with p mod n = i.',
    )
    options: Annotated[dict[str, str | int | float | bool], BeforeValidator(values.properties)] = Field(
        default_factory=dict,
        description="librdkafka properties passed on as they are.",
        examples=[
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "driftgraph"}
        ],
    )
    secrets: Annotated[dict[str, SecretStr], BeforeValidator(values.properties)] = Field(
        default_factory=dict,
        description="librdkafka properties that nobody should see, such as sasl.password; better set in the "
        f'environment: {ENV_PREFIX}KAFKA__SECRETS=\'{{"sasl.password": "…"}}\'.',
        examples=[{"sasl.password": "…"}],
    )

    @model_validator(mode="after")
    def _options_are_ours_to_pass(self) -> KafkaSettings:
        for key in (*self.options, *self.secrets):
            if key in OWNED_OPTIONS:
                raise ValueError(f"{key} belongs to driftgraph and cannot be set in options: remove it")
        for key in self.options:
            if SECRET_OPTION.search(key):
                raise ValueError(f"{key} is a secret: move it from options to secrets")
        return self

    def shard_of(self) -> tuple[int, int]:
        """``(i, n)``: this updater takes partition p where ``p % n == i``."""
        index, _, count = self.shard.partition("/")
        return int(index), int(count)

    def start_from(self, *, now_ms: int, longest_span_ms: int) -> int | Literal["earliest", "latest"]:
        """Where the very first start begins: an event time in milliseconds, or an end of the topic."""
        if self.start == "earliest":
            return "earliest"
        if self.start == "latest":
            return "latest"
        back_ms = longest_span_ms if self.start == "last span" else Duration.parse(self.start).ms
        return max(0, now_ms - back_ms)

    def librdkafka(self) -> dict[str, str | int | float | bool]:
        """The properties of a client: the brokers, the options and the revealed secrets."""
        secrets = {key: value.get_secret_value() for key, value in self.secrets.items()}
        return {"bootstrap.servers": self.bootstrap_servers, **self.options, **secrets}


class RelationSettings(Section):
    """One behavior as an edge type."""

    span: PositiveDurationField | None = Field(
        default=None,
        description="How long an event stays in the window; not set: window.span.",
        examples=["3d"],
    )
    capacity: int | None = Field(
        default=None,
        ge=1,
        le=1 << 31,
        description="Events the ring holds at most; not set: window.capacity.",
        examples=[1 << 24],
    )
    weight: float = Field(
        default=1.0, gt=0, le=1_000, description="How much an event counts in training beside others."
    )


class WindowSettings(Section):
    """The live part of the graph."""

    dir: PathField | None = Field(
        default=None,
        description="Folder of the window's files; not set: data_dir/window.",
        examples=["/dev/shm/driftgraph"],
    )
    span: PositiveDurationField = Field(
        default=Duration.parse("30d"),
        description="Span of a relation that names none, and of those found in a replayed file.",
    )
    capacity: int = Field(
        default=1 << 24,
        ge=1,
        le=1 << 31,
        description="Events of one relation at most; files are sparse until used.",
    )
    user_events_max: int = Field(
        default=10_000,
        ge=1,
        le=(1 << 31) - 1,
        description="Events of one user and relation at most, so that a bot bends nothing; further ones are "
        "left out and counted until older ones expire.",
    )
    item_events_max: int | None = Field(
        default=None,
        ge=1,
        le=(1 << 31) - 1,
        description="The same for an item; not set: no limit, since a popular item is no fault.",
        examples=[10_000_000],
    )
    user_rows: int = Field(
        default=1 << 22, ge=1, le=1 << 31, description="Users at most with live events at one time."
    )
    item_rows: int = Field(
        default=1 << 22, ge=1, le=1 << 31, description="Items at most with live events at one time."
    )


class TimeSettings(Section):
    """How event times are read, and which are accepted."""

    out_of_orderness: DurationField = Field(
        default=Duration.parse("5s"), description="How far events of one partition may be out of order."
    )
    lateness: DurationField = Field(
        default=Duration.parse("1h"),
        description="How far behind the watermark an event is still applied; later ones are late.",
    )
    skew: DurationField = Field(
        default=Duration.parse("5m"),
        description="How far ahead of this machine's clock an event time may be.",
    )
    idle_timeout: PositiveDurationField = Field(
        default=Duration.parse("30s"),
        description="A partition silent for this long no longer holds time back.",
    )
    alignment: PositiveDurationField = Field(
        default=Duration.parse("15m"),
        description="A partition that runs ahead of the slowest by more is not read until that one has come "
        "nearer; less than lateness, so that no order of catching up makes an event late.",
    )
    floor: Annotated[AwareDatetime, BeforeValidator(values.floor)] = Field(
        default="2005-01-01T00:00:00Z",  # type: ignore[assignment]  # validate_default parses it; the file shows it so
        description="An event before this moment has a broken clock.",
    )

    def floor_ms(self) -> int:
        """The floor in UTC milliseconds."""
        return round(self.floor.timestamp() * 1000)


class CheckpointSettings(Section):
    """How often the updater makes a checkpoint."""

    every: PositiveDurationField = Field(
        default=Duration.parse("15s"),
        description="How often window and position are written to data_dir/checkpoints; what came after that "
        "is read from Kafka again. Lag tools see the position of the newest one.",
    )


class DeduplicationSettings(Section):
    """For how long event ids are remembered."""

    horizon: PositiveDurationField = Field(
        default=Duration.parse("1d"),
        description="How long an event_id is remembered, in event time; a delivery that is repeated later "
        "counts twice.",
    )
    ids_max: int = Field(
        default=240_000_000,
        ge=1,
        le=1 << 33,
        description="Ids remembered at most, 9 to 20 bytes of memory each; the default is 2,500 events a "
        "second for a day. Where a horizon has more, the oldest are forgotten early, which status and doctor "
        "tell.",
    )


class PublishSettings(Section):
    """Which lists are published beside the embeddings."""

    lists: int = Field(
        default=ListLengths().lists,
        ge=0,
        le=LIST_LENGTH_MAX,
        description="Items recommended to each user, kept as a list that a service reads with one command; "
        "0: none, and readers rank by the embeddings.",
    )
    repeats: bool = Field(
        default=False, description="Recommend items that the user has touched, too: songs, groceries."
    )
    similar: int = Field(
        default=ListLengths().similar,
        ge=0,
        le=LIST_LENGTH_MAX,
        description="Items similar to each item, kept as such a list; 0: none.",
    )
    vectors: Literal["float32", "float16", "int8"] = Field(
        default="float32",
        description="How vectors are written: float16 takes half of their bytes, int8 a quarter.",
    )
    index: Literal["float32", "int8"] = Field(
        default="float32",
        description="How the vector set of the items keeps them, where Redis has such sets.",
    )
    feast: Annotated[str, AfterValidator(values.feast_project)] | None = Field(
        default=None,
        description="Project of Feast that reads the served vectors from the same Redis; not set: none. It "
        "needs vectors as float32, and no Cluster.",
        examples=["shop"],
    )

    @model_validator(mode="after")
    def _feast_reads_float32(self) -> PublishSettings:
        if self.feast is not None and self.vectors != "float32":
            raise ValueError(
                f'feast = "{self.feast}" needs vectors = "float32", which is all that Feast reads, not '
                f'"{self.vectors}": change one of the two'
            )
        return self


class RedisSettings(Section):
    """Where embeddings are published."""

    url: Annotated[str, AfterValidator(values.redis_url)] = Field(
        default="redis://localhost:6379/0",
        description="redis://, rediss:// (TLS) or unix:// address of the server; "
        "redis+sentinel://host,host/service; redis+cluster://host,host.",
    )
    namespace: Annotated[str, AfterValidator(values.namespace)] = Field(
        default="driftgraph",
        description="First part of every key, of one updater alone; a Cluster needs it in braces, {shop}.",
    )
    keep: int = Field(
        default=3, ge=2, le=100, description="Generations kept: the served one and those to go back to."
    )
    ttl: PositiveDurationField = Field(
        default=Duration.parse("7d"),
        description="How long a generation that is not served any more stays for a rollback.",
    )
    username: str | None = Field(default=None, description="ACL user.", examples=["driftgraph"])
    password: SecretStr | None = Field(
        default=None,
        description=f"Better set in the environment: {ENV_PREFIX}REDIS__PASSWORD.",
        examples=["…"],
    )

    def address(self) -> str:
        """The url with user name and password, for a client. It must never be shown.

        A url that has a user of its own, before the host or behind a ``?``, is not changed.
        """
        parts = urlsplit(self.url)
        named = "@" in parts.netloc or {"username", "password"} & dict(parse_qsl(parts.query)).keys()
        if named or (self.password is None and self.username is None):
            return self.url
        password = "" if self.password is None else quote(self.password.get_secret_value(), safe="")
        login = f"{quote(self.username or '', safe='')}:{password}"
        return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))

    def public_url(self) -> str:
        """The url without a user name, a password or a query."""
        return public_url(self.url)
