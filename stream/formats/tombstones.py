"""Records without a value: whom they ask to forget, if anybody.

    key and headers ──► [Tombstones.answer] ──► EraseRequest, Refusal or LEFT_OUT

A topic of changes (Debezium) keys by row, and writes a record without a value behind each deleted row: only
where the key is a user does such a record ask to forget one. No wrong user may be erased, and no request be
lost in silence: what is left out is counted, and what names nobody is a dead letter.
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
    """What records without a value mean. One with ``ERASE_HEADER`` asks to forget that user in any case.

    Args:
        erase: The key is the user.
        fields: The names that the user may have where the key is an object. None: the key is read as ``$key``
            is, since that is the user of the events.
        plain: What makes text or JSON of a key in another encoding.
    """

    erase: bool
    fields: Collection[str] | None = None
    plain: Callable[[bytes], bytes] = bytes

    def answer(self, at: RowOrigin) -> EraseRequest | Refusal | LeftOut:
        """Whom such a record asks to forget.

        Raises:
            NotNowError: If the encoding of the key cannot be looked up now.
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
    """As a number in bytes has, which might pass for a text."""
    return any(character < " " or character == "\x7f" for character in text)
