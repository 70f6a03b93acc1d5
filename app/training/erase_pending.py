"""Erasure from dead letters, and what the worker's process does at once while a fit takes minutes.

    pending files ──► [erasing: a thread] ──► dead letters of the users, and their keys in Redis
                            └ the worker's own loop removes the keys once more, and then the file

A letter is a user's if its key is the user, or if its payload names the user where JSON of the format has it;
it goes as a whole, also one that was a list of several users' events. A topic cannot lose single records:
there the letters are marked as done, so that nobody sends them again, and what is in front of the first open
letter is removed; the others go with the topic's retention.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from driftgraph.app.config.builders import generation_store
from driftgraph.app.config.letter_place import letter_box
from driftgraph.snapshots.erasures import LETTERS, REDIS, PendingErasures
from driftgraph.snapshots.generations.keys import connect
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.formats import JSON_NAMES
from driftgraph.stream.formats.event_rules import RowOrigin
from driftgraph.stream.formats.field_mapping import Values
from driftgraph.stream.ingest.erasures import UsersOf, key_users

if TYPE_CHECKING:
    from driftgraph.app.config.settings import Settings
    from driftgraph.app.publishing.refresher import Refresher
    from driftgraph.stream.dead_letters.letters import LetterBox
    from driftgraph.stream.events import Rejected

LOOK_EVERY_S: Final = 0.2
PAUSE_S: Final = 5.0  # while a place is away

log = logging.getLogger(__name__)


def erasures_folder(settings: Settings) -> Path:
    """Where the list and the pending files are."""
    return settings.data_dir / "erasures"


def users_of(settings: Settings) -> UsersOf:
    """Whose event a letter is, by its key and by its payload as the configured format has it."""
    names = {JSON_NAMES.user, JSON_NAMES.with_columns(settings.events.columns.given()).user}
    quoted = b"|".join(re.escape(msgspec.json.encode(name)) for name in sorted(names))
    named = re.compile(rb"(?:%s)\s*:\s*(\"(?:[^\"\\]|\\.)*\"|-?\d+)" % quoted, re.DOTALL)
    mapping = settings.events.event_mapping()

    def found(rejected: Rejected) -> Collection[str]:
        users = set(key_users(rejected))
        for value in named.findall(
            rejected.payload + b"\n" + (rejected.key or b"")
        ):  # by its text, since much of it is broken JSON
            with suppress(msgspec.DecodeError):
                users.add(str(msgspec.json.decode(value)))
        if mapping is None:
            return users
        try:
            message: Any = msgspec.json.decode(rejected.payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return users
        record = RowOrigin(rejected.origin, rejected.key, rejected.headers, rejected.timestamp_ms)
        for one in message if isinstance(message, list) else [message]:
            if isinstance(one, dict):
                parts = [part.user for _, part in mapping.events(one, record) if isinstance(part, Values)]
                users.update(str(user) for user in parts if isinstance(user, str | int))
        return users

    return found


def erase_letters(box: LetterBox, users: Collection[str], users_of: UsersOf) -> int:
    """Remove the letters of users, done ones too, as far as their place can; returns how many those were."""
    wanted = set(users)
    ids = [letter.id for letter in box.letters() if wanted.intersection(users_of(letter.rejected))]
    if ids:
        box.purge(ids)
    return len(ids)


@contextmanager
def erasing(settings: Settings, epoch: int, refresher: Refresher | None = None) -> Iterator[None]:
    """Work off pending erasures in a thread meanwhile, beside a worker of ``epoch`` and its ``refresher``."""
    stopped = threading.Event()
    arguments = (settings, epoch, stopped, refresher)
    thread = threading.Thread(target=_run, args=arguments, name="erasing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()


def _run(settings: Settings, epoch: int, stopped: threading.Event, refresher: Refresher | None) -> None:
    pending = PendingErasures(erasures_folder(settings))
    names = users_of(settings)
    store = generation_store(settings, connect(settings.redis.address()), epoch=epoch)
    removed: set[Path] = set()  # from Redis; the file is the loop's to remove
    while not stopped.wait(LOOK_EVERY_S):
        try:
            for path, users in pending.waiting(LETTERS):
                erase_letters(letter_box(settings), users, names)
                path.unlink(missing_ok=True)
            waiting = pending.waiting(REDIS)
            for path, users in waiting:
                if path not in removed:
                    erase = partial(store.erase, users, live_only=True)
                    if refresher is None:
                        erase()
                    else:
                        refresher.erase(users, erase)
                    removed.add(path)
            removed &= {path for path, _ in waiting}
        except (DriftgraphError, OSError) as error:
            log.warning("users are not erased everywhere yet: %s; trying again in %d s", error, PAUSE_S)
            stopped.wait(PAUSE_S)
