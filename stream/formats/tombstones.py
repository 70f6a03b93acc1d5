"""Records without a value: which user they request to erase, if any.

    key and headers ──► [Tombstones.answer] ──► EraseRequest, Refusal or LEFT_OUT

A topic of changes (Debezium) is keyed by row, and has a record without a value behind each deleted row. Such
a record requests to erase a user only if the key is a user. No wrong user may be erased and no request may be
lost silently: records that are left out are counted, and a request that names no user is a dead letter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from driftgraph.stream.formats.event_rules import (
    LEFT_OUT,
    EraseRequest,
    LeftOut,
    Reason,
    Refusal,
    RowOrigin,
    id_of,
    shown,
)
from driftgraph.stream.formats.record_keys import key_value, sole_value, text_of

ERASE_HEADER: Final = "driftgraph.erase"  # the user, in a record that ``driftgraph erase`` wrote


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Decides what records without a value mean. A record with ``ERASE_HEADER`` always erases that user.

    Args:
        erase: Whether the key is the user.
        fields: The names that the user may have in a key that is an object. None: the key is read as
            ``$key`` is, since ``$key`` is the user of the events.
        plain: Turns a key in another encoding into text or JSON.
    """

    erase: bool
    fields: Collection[str] | None = None
    plain: Callable[[bytes], bytes] = bytes

    def answer(self, at: RowOrigin) -> EraseRequest | Refusal | LeftOut:
        """The user whom a record without a value requests to erase, or why there is none.

        Raises:
            NotNowError: If the schema of the key cannot be looked up now.
        """
        asked = next((value for name, value in at.headers if name == ERASE_HEADER and value), None)
        if asked is not None:
            return _request(text_of(asked), asked)
        if not self.erase:
            return LEFT_OUT
        if not at.key:
            return Refusal(Reason.TOMBSTONE, "a record without a value and without a key, so nobody to erase")
        user = self._user(at.key)
        if isinstance(user, str) and _has_control_characters(user):
            return _nobody(at.key)
        return user if isinstance(user, Refusal) else _request(user, at.key)

    def _user(self, key: bytes) -> object:
        plain = self.plain(key)
        if self.fields is None:
            return sole_value(plain)
        value = key_value(plain)
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and next(iter(value)) in self.fields:
            return sole_value(plain)
        return Refusal(
            Reason.TOMBSTONE,
            f"a record without a value, whose key is not the user alone: {shown(key)}; "
            'if the keys of the topic name rows, set events.tombstones = "ignore"',
        )


def _request(user: object, key: bytes) -> EraseRequest | Refusal:
    if isinstance(user, bytes):
        return _nobody(key)
    checked = id_of(user, "the key of a record without a value")
    return (
        Refusal(Reason.TOMBSTONE, checked.detail) if isinstance(checked, Refusal) else EraseRequest(checked)
    )


def _nobody(key: bytes) -> Refusal:
    return Refusal(Reason.TOMBSTONE, f"a record without a value, whose key is no user id: {shown(key)}")


def _has_control_characters(text: str) -> bool:
    """Whether a text has control characters, as the bytes of a number have."""
    return any(character < " " or character == "\x7f" for character in text)
