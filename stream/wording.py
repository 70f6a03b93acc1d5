"""Advice about a file or message of another shape, in the words of the command that runs.

replay, produce, validate: an option      run: a key of the configuration      demo: the file itself
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wording:
    """Advice: each value is half a sentence that begins with a verb."""

    columns: str
    some_columns: str  # with {} for them
    positions: str  # of columns without a header
    no_header: str
    separator: str  # the caller appends the separator
    format: str  # the caller appends the formats
    relations: str
    some_relations: str  # with {names} and {tables} for them

    def these_relations(self, names: Sequence[str], there: Sequence[str] = ()) -> str:
        """Make relations of these behaviors, beside those that are ``there``."""
        keys = [name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name) for name in names]
        tables = " ".join(f"[relations.{key}]" for key in keys)
        return self.some_relations.format(names=",".join((*there, *names)), tables=tables)

    def these_columns(self, columns: Mapping[str, str]) -> str:
        """Name these columns, given by field."""
        pairs = ",".join(f"{field}={name}" for field, name in columns.items())
        return self.some_columns.format(pairs)


BY_OPTION = Wording(
    columns="name the columns with --columns user=…,item=…,behavior=…,ts=…",
    some_columns="give --columns {}",
    positions="name the columns by number with --columns user=0,item=1,behavior=2,ts=3",
    no_header="give --no-header",
    separator="give --separator",
    format="name it with --format",
    relations="name the behaviors that count with --relations A,B",
    some_relations="give --relations {names}, or write in driftgraph.toml {tables}, a line each",
)
BY_KEY = Wording(
    columns="name the columns under [events.columns] in driftgraph.toml: user, item, behavior, ts",
    some_columns="name them under [events.columns] in driftgraph.toml: {}",
    positions="name the columns by number under [events.columns] in driftgraph.toml: user = 0, item = 1, …",
    no_header="set events.header = false in driftgraph.toml",
    separator="set events.separator in driftgraph.toml to",
    format="set events.format in driftgraph.toml to",
    relations="add a table [relations.NAME] to driftgraph.toml for each behavior that counts",
    some_relations="write in driftgraph.toml {tables}, a line each",
)
BY_RENAMING = Wording(
    columns="name the columns in its first line user_id,item_id,behavior,timestamp",
    some_columns="name the columns in its first line user_id,item_id,behavior,timestamp, where it has {}",
    positions="give it a first line: user_id,item_id,behavior,timestamp",
    no_header="give it a first line with the names user_id,item_id,behavior,timestamp",
    separator="write it with commas instead of",
    format="give it a name that ends in",
    relations="look at it with: driftgraph validate FILE",
    some_relations="look at it with: driftgraph validate FILE",
)
