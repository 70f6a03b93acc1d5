"""Makes the tables of attributes that the configuration asks for, and fills them from its files.

Settings ──► [attributes_of] ──► Attributes ──► Ingest
        └──► [attributes_view] ──► AttributesView ──► Trainer, in the worker's process
"""

from __future__ import annotations

from pathlib import Path

from driftgraph.app.config.settings import Settings
from driftgraph.stream.attributes.attributes import Attributes, AttributesView
from driftgraph.stream.attributes.file import read_attributes
from driftgraph.stream.ingest.erased_users import ErasedUsers
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
    own = settings.events.attributes
    said = []
    for side, name in ((ITEM, "item"), (USER, "user")):
        path = own.item_file if side == ITEM else own.user_file
        if attributes is None or path is None:
            continue
        taken, bad = read_attributes(
            path,
            attributes,
            side,
            key=own.item_key if side == ITEM else own.user_key,
            columns=own.places(name, in_file=True),
            reach_ms=erased.reach_ms if side == USER else None,
        )
        without = f"; {bad:,} rows have no usable id" if bad else ""
        said.append(f"attributes of {taken:,} {name}s from {path}{without}")
    if attributes is not None:
        attributes.hold()
    return said


def attributes_view(settings: Settings, graph: HeterographView, directory: Path) -> AttributesView | None:
    """The attributes that the updater writes; None if none is configured.

    Raises:
        WindowError: The updater has other ones.
    """
    fields = settings.events.attributes.fields()
    return AttributesView.attach(directory, fields, graph) if fields else None
