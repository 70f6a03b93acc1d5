"""Settings as variables: those of the environment, and files of secrets that are named like them.

environment, folder of secrets ──► [read_variables, secret_files] ──► load
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

from driftgraph.app.config.tables.sections import ENV_PREFIX
from driftgraph.stream.errors import ConfigError

SECRETS_DIR: Final = (
    "DRIFTGRAPH_SECRETS_DIR"  # names a folder of files, as Kubernetes and systemd give secrets
)

Tree = Mapping[str, Any]  # a configuration as it is written: tables of tables and values


class Variables(EnvSettingsSource):
    """The variables that begin with ``DRIFTGRAPH__``; tables and lists are written as JSON."""

    def __init__(self, settings: type[BaseSettings], variables: Mapping[str, str], source: str) -> None:
        self._variables, self._source = variables, source
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(self._variables, self.case_sensitive)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Decode a value that looks like JSON; the validation, which names the key, checks all others."""
        if not str(value).lstrip().startswith(("[", "{")):
            return value
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            name = next(n for n, v in self._variables.items() if n.startswith(ENV_PREFIX) and v == value)
            raise ConfigError(
                f"{self._source}: {name} is not valid JSON: a list is written as "
                '["a", "b"], a table as {"key": "value"}; correct or unset it'
            ) from None


def read_variables(settings: type[BaseSettings], variables: Mapping[str, str], source: str) -> Tree:
    """What variables set, as a tree shaped like the file.

    Raises:
        ConfigError: One sets an unknown table, or is not valid JSON.
    """
    sections = set(settings.model_fields)
    meant = {key.replace("__", "_"): key for key in _names_of(settings, ENV_PREFIX)}
    for name in variables:
        if (key := meant.get(name.upper())) is not None:
            raise ConfigError(f"{source}: {name} sets nothing, did you mean {key}? rename or unset it")
        key = name.removeprefix(ENV_PREFIX).split("__")[0].lower()
        if name.startswith(ENV_PREFIX) and key not in sections:
            raise ConfigError(f"{source}: {name} sets an unknown key{closest(key, sections)}; unset it")
    tree: dict[str, Any] = Variables(settings, variables, source)()
    return tree


def with_case_of(tree: Tree, table: str, written: Tree, variables: Iterable[str]) -> Tree:
    """The tree of variables, whose names have no case, with the names that users chose for keys of ``table``.

    A name has the case of the file, ``written``, where that has it once; else that of the variable, if it has
    a small letter.
    """
    named = tree.get(table)
    if not isinstance(named, Mapping):
        return tree
    in_file = written.get(table)
    spelled = [*in_file] if isinstance(in_file, Mapping) else []
    begin = f"{ENV_PREFIX}{table}__".lower()
    in_variables = [one[len(begin) :].split("__")[0] for one in variables if one.lower().startswith(begin)]

    def spell(name: str) -> str:
        for names in (spelled, [one for one in in_variables if not one.isupper()]):
            if len(same := {one for one in names if one.lower() == name}) == 1:
                return same.pop()
        return name

    return {**tree, table: {name if name in spelled else spell(name): one for name, one in named.items()}}


def _names_of(model: type[BaseModel], above: str) -> Iterator[str]:
    """The variable of each key of a table and of the tables in it."""
    for name, field in model.model_fields.items():
        variable = f"{above}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names_of(field.annotation, f"{variable}__")
        else:
            yield variable


def secret_files(settings: type[BaseSettings]) -> tuple[str, Tree]:
    """The folder of secrets, and what its files set: each has the name and the value of a variable.

    Raises:
        ConfigError: The folder or a file of it cannot be read, or a file has another name.
    """
    named = os.environ.get(SECRETS_DIR)
    if not named:
        return f"no {SECRETS_DIR}", {}
    found: dict[str, str] = {}
    try:
        for path in sorted(Path(named).iterdir()):
            if path.name.startswith("."):
                continue  # Kubernetes keeps the files of a volume behind links to such folders
            if not path.name.startswith(ENV_PREFIX):
                raise ConfigError(
                    f"{path}: no setting has this name; a file of {SECRETS_DIR} is named as a variable, as "
                    f"{ENV_PREFIX}WEB__TOKEN"
                )
            found[path.name] = path.read_text(encoding="utf-8").strip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{named}: a file is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        where = error.filename or named
        raise ConfigError(f"{where}: cannot be read ({error.strerror}); correct {SECRETS_DIR}") from error
    return named, read_variables(settings, found, named)


def closest(key: str, known: Iterable[str]) -> str:
    """``, did you mean …?`` where a known key is close, else nothing."""
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f", did you mean {close[0]}?" if close else ""
