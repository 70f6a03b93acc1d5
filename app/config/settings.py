"""The configuration of an updater, a replay or a command, resolved and checked.

    command line  >  environment  >  secret files  >  driftgraph.toml  >  default      ──► load ──► [Settings]

Every fault of a configuration is a ConfigError: one sentence with the file (or variable, or option), the key,
the value and what to do.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from driftgraph.app.config.tables.dead_letters import DeadLetterSettings
from driftgraph.app.config.tables.events import EventSettings
from driftgraph.app.config.tables.faust import FaustSettings
from driftgraph.app.config.tables.model import FitSettings, ModelSettings
from driftgraph.app.config.tables.sections import (
    ENV_PREFIX,
    SECRET_OPTION,
    CheckpointSettings,
    DeduplicationSettings,
    KafkaSettings,
    PublishSettings,
    RedisSettings,
    RelationSettings,
    TimeSettings,
    WindowSettings,
)
from driftgraph.app.config.tables.telemetry import LogSettings, TelemetrySettings
from driftgraph.app.config.tables.values import NameField, PathField, dotted
from driftgraph.app.config.tables.web import WebSettings
from driftgraph.app.config.variables import closest, read_variables, secret_files, with_case_of
from driftgraph.stream.addresses import HIDDEN, looks_like_address, public_url
from driftgraph.stream.errors import ConfigError

FILE_NAME = "driftgraph.toml"
ENVIRONMENT = "the environment"
SHAPES = {  # words for pydantic's names of Python types
    "tuple_type": 'should be a list, such as ["a", "b"]',
    "dict_type": "should be a table of keys and values",
    "model_type": "should be a table of keys and values",
    "string_type": "should be text in quotes",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
}
VALUE_CHARACTERS_MAX = 80  # of a refused value in a message

Tree = Mapping[str, Any]  # a configuration as it is written: tables of tables and values


class Settings(BaseSettings):
    """All settings of one updater, resolved.

    Always true: it is frozen, every value is within its stated limits, and it has no unknown key. The
    constructor reads neither the environment nor a file: ``load`` does both.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
    )

    name: NameField = Field(
        default="driftgraph", description="Name of this updater; two of one name take turns."
    )
    data_dir: PathField = Field(
        default=Path("./var"),
        description="Folder for everything written to disk, relative to where the command runs.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Start of every random number.")
    kafka: KafkaSettings = Field(default=KafkaSettings(), description="Where events come from.")
    events: EventSettings = Field(default=EventSettings(), description="What an event looks like.")
    dead_letters: DeadLetterSettings = Field(
        default=DeadLetterSettings(), description="Where events go that could not be applied."
    )
    relations: dict[str, RelationSettings] = Field(
        default_factory=dict,
        description="The behaviors that become edges, each a table [relations.NAME]; a behavior named "
        "nowhere is a dead letter. A replay without any takes those it finds.",
    )
    window: WindowSettings = Field(default=WindowSettings(), description="The live part of the graph.")
    time: TimeSettings = Field(
        default=TimeSettings(), description="How event time is read and how far it is believed."
    )
    model: ModelSettings = Field(
        default=ModelSettings(), description="The multi-behavior graph attention network."
    )
    fit: FitSettings = Field(
        default=FitSettings(), description="When a fit of the model, an incremental fine-tune, is due."
    )
    deduplication: DeduplicationSettings = Field(
        default=DeduplicationSettings(), description="How a repeated delivery of an event is recognized."
    )
    checkpoint: CheckpointSettings = Field(
        default=CheckpointSettings(), description="How much a crash costs."
    )
    publish: PublishSettings = Field(
        default=PublishSettings(), description="Lists that are published beside the embeddings."
    )
    redis: RedisSettings = Field(default=RedisSettings(), description="Where embeddings are published.")
    web: WebSettings = Field(
        default=WebSettings(), description="The HTTP port: health, metrics, and answers as JSON."
    )
    log: LogSettings = Field(
        default=LogSettings(), description="What the processes of a run write on stderr."
    )
    telemetry: TelemetrySettings = Field(
        default=TelemetrySettings(), description="Traces, for OpenTelemetry."
    )
    faust: FaustSettings = Field(
        default=FaustSettings(),
        description="The Faust app beside the updater: a site's own events made canonical, and trends.",
    )

    _relations_are_chosen: bool = PrivateAttr(default=False)  # for one command, from more relations in a file

    @classmethod
    def settings_customise_sources(  # pydantic-settings calls it so
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the given values, since ``load`` merges the sources to tell where a bad value came from."""
        return (init_settings,)

    def with_relations(self, names: Iterable[str]) -> Settings:
        """A copy with exactly these relations; those that are configured keep their span and weight.

        Other behaviors in a file are left out on purpose, and are not rejected.
        """
        chosen = {name: self.relations.get(name, RelationSettings()) for name in names}
        _check_impressions(self, chosen, "the command line")
        settings = self.model_copy(update={"relations": chosen})
        settings._relations_are_chosen = True
        return settings

    @property
    def relations_are_chosen(self) -> bool:
        """Whether the relations were named for one command, so that others in a file are left out."""
        return self._relations_are_chosen


def load(path: Path | None = None, options: Tree | None = None) -> Settings:
    """Read and check everything that is set.

    Args:
        path: The file, which must exist. None: ``driftgraph.toml`` here, if there is one.
        options: What the command line set, shaped like the file: ``{"fit": {"every": "6h"}}``.

    Raises:
        ConfigError: If anything is wrong. The message is one sentence.
    """
    sources = sources_of(path, options)
    try:
        settings = _validated(sources)
    except ValidationError as error:
        more = f" (and {count - 1} more)" if (count := error.error_count()) > 1 else ""
        raise ConfigError(_sentence(error.errors()[0], sources) + more) from error
    _check_relations(settings, path or Path(FILE_NAME))
    _check_feast(settings, path or Path(FILE_NAME))
    return settings


def sources_of(path: Path | None = None, options: Tree | None = None) -> dict[str, Tree]:
    """What is set, by where: the command line, the environment, the file; the first that has a key counts.

    Raises:
        ConfigError: The file cannot be read, or a variable sets nothing that is known.
    """
    file = path if path is not None else Path(FILE_NAME)
    written = _read_file(file) if path is not None or file.exists() else {}
    environment = read_variables(Settings, os.environ, ENVIRONMENT)
    environment = with_case_of(environment, "relations", written, os.environ)
    folder, secrets = secret_files(Settings)
    sources = {
        "the command line": options or {},
        ENVIRONMENT: environment,
        folder: secrets,
        str(file): written,
    }
    for name, tree in sources.items():
        _check_text(name, tree)
    return sources


def faults_in(sources: Mapping[str, Tree]) -> list[str]:
    """Every key or value that is wrong by itself, each in a sentence."""
    try:
        _validated(sources)
    except ValidationError as error:
        return [_sentence(one, sources) for one in error.errors()]
    return []


def _validated(sources: Mapping[str, Tree]) -> Settings:
    merged: dict[str, Any] = {}
    for name in reversed(list(sources)):
        _merge(merged, sources[name])
    return Settings.model_validate(merged)


def _check_text(source: str, value: object, key: str = "") -> None:
    """Refuse text that no UTF-8 has: half of a surrogate pair, as from an argument in another encoding."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{source}: {key}: is not UTF-8 text; write it in UTF-8") from None
    elif isinstance(value, Mapping):
        for part, below in value.items():
            _check_text(source, str(part), "a key")
            _check_text(source, below, f"{key}.{part}" if key else str(part))
    elif isinstance(value, list | tuple):
        for one in value:
            _check_text(source, one, key)


def _check_relations(settings: Settings, file: Path) -> None:
    """Refuse a mapping of events to relations that are not configured, unless no relation is."""
    relations, events = settings.relations, settings.events
    if events.erase in relations:
        raise ConfigError(f"{file}: events.erase = {events.erase} is a relation too: choose another behavior")
    _check_impressions(settings, relations, str(file))
    if settings.kafka.topic in settings.events.attributes.said_by():
        raise ConfigError(
            f"{file}: kafka.topic and a topic of events.attributes are both {settings.kafka.topic}: events "
            "and attributes need a topic each"
        )
    others = {
        settings.kafka.topic: "kafka.topic",
        **dict.fromkeys(events.attributes.said_by(), "a topic of events.attributes"),
    }
    if events.delisted_topic in others:
        raise ConfigError(
            f"{file}: events.delisted_topic and {others[events.delisted_topic]} are both "
            f"{events.delisted_topic}: delisted items need a topic of their own"
        )
    mapping = events.event_mapping()
    if mapping is None or not mapping.behaviors or not relations:
        return
    fine = {*relations, *events.ignore, *events.impressions, events.erase}
    for name in events.mapping.behaviors or {}:
        for choice in mapping.behaviors[name]:
            if choice.relation not in fine:
                raise ConfigError(
                    f"{file}: events.mapping.behaviors.{name}: {shortened(choice.relation)} is no relation; "
                    f"add a table [relations.{choice.relation}], or put it into events.ignore"
                )
    if not fine & set(mapping.relations):
        raise ConfigError(
            f"{file}: events.format = {events.format} gives {', '.join(mapping.relations)}, and none of them "
            f"is a relation; name relations so, or map to {', '.join(relations)} in events.mapping.behaviors"
        )


def _check_feast(settings: Settings, file: Path) -> None:
    """Refuse Feast in a Cluster, where no script writes keys of two slots."""
    feast, namespace = settings.publish.feast, settings.redis.namespace
    if feast is not None and namespace.startswith("{"):
        raise ConfigError(
            f'{file}: publish.feast = "{feast}" needs a redis.namespace without braces, not "{namespace}": '
            "nothing is copied for Feast in a Redis Cluster; take one of the two out"
        )


def _check_impressions(settings: Settings, relations: Iterable[str], source: str) -> None:
    """Refuse an impression that is a relation, and one that would expire before its answer may come."""
    events, span = settings.events, settings.window.span
    if both := sorted({*relations} & {*events.impressions}):
        raise ConfigError(
            f"{source}: events.impressions has {both[0]}, which is a relation too: an impression makes no "
            "edge, so take it out of one of the two"
        )
    if len(set(events.impressions)) < len(events.impressions):
        raise ConfigError(f"{source}: events.impressions names a behavior twice; name each once")
    if events.impressions and events.attribution.ms * 2 > span.ms:
        raise ConfigError(
            f"{source}: events.attribution = {events.attribution} is more than half of window.span = {span}, "
            "so impressions would leave the window before they are learned; make one of the two fit"
        )
    every = settings.fit.every
    if events.impressions and every != "auto" and every.ms < 2 * events.attribution.ms:
        raise ConfigError(
            f"{source}: fit.every = {every} is less than twice events.attribution = {events.attribution}, so "
            "few impressions would have had their answers before a fit; make one of the two fit"
        )


def _read_file(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # an editor may begin it with a BOM
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; make one with: driftgraph init --config {path}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name another with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}; correct it there") from error


def _merge(into: dict[str, Any], tree: Tree) -> None:
    """Lay ``tree`` over ``into``, table by table."""
    for key, value in tree.items():
        below = into.get(key)
        if isinstance(value, Mapping) and isinstance(below, dict):
            _merge(below, value)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _sentence(first: ErrorDetails, sources: Mapping[str, Tree]) -> str:
    """A fault as one sentence."""
    keys = [str(part) for part in first["loc"]]
    key = ".".join(keys) or "it"
    source = next((name for name, tree in sources.items() if has_key(tree, keys)), "the configuration")
    if first["type"] == "extra_forbidden":
        if keys[0] == "relations" and isinstance(first["input"], Mapping):
            whole = dotted(".".join(keys[1:]), first["input"])
            return (
                f"{source}: unknown key {key}: if the relation has a dot in its name, quote it as "
                f'[relations."{whole}"]; else remove it'
            )
        return f"{source}: unknown key {key}{closest(keys[-1], _keys_beside(keys))}; remove or correct it"
    problem = SHAPES.get(first["type"]) or first["msg"].removeprefix("Value error, ").removeprefix(
        "Input "
    ).rstrip(".")
    if isinstance(first["input"], Mapping):  # several keys together: the message names them
        return f"{source}: [{key}]: {problem}"
    return f"{source}: {key} = {_value(keys, first)}: {problem}; correct it"


def _value(keys: list[str], fault: ErrorDetails) -> str:
    """A refused value for a message; empty if it is or may contain a secret."""
    value = fault["input"]
    if any(part in ("secrets", "options", "password") or SECRET_OPTION.search(part) for part in keys):
        return "a secret" if "options" not in keys else "what is there"
    if isinstance(value, str) and fault["type"] in ("dict_type", "model_type"):
        return "a text"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    if "://" in text or "@" in text:
        return f'"{public_url(text)}"'
    return f'"{text.partition(":")[0]}:/{HIDDEN}"' if looks_like_address(text) else shortened(value)


def shortened(value: object) -> str:
    """A value for a message, in one line of bounded length."""
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX] + "…"


def has_key(tree: object, keys: Iterable[str]) -> bool:
    """Whether a tree sets a key, or a value that the key is inside of."""
    for key in keys:
        if not isinstance(tree, Mapping):
            return True  # a deeper key is inside the value
        if key not in tree:
            return False
        tree = tree[key]
    return True


def _keys_beside(keys: list[str]) -> set[str]:
    """The known keys of the table with the unknown one."""
    known: type[BaseModel] = Settings
    for key in keys[:-1]:
        if known is Settings and key == "relations":
            return set(RelationSettings.model_fields)
        annotation = known.model_fields[key].annotation if key in known.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        known = annotation
    return set(known.model_fields)
