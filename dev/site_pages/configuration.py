"""The reference of the configuration as a page, from the fields of the settings.

    Settings' fields, descriptions and limits ──► [page] ──► docs/configuration.md

``driftgraph init`` writes the same descriptions into its file (``app/config/text.py``).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import annotated_types
from pydantic import AwareDatetime, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from driftgraph.app.config.settings import Settings
from driftgraph.app.config.tables.sections import ENV_PREFIX, RelationSettings, Section
from driftgraph.app.config.text import toml_of
from driftgraph.stream.time.durations import Duration

# Who sets a key, by the longest beginning of its name. A new table needs a line here.
WHO: Final[Mapping[str, str]] = {
    "name": "operations",
    "data_dir": "operations",
    "seed": "modeling",
    "kafka": "operations",
    "kafka.bootstrap_servers": "everyone",
    "kafka.topic": "everyone",
    "events": "data",
    "dead_letters": "operations",
    "relations": "everyone",
    "window": "operations",
    "window.span": "data",
    "time": "data",
    "model": "modeling",
    "model.device": "operations",
    "fit": "modeling",
    "deduplication": "data",
    "checkpoint": "operations",
    "publish": "modeling",
    "publish.feast": "operations",
    "redis": "operations",
    "redis.url": "everyone",
    "web": "operations",
    "log": "operations",
    "telemetry": "operations",
    "faust": "data",
}

HEAD = f"""# Configuration reference

This page is written by `python -m site_pages` from the code that reads the configuration: change a description
there, not here.

The command line goes before the environment, the environment before driftgraph.toml, the file before the default.
A variable has the key's name: `kafka.topic` is `{ENV_PREFIX}KAFKA__TOPIC`, and a table or list is JSON. An unknown key is
refused, with the nearest one that there is. A variable is about the relation of
the file whatever its case. Durations are text with a unit: `"90s"`, `"15m"`, `"6h"`, `"30d"`.
`driftgraph init` writes a file with every key, `driftgraph config show` says what is in force, and
[what a later change does](running.md#change-the-configuration) stands with the operation.

The column *who* says who usually has the answer:

| who | |
|---|---|
| everyone | these few keys name your brokers, your topic, your Redis and your behaviors; a start needs them |
| data | who knows how the events are written, how late they come, and what is said of items and users |
| modeling | who looks at the quality of the lists; the defaults are those that [quality.md](quality.md) measures |
| operations | who runs the machine: memory, disks, ports, secrets, how much a crash costs |
"""


def page() -> str:
    """The whole page, as Markdown."""
    lines = [HEAD, "## Top level", "", *_table("", Settings)]
    for name, field in Settings.model_fields.items():
        lines += _part(name, field)
    return "\n".join(lines) + "\n"


def who_sets(key: str) -> str:
    """Who usually sets a key.

    Raises:
        ValueError: If no beginning of the key is in ``WHO``.
    """
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        if (who := WHO.get(".".join(parts[:count]))) is not None:
            return who
    raise ValueError(
        f"{key} has nobody who sets it: add {parts[0]} to WHO in dev/site_pages/configuration.py"
    )


def _part(path: str, field: FieldInfo) -> Iterator[str]:
    """The heading and the table of a section, and of the sections in it."""
    section = RelationSettings if path == "relations" else _section_of(field)
    if section is None:
        return
    heading = "relations.NAME" if path == "relations" else path
    yield from ("", f"## [{heading}]", "", field.description or "", "", *_table(heading, section))
    for name, below in section.model_fields.items():
        yield from _part(f"{path}.{name}", below)


def _table(path: str, section: type[BaseModel]) -> Iterator[str]:
    yield "| key | type, range | default | who | what it does |"
    yield "|---|---|---|---|---|"
    for name, field in section.model_fields.items():
        if name == "relations" or _section_of(field) is not None:
            continue
        key = f"{path}.{name}" if path else name
        cells = (f"`{key}`", _kind(field), _default(field), who_sets(key), field.description or "")
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[*]", "`[*]`").replace("<", "&lt;")


def _section_of(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "not set"
    plain = default if isinstance(default, bool | int | float | dict | list | tuple) else str(default)
    return f"`{toml_of({'x': plain}).strip().removeprefix('x = ')}`"


def _kind(field: FieldInfo) -> str:
    """The type in words, and the range."""
    limits = " ".join(text for one in field.metadata for text in _limits(one))
    return f"{_words(field.annotation)}{', ' if limits else ''}{limits}"


def _limits(constraint: object) -> Iterator[str]:
    match constraint:
        case annotated_types.Ge(ge=low):
            yield f"from {low:,}"
        case annotated_types.Gt(gt=low):
            yield f"above {low:,}"
        case annotated_types.Le(le=high):
            yield f"to {high:,}"
        case annotated_types.Lt(lt=high):
            yield f"below {high:,}"
        case _:
            return


def _words(annotation: Any) -> str:
    """A type in words; of what may be not set, the type that it has where it is set."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return "one of " + ", ".join(
            f"`{toml_of({'x': one}).strip().removeprefix('x = ')}`" for one in arguments
        )
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_words(one) for one in arguments if one is not type(None)))
    if origin in (tuple, list):
        return "list of texts"
    if origin is dict:
        return "table"
    return _NAMES[annotation]


_NAMES: Final[Mapping[Any, str]] = {
    Any: "path, list of paths, or table",  # of [events.mapping]
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Duration: "duration",
    Path: "path",
    SecretStr: "secret text",
    datetime: "date and time with a zone",
    AwareDatetime: "date and time with a zone",
}
