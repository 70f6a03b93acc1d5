"""The rules of a good event: judges the five values of a message or row, and gives the event or the reason.

    source ──► Rows (payloads) ──► Decoder (formats/) ──► Decoded ──► ids, window
                                      │ EventRules.event_of: defines what is right, one row at a time
                                      └ rules_by_column.judge: the same by column, compiled

Every format hands the five values of an event to ``EventRules.event_of`` or, faster, a whole batch of them
to ``rules_by_column.judge``; a test holds the two equal.

One canonical form of an id: text as it is, an integer as its decimal text. Nothing is stripped or folded:
an id with white space at an end is refused, since one producer's ``"42 "`` would make a second user of 42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Final, Protocol

import numpy as np

from driftgraph.stream.arrays import I32
from driftgraph.stream.events import ID_BYTES_MAX, Decoded, Headers, Rejected
from driftgraph.stream.time.clock import TimeBounds, TimeRules, time_ms_of
from driftgraph.stream.time.time_text import TimeFault

ERASE: Final = "$erase"  # the behavior that requests to erase the user, unless another one is configured
DETAIL_CHARACTERS_MAX = 200  # of a refused value in an error message; the payload is kept beside it


class Reason(StrEnum):
    """Every reason why an event is not applied: a closed set, which metrics and dead letters count by."""

    BAD_UTF8 = "bad_utf8"
    BAD_JSON = "bad_json"
    NOT_OBJECT = "not_object"  # JSON, but a list, a text, a number or null
    BAD_SHAPE = "bad_shape"  # readable, but without the structure of the format or the mapping
    BAD_ENCODING = "bad_encoding"  # bytes that do not match their schema, or are no Arrow stream
    UNKNOWN_SCHEMA = "unknown_schema"  # the registry does not have the schema, or it cannot be used
    BAD_ROW = "bad_row"  # CSV: wrong number of fields
    MISSING_FIELD = "missing_field"
    BAD_ID = "bad_id"  # null, a float, a boolean, empty, too long, white space at an end
    BAD_BEHAVIOR = "bad_behavior"  # not a text, or empty
    UNKNOWN_BEHAVIOR = "unknown_behavior"  # a text that names no configured relation
    BAD_TIME = TimeFault.BAD_TIME.value
    TIME_WITHOUT_ZONE = TimeFault.WITHOUT_ZONE.value
    TIME_TOO_OLD = TimeFault.TOO_OLD.value
    TIME_IN_FUTURE = TimeFault.IN_FUTURE.value
    TOMBSTONE = "tombstone"  # a Kafka record without a value, whose key names no user either
    NORMALIZE_FAILED = "normalize_failed"  # the site's own function raised, gave no event, or did not end
    LATE = "late"  # good, but behind the watermark by more than the allowed lateness


class _Missing:
    """The type of ``MISSING``: a field that is absent, as opposed to null."""

    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Event:
    """One good event. ``event_id`` is empty if the event has none."""

    user: str
    item: str
    relation: int
    time_ms: int
    event_id: str = ""
    attributes: tuple[str, ...] = ()  # a text for each configured attribute


@dataclass(frozen=True, slots=True)
class EraseRequest:
    """A request to erase a user's events up to ``time_ms``; None if the request has no time."""

    user: str
    time_ms: int | None = None

    def at(self, record_ms: int | None, bounds: TimeBounds) -> EraseRequest:
        """The request; if it has no time, with the time of its record, if that is an accepted time."""
        if self.time_ms is not None or record_ms is None:
            return self
        time_ms = time_ms_of(record_ms, bounds)
        return self if isinstance(time_ms, TimeFault) else EraseRequest(self.user, time_ms)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row makes no event."""

    reason: Reason
    detail: str
    behavior: str = ""  # of an unknown behavior: its name


class LeftOut(Enum):
    """The type of ``LEFT_OUT``: a record without a value, in a topic where such records erase nobody."""

    TOMBSTONE = 0


LEFT_OUT: Final = LeftOut.TOMBSTONE

# the result of judging a row; None: its behavior is ignored
Answer = Event | EraseRequest | Refusal | LeftOut | None


class Others(StrEnum):
    """What happens to events whose behavior is neither a relation nor on the ignore list."""

    REJECT = "reject"  # they become dead letters
    IGNORE = "ignore"  # they are only counted: the relations are a choice of those in a file
    LEARN = "learn"  # the behavior becomes a relation: the first pass over a file


class TooManyBehaviorsError(ValueError):
    """A file has more behaviors than any site, so its column of behaviors is probably another column."""


class Behaviors:
    """Which behaviors are relations, and which are ignored.

    A relation's code is its index in ``names``. With ``Others.LEARN`` new names are added, up to
    ``LEARNED_MAX``; otherwise ``names`` does not change. A name that is a relation is never ignored.
    """

    IGNORED: Final = -1
    UNKNOWN: Final = -2
    ERASE: Final = -3
    LEARNED_MAX: Final = 32  # a shop or a media site has a dozen behaviors

    def __init__(
        self, names: Iterable[str] = (), *, ignore: Iterable[str] = (), others: Others = Others.REJECT
    ) -> None:
        self._code_of = {name: code for code, name in enumerate(names)}
        self._ignore = frozenset(ignore)
        self._others = others
        if len(self._code_of) > 255:
            raise TooManyBehaviorsError(f"at most 255 relations, got {len(self._code_of)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The relations, by code."""
        return tuple(self._code_of)

    def code(self, name: str) -> int:
        """The relation's code, or ``IGNORED``, or ``UNKNOWN``.

        Raises:
            TooManyBehaviorsError: If the name is new and ``LEARNED_MAX`` names are learned.
        """
        code = self._code_of.get(name)
        if code is not None:
            return code
        if name in self._ignore or self._others is Others.IGNORE:
            return self.IGNORED
        if self._others is Others.REJECT:
            return self.UNKNOWN
        if len(self._code_of) == self.LEARNED_MAX:
            examples = ", ".join(map(shown, [*list(self._code_of)[:3], name]))
            raise TooManyBehaviorsError(f"more than {self.LEARNED_MAX} different behaviors ({examples}, …)")
        return self._code_of.setdefault(name, len(self._code_of))


def shown(value: object) -> str:
    """A value for an error message: quoted, and cut to a line or two."""
    if isinstance(value, str | bytes):
        value = value[: DETAIL_CHARACTERS_MAX + 1]
    try:
        text = repr(value)
    except ValueError:  # CPython writes no integer of more than 4,300 digits
        text = f"a {type(value).__name__} too long to write"
    return text if len(text) <= DETAIL_CHARACTERS_MAX else text[:DETAIL_CHARACTERS_MAX] + "…"


@dataclass(frozen=True, slots=True)
class EventRules:
    """The rules of a good event: a known behavior, valid ids, a time within bounds.

    ``erase`` is the behavior that requests to erase the user. It is checked before all other behaviors.
    """

    behaviors: Behaviors
    times: TimeRules = field(default_factory=TimeRules)
    erase: str = ERASE

    def code(self, behavior: str) -> int:
        """The relation's code, or ``Behaviors.IGNORED``, ``UNKNOWN`` or ``ERASE``."""
        return Behaviors.ERASE if behavior == self.erase else self.behaviors.code(behavior)

    def event_of(  # noqa: PLR0911  one return for each fault
        self,
        *,
        user: object,
        item: object,
        behavior: object,
        ts: object,
        event_id: object = MISSING,
        attributes: tuple[str, ...] = (),
        bounds: TimeBounds,
    ) -> Event | EraseRequest | Refusal | None:
        """The event that these values make, or why they make none, or None if its behavior is ignored.

        The behavior is judged first: an ignored event has no other checks, and a request to erase needs only
        the user. The first fault is told, in the order behavior, user, item, time, event id. ``attributes``
        are taken as they are.
        """
        if behavior is MISSING:
            return Refusal(Reason.MISSING_FIELD, "the event has no behavior")
        if not isinstance(behavior, str) or not behavior:
            return Refusal(Reason.BAD_BEHAVIOR, f"behavior must be a text, got {shown(behavior)}")
        relation = self.code(behavior)
        if relation == Behaviors.IGNORED:
            return None
        if relation == Behaviors.UNKNOWN:
            known = ", ".join(self.behaviors.names)
            detail = f"behavior {shown(behavior)} is no relation; there are: {known}"
            return Refusal(Reason.UNKNOWN_BEHAVIOR, detail, behavior[:DETAIL_CHARACTERS_MAX])
        user_id = id_of(user, "user id")
        if isinstance(user_id, Refusal):
            return user_id
        if relation == Behaviors.ERASE:
            asked_ms = time_ms_of(ts, bounds)  # without a good time it is still a request
            return EraseRequest(user_id, None if isinstance(asked_ms, TimeFault) else asked_ms)
        item_id = id_of(item, "item id")
        if isinstance(item_id, Refusal):
            return item_id
        if ts is MISSING:
            return Refusal(Reason.MISSING_FIELD, "the event has no time")
        time_ms = time_ms_of(ts, bounds)
        if isinstance(time_ms, TimeFault):
            return Refusal(Reason(time_ms.value), _time_detail(time_ms, ts, bounds))
        if event_id is MISSING or event_id is None or (isinstance(event_id, str) and not event_id.strip()):
            return Event(user_id, item_id, relation, time_ms, attributes=attributes)
        own_id = id_of(event_id, "event id")
        if isinstance(own_id, Refusal):
            return own_id
        return Event(user_id, item_id, relation, time_ms, own_id, attributes)


_TIME_DETAIL = {
    TimeFault.BAD_TIME: "the time must be Unix seconds, ms, us or ns, or a date and time such as "
    "2026-07-02T13:46:40Z or 2026-07-02 15:46:40+02:00",
    TimeFault.WITHOUT_ZONE: "the time needs a zone (Z or +02:00), or events.timezone must name its zone",
    TimeFault.TOO_OLD: "the time is before the oldest accepted one",
}


def _time_detail(fault: TimeFault, ts: object, bounds: TimeBounds) -> str:
    told = bounds.beyond if fault is TimeFault.IN_FUTURE else _TIME_DETAIL[fault]
    if fault is TimeFault.BAD_TIME and time_ms_of(ts, replace(bounds, zone=None)) is TimeFault.WITHOUT_ZONE:
        told = f"there is no such time in {bounds.zone}, since clocks are set forward over it"
    return f"{told}, got {shown(ts)}"


def id_of(value: object, what: str) -> str | Refusal:
    """An external id in its canonical form, or why it is not valid. ``what`` names it in the message."""
    if value is MISSING:
        return Refusal(Reason.MISSING_FIELD, f"the event has no {what}")
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            value = str(value)
        except ValueError:  # CPython writes no integer of more than 4,300 digits
            return Refusal(Reason.BAD_ID, f"{what} must be at most {ID_BYTES_MAX} bytes, got a longer number")
    if not isinstance(value, str):
        return Refusal(Reason.BAD_ID, f"{what} must be a text or an integer, got {shown(value)}")
    size = len(value) if value.isascii() else len(value.encode())
    if not 1 <= size <= ID_BYTES_MAX:
        got = f"{size} bytes: {shown(value)}"
        return Refusal(Reason.BAD_ID, f"{what} must be 1 to {ID_BYTES_MAX} bytes, got {got}")
    if value[0] <= " " or value[-1] <= " " or value[0].isspace() or value[-1].isspace():
        return Refusal(Reason.BAD_ID, f"{what} has white space at an end: {shown(value)}")
    return value


class NotNowError(Exception):
    """A decoder needs a service that is away: the caller gives it the same rows again later.

    The message says which service is away and why.
    """


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """Where a row came from, with its key, headers and timestamp; needed only if the row is refused."""

    origin: str  # topic[partition]@offset or file:line
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """N messages as a source has read them. ``partition`` is empty if all are from partition 0."""

    payloads: Sequence[bytes | None]
    origin_of: Callable[[int], RowOrigin]
    partition: I32 = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.payloads)


class Decoder(Protocol):
    """Decodes messages of one format. No input makes it raise; bad events are returned as ``Rejected``."""

    def decode(self, rows: Rows) -> Decoded:
        """The good events in the order of the rows, and the others with their reasons. Sets no position.

        Raises:
            NotNowError: If a service that it needs is away. It has decoded nothing then. Only formats with a
                schema registry raise it, and ``WaitingSource`` gives them the rows again.
        """
        ...


def rejected(refusal: Refusal, payload: bytes | None, at: RowOrigin) -> Rejected:
    """A refused row with all that is needed to find it and send it again."""
    return Rejected(
        reason=refusal.reason.value,
        detail=refusal.detail,
        payload=payload or b"",
        origin=at.origin,
        key=at.key,
        headers=at.headers,
        timestamp_ms=at.timestamp_ms,
        behavior=refusal.behavior,
    )
