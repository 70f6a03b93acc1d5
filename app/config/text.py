"""The configuration as text: the commented file of ``init``, and the output of ``config show``.

Settings' fields and descriptions ──► [starter_file, shown] ──► driftgraph.toml, stdout
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from driftgraph.app.config.settings import FILE_NAME, Settings
from driftgraph.app.config.tables.sections import ENV_PREFIX, RelationSettings, Section
from driftgraph.stream.addresses import public_url, secrets_in

WIDTH = 100  # of a comment line
SECRET_CHARACTERS_MIN = 4  # hiding a shorter one would hide parts of ordinary words

# the funnel of a shop, which most users have; clicks have a short span, since they tell the interest of the
# moment
STARTER_RELATIONS = {"click": "3d", "favorite": "30d", "purchase": "30d"}


def starter_file() -> str:
    """A ``driftgraph.toml`` with every key, its description and its default, commented out.

    Only the starter relations are set, since ``run`` needs some.
    """
    head = (
        f"{FILE_NAME}: what driftgraph run and driftgraph replay do. Each key is shown with its default; "
        "remove the # to change it. The environment goes before this file, as in "
        f"{ENV_PREFIX}KAFKA__TOPIC=clicks, and the command line before both. Durations are text with a unit: "
        '"90s", "15m", "6h", "30d".'
    )
    lines = [*_comment(head), "", *_keys(Settings)]
    for name, field in Settings.model_fields.items():
        if name == "relations":
            lines += _relations(field)
        elif _section_of(field) is not None:
            lines += _table(name, field)
    return "\n".join(lines) + "\n"


def shown(settings: Settings) -> dict[str, Any]:
    """Every setting as plain JSON values; secrets are stars, and addresses have no user and no query."""
    tree: dict[str, Any] = _public(settings.model_dump(mode="json"))
    return tree


def secrets_of(settings: Settings) -> frozenset[str]:
    """Every secret that is set: passwords, and secrets in addresses; none shorter than 4 characters."""
    return frozenset(secret for secret in _secrets(settings) if len(secret) >= SECRET_CHARACTERS_MIN)


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for _, below in value:
            yield from _secrets(below)
    elif isinstance(value, Mapping):
        for below in value.values():
            yield from _secrets(below)
    elif isinstance(value, str) and "://" in value:
        yield from secrets_in(value)


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(below) for key, below in value.items()}
    return public_url(value) if isinstance(value, str) and "://" in value else value


def toml_of(tree: Mapping[str, Any], path: str = "") -> str:
    """A tree as TOML, values before tables; a key that is not set (None) is a comment."""
    tables = {key: value for key, value in tree.items() if isinstance(value, dict) and value}
    lines = [
        f"# {k} is not set" if v is None else f"{k} = {value_of(v)}"
        for k, v in tree.items()
        if k not in tables
    ]
    if path and lines:
        lines.insert(0, f"[{path}]")
    text = "\n".join(lines) + "\n\n" if lines else ""
    return text + "".join(
        toml_of(below, f"{path}.{key_of(k)}" if path else key_of(k)) for k, below in tables.items()
    )


def _table(path: str, field: FieldInfo) -> Iterator[str]:
    section = _section_of(field)
    if section is None:
        return
    yield from ("", *_comment(field.description or ""), f"[{path}]", *_keys(section))
    for name, below in section.model_fields.items():
        yield from _table(f"{path}.{name}", below)


def _relations(field: FieldInfo) -> Iterator[str]:
    yield from ("", *_comment(field.description or ""))
    for number, (name, span) in enumerate(STARTER_RELATIONS.items()):
        if number:
            yield ""
        yield f"[relations.{name}]"
        if number == 0:  # the others have the same keys, which are described once
            yield from _comment(RelationSettings.model_fields["span"].description or "")
        yield f'span = "{span}"'
        if number == 0:
            yield from _keys(RelationSettings, without=("span",))


def _keys(section: type[BaseModel], without: tuple[str, ...] = ()) -> Iterator[str]:
    """The section's own values, each a comment and a commented line."""
    for name, field in section.model_fields.items():
        if name in without or name == "relations" or _section_of(field) is not None:
            continue
        default = field.get_default(call_default_factory=True)
        example = field.examples[0] if field.examples and not default else default
        unset = "" if example is default else "   # an example: not set by default"
        yield from _comment(field.description or "")
        yield f"# {name} = {value_of(_plain(example))}{unset}"


def _plain(value: Any) -> Any:
    """A default as the file writes it: text for a path, a duration or a time."""
    return value if isinstance(value, bool | int | float | dict | list | tuple) else str(value)


def _section_of(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH)]


def value_of(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{key_of(k)} = {value_of(v)}" for k, v in value.items()) + " }"
            if value
            else "{}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_of, value))}]"
    return json.dumps(value, ensure_ascii=False)


def key_of(key: str) -> str:
    """A key as TOML writes it."""
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)
