"""Makes the tables of attributes that the configuration asks for, and fills them from its files.

Settings ──► [attributes_of] ──► Attributes ──► Ingest
        ├──► [check_files] ──► validate, doctor
        ├──► [topic_attributes] ──► TopicAttributes ──► AttributeFeed, doctor
        └──► [attributes_view] ──► AttributesView ──► Trainer, in the worker's process
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from driftgraph.app.config.formats import event_rules
from driftgraph.app.config.settings import Settings
from driftgraph.stream.attributes.attributes import Attributes, AttributesView
from driftgraph.stream.attributes.file import check_attributes, read_attributes
from driftgraph.stream.attributes.topic import TopicAttributes
from driftgraph.stream.ingest.erased_users import ErasedUsers
from driftgraph.stream.time.clock import Clock
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph, HeterographView


def attributes_of(settings: Settings, graph: Heterograph, directory: Path | None) -> Attributes | None:
    """Empty tables beside the graph in ``directory``; None if no attribute is configured."""
    fields = settings.events.attributes.fields()
    return Attributes(directory, fields, graph) if fields else None


def fill_from_files(settings: Settings, attributes: Attributes | None, erased: ErasedUsers) -> list[str]:
    """Take what the configured files say, as of before every event; return a sentence about each file.

    Ids without an event get rows for it: see ``Attributes.hold``.

    Raises:
        SourceError: A file cannot be read, or lacks a column.
    """
    said = []
    for side, name, path, key, columns in _files(settings):
        if attributes is None:
            continue
        taken, bad = read_attributes(
            path,
            attributes,
            side,
            key=key,
            columns=columns,
            reach_ms=erased.reach_ms if side == USER else None,
        )
        without = f"; {bad:,} rows have no usable id" if bad else ""
        said.append(f"attributes of {taken:,} {name}s from {path}{without}")
    if attributes is not None:
        attributes.hold()
    return said


def check_files(settings: Settings) -> list[str]:
    """Look whether the configured files can be read and have their columns; return a sentence about each.

    Raises:
        SourceError: A file cannot be read, or lacks a column.
    """
    said = []
    for _, _, path, key, columns in _files(settings):
        check_attributes(path, key=key, columns=columns)
        said.append(f"{path} has the columns {', '.join(dict.fromkeys((key, *columns)))}")
    return said


def _files(settings: Settings) -> Iterator[tuple[int, str, Path, str, tuple[str, ...]]]:
    """Of each configured file: its side and the name of that, the path, the key's column, the attributes'."""
    own = settings.events.attributes
    for side, name, path, key in (
        (ITEM, "item", own.item_file, own.item_key),
        (USER, "user", own.user_file, own.user_key),
    ):
        if path is not None:
            yield side, name, path, key, tuple(own.places(name, in_file=True))


def topic_attributes(
    settings: Settings, attributes: Attributes | None, clock: Clock, erased: ErasedUsers | None = None
) -> TopicAttributes:
    """What takes the records of the configured topics into the tables, or without tables only judges them."""
    return TopicAttributes(
        settings.events.attributes.topics(),
        attributes,
        event_rules(settings, clock).times,
        None if erased is None else erased.reach_ms,
    )


def sides_anew(settings: Settings, said_by: Mapping[str, str]) -> dict[str, int]:
    """The topics that are read from their beginning, with their sides: a checkpoint has them not, or as read
    in another way (``said_by``).
    """
    own = settings.events.attributes
    now = own.said_by()
    return {one.topic: one.side for one in own.topics() if said_by.get(one.topic) != now[one.topic]}


def attributes_view(settings: Settings, graph: HeterographView, directory: Path) -> AttributesView | None:
    """The attributes that the updater writes; None if none is configured.

    Raises:
        WindowError: The updater has other ones.
    """
    fields = settings.events.attributes.fields()
    return AttributesView.attach(directory, fields, graph) if fields else None
