"""Whose a dead letter is, as far as it can be told: its payload is one that nobody could read as an event.

Rejected ──► [users_of] ──► Ingest: not kept if the user was erased;  LetterEraser: emptied
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import msgspec

from driftgraph.stream.events import ID_BYTES_MAX, Rejected

USER_FIELD: Final = "user_id"  # of canonical JSON, in which late events are written


def users_of(rejected: Rejected, user_field: str) -> set[str]:
    """The users that a letter names: by its key, and by ``user_field`` or ``user_id`` in JSON.

    At any depth, and in JSON that is broken too. A payload of another form names nobody: its key must.
    """
    found = set[str]()
    if rejected.key and len(rejected.key) <= ID_BYTES_MAX:
        found.add(rejected.key.decode(errors="replace"))
    for number, quoted in _pattern(user_field).findall(rejected.payload):
        if number:
            found.add(number.decode())
            continue
        try:
            found.add(msgspec.json.decode(quoted, type=str))
        except msgspec.DecodeError:  # half an escape, or no UTF-8
            found.add(quoted[1:-1].decode(errors="replace"))
    return found


@cache
def _pattern(user_field: str) -> re.Pattern[bytes]:
    names = b"|".join(re.escape(msgspec.json.encode(name)) for name in sorted({user_field, USER_FIELD}))
    return re.compile(
        rb'(?:%s)\s*:\s*(?:(-?\d{1,%d})|("(?:[^"\\]|\\.){1,%d}"))' % (names, ID_BYTES_MAX, ID_BYTES_MAX)
    )
