"""Looks at a configuration as a whole: where each setting comes from, and everything that is wrong with it.

file, environment, defaults ──► [settings_of, faults_of] ──► driftgraph config check
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftgraph.app.config import saved_model
from driftgraph.app.config.builders import window_relations
from driftgraph.app.config.settings import ENVIRONMENT, Tree, faults_in, has_key, load, sources_of
from driftgraph.app.config.tables.sections import ENV_PREFIX
from driftgraph.app.config.text import key_of, shown
from driftgraph.stream.errors import DriftgraphError

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its key with dots, its value without secrets, and where it comes from."""

    key: str
    value: Any
    source: str


def faults_of(path: Path | None) -> list[str]:
    """Everything for which ``run`` would refuse this configuration, each in a sentence."""
    try:
        if faults := faults_in(sources_of(path)):
            return faults
        settings = load(path)
        window_relations(settings)
    except DriftgraphError as error:
        return [str(error)]
    if not settings.relations:
        return ["no relations are configured, so no event would be an edge: add [relations.NAME] tables"]
    saved = saved_model.newest(settings.data_dir)
    refusal = None if saved is None else saved.refusal(settings)
    return [] if refusal is None else [refusal]


def settings_of(path: Path | None) -> list[Setting]:
    """Every setting, in the order of the file that ``init`` writes.

    Raises:
        ConfigError: If it cannot be resolved; ``faults_of`` says all that is wrong.
    """
    sources = sources_of(path)
    return [
        Setting(".".join(map(key_of, keys)), value, _source(keys, sources))
        for keys, value in _leaves(shown(load(path)), ())
    ]


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _source(keys: Sequence[str], sources: Mapping[str, Tree]) -> str:
    name = next((name for name, tree in sources.items() if has_key(tree, keys)), DEFAULT)
    return _variable(keys) if name == ENVIRONMENT else name


def _variable(keys: Sequence[str]) -> str:
    """The variable that sets a key: its own, or one that sets a whole table as JSON."""
    named = {name.upper(): name for name in os.environ}
    for depth in range(len(keys), 0, -1):
        if (name := named.get(ENV_PREFIX + "__".join(keys[:depth]).upper())) is not None:
            return name
    return ENVIRONMENT
