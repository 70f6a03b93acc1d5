"""The window as the newest checkpoint of a configuration has it, in private memory.

    data_dir/checkpoints ──► [saved_window] ──► Heterograph ──► export, retrain

It only reads. An updater may work in the data_dir meanwhile: it removes a checkpoint once it has written
``KEEP`` newer ones, and then the newest is read instead.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

import msgspec

from driftgraph.app.config.attribute_tables import attributes_of, fill_from_files, sides_anew
from driftgraph.app.config.builders import window_relations
from driftgraph.app.config.settings import Settings
from driftgraph.app.training.erase_pending import erasures_folder
from driftgraph.snapshots.checkpoints import attributes, checkpoint, window
from driftgraph.snapshots.erasures import ErasureList
from driftgraph.stream.attributes.attributes import Attributes
from driftgraph.stream.errors import ConfigError, DriftgraphError
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erased_users import KEY_BYTES, ErasedUsers
from driftgraph.stream.window.heterograph import Heterograph

TRIES: Final = 3  # each takes seconds, and a checkpoint lives for three intervals

log = logging.getLogger(__name__)


class NoCheckpointError(DriftgraphError):
    """There is no checkpoint to read."""


class SavedWindow(NamedTuple):
    """The window, the number of its checkpoint, and the attributes beside it, if any are configured."""

    graph: Heterograph
    number: int
    attributes: Attributes | None


def require_relations(settings: Settings) -> None:
    """Refuse a configuration without relations, as one of another folder may be.

    Raises:
        ConfigError: If no relations are configured.
    """
    if not settings.relations:
        raise ConfigError(
            "no relations are configured, and a checkpoint is read by their names: add the [relations.NAME] "
            "tables that the updater has"
        )


def saved_window(settings: Settings) -> SavedWindow:
    """Read the newest checkpoint of the configured topic and shard. Users erased since are left out.

    Sequence numbers mean what they mean in the checkpoint, and belong to its newest life: so does what a
    trainer says of how far it is trained.

    Raises:
        ConfigError: If no relations are configured.
        NoCheckpointError: If there is none, or none that can be read.
    """
    require_relations(settings)
    root = settings.data_dir / "checkpoints"
    stream = f"{settings.kafka.topic} {settings.kafka.shard}"
    for _ in range(TRIES):
        found, state, damaged = window.latest(root, stream, is_ours=False)
        for damage in damaged:
            log.error("checkpoint %s is damaged (%s); an older one is used", damage.path, damage.reason)
        if found is None or state is None:
            break
        relations = window_relations(settings)
        rows = settings.window
        graph = Heterograph.create(
            None,
            relations,
            user_rows=rows.user_rows,
            item_rows=rows.item_rows,
            history=state.lives([relation.name for relation in relations]),
        )
        erased = ErasureList(erasures_folder(settings)).read() or ErasedUsers(bytes(KEY_BYTES))
        without_ids = msgspec.structs.replace(state, ids=())  # nothing is ingested
        try:
            window.restore(found, without_ids, graph, Deduplicator(), erased)
            own = attributes_of(settings, graph, None)
            attributes.restore(found, own, erased, sides_anew(settings, state.said_by).values())
            fill_from_files(settings, own, erased)
        except FileNotFoundError:
            continue  # an updater has removed it
        return SavedWindow(graph, found.number, own)
    there = "none of it can be read" if checkpoint.numbers(root) else "there is none"
    raise NoCheckpointError(
        f"no checkpoint of topic {settings.kafka.topic}, shard {settings.kafka.shard} in {root} ({there}): "
        "driftgraph run writes one"
    )
