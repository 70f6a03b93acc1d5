"""A site's own messages as events: the configuration declares which path holds which value.

    [events.mapping] or a preset ──► [EventMapping.of] ──► events(message) ──► the five values of each event

One message may be several events: a path with ``[*]`` loops over a list. All paths of a mapping loop over the
same lists (one inside the other, if there are two), so each turn of the innermost loop is an event. If the
list is missing, null or empty, the message is one event, and paths into the list find nothing. ``messages``
is for a body that holds whole messages: each is read as if it had come alone.

This module imports little, since the configuration is checked with it; ``mapping_decoder`` decodes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from driftgraph.stream.events import JOINT
from driftgraph.stream.formats.paths import (
    ABSENT,
    Condition,
    NotComparableError,
    Path,
    Steps,
    UnsetNumber,
    UnsetText,
    is_empty,
    look_up,
    steps_of,
)
from driftgraph.stream.formats.record_keys import Record, beside

FIELDS: Final = ("user", "item", "behavior", "ts", "event_id")

KEYS: Final = (*FIELDS, "messages", "when", "behaviors", "others", "none")
OTHERS: Final = ("keep", "ignore")


class MappingError(ValueError):
    """A mapping cannot be used. ``key`` is the part that is wrong, such as ``behaviors.rate``."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Value:
    """Where a value comes from: a constant, the first path that finds something, or all of them joined.

    An empty text, blanks and null count as absent.
    """

    paths: tuple[Path, ...] = ()
    joined: bool = False
    constant: str | None = None

    @classmethod
    def parse(cls, written: object) -> Value:
        """Read ``"user.id"``, ``["user.id", "device.id"]``, ``{const = "like"}`` or ``{join = ["a", "b"]}``.

        Raises:
            ValueError: If it is none of these.
        """
        if isinstance(written, str):
            return cls((Path.parse(written),))
        if isinstance(written, Mapping) and list(written) == ["const"] and isinstance(written["const"], str):
            return cls(constant=written["const"])
        join = isinstance(written, Mapping) and list(written) == ["join"]
        texts = written["join"] if isinstance(written, Mapping) and join else written
        if not isinstance(texts, Sequence) or not texts or not all(isinstance(one, str) for one in texts):
            raise ValueError(
                'should be a path such as "user.id", a list of paths of which the first that finds something '
                'counts, { const = "text" } or { join = ["path", "path"] }'
            )
        return cls(tuple(map(Path.parse, texts)), joined=join)


@dataclass(frozen=True, slots=True)
class Choice:
    """The relation that a name in the table of behaviors becomes, if the condition holds."""

    relation: str
    when: Condition | None = None


class Values(NamedTuple):
    """The five values of one event, unchanged from the message; ``ABSENT`` for a missing one.

    ``attributes`` are the values of the configured attributes.
    """

    user: object
    item: object
    behavior: object
    ts: object
    event_id: object
    attributes: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Misfit:
    """A part of a message that the mapping cannot be applied to."""

    detail: str


Found = tuple[str, Values | Misfit | None]  # (place in the message, event); None: left out on purpose
_Scopes = tuple[object, ...]  # the message, then the element of each loop that was entered
_Turn = tuple[int, ...]  # the index of each of those elements in its list
_Get = Callable[[_Scopes, Record | None], object]


@dataclass(frozen=True, slots=True)
class EventMapping:
    """A mapping that has been checked. Build it with ``of``."""

    values: tuple[Value, ...]  # by FIELDS
    loops: tuple[Steps, ...] = ()  # the lists, from the message inwards
    when: Condition | None = None
    behaviors: Mapping[str, tuple[Choice, ...]] | None = None
    ignore_others: bool = False
    none: frozenset[str] = frozenset()
    erase: str = ""  # the behavior that requests to erase the user; ``others`` does not apply to it
    messages: Steps = ()  # the list in a message whose elements are messages; empty: there is none
    attributes: tuple[Value, ...] = ()  # of the item, then of the user
    _gets: tuple[_Get, ...] = field(init=False, repr=False, compare=False)  # by FIELDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "_gets", tuple(map(self._get_of, self.values)))

    @classmethod
    def of(
        cls, written: Mapping[str, Any], *, erase: str = "", attributes: Sequence[str] = ()
    ) -> EventMapping:
        """Read a mapping as the configuration has it.

        Keys: ``user``, ``item``, ``behavior``, ``ts`` and ``event_id`` (see ``Value``); ``messages``, where
        a message holds a list of messages; ``when``, a condition that a message must pass, else it is
        ignored; ``behaviors``, from the names in the messages to relations; ``others``, what happens to names
        that are not in that table; ``none``, texts that mean an absent value. ``attributes`` are paths.

        Raises:
            MappingError: If a key is missing, unknown or wrong, or two paths loop over different lists.
        """
        for key in written:
            if key not in KEYS:
                raise MappingError(key, f"is no key of a mapping; there are: {', '.join(KEYS)}")
        for key in FIELDS[:4]:
            if written.get(key) is None:
                raise MappingError(key, f"is missing: a mapping says where the {key} of an event stands")
        values = tuple(_told(key, Value.parse, written.get(key) or []) for key in FIELDS if key in written)
        values = values if "event_id" in written else (*values, Value())
        of_attributes = tuple(_told("attributes", Value.parse, path) for path in attributes)
        when = None if written.get("when") is None else _told("when", Condition.parse, written["when"])
        table = written.get("behaviors")
        behaviors = None if not table else {str(name): _choices(str(name), table[name]) for name in table}
        if written.get("others", "keep") not in OTHERS:
            raise MappingError("others", f"is one of {', '.join(OTHERS)}, not {written['others']!r}")
        return cls(
            values,
            _loops((*values, *of_attributes), when, behaviors or {}),
            when,
            behaviors,
            written.get("others") == "ignore",
            frozenset(written.get("none") or ()),
            erase,
            () if written.get("messages") is None else _told("messages", steps_of, written["messages"]),
            of_attributes,
        )

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations in the table of behaviors, each once; empty without a table."""
        choices = (choice for row in (self.behaviors or {}).values() for choice in row)
        return tuple(dict.fromkeys(choice.relation for choice in choices))

    @property
    def needs_record(self) -> bool:
        """Whether a path leads to the Kafka record around the message."""
        return any(path.record for path in self._paths())

    @property
    def needs_key(self) -> bool:
        """Whether a path leads to the key of the Kafka record around the message."""
        return any(path.record == "key" for path in self._paths())

    @property
    def user_is_key(self) -> bool:
        """Whether the user of an event is the key of its record, if the record has one."""
        user = self.values[0]
        return bool(user.paths) and not user.joined and user.paths[0].record == "key"

    @property
    def user_fields(self) -> tuple[str, ...]:
        """The names of the fields that hold a user; none if the user is joined from several."""
        user = self.values[0]
        steps = [
            path.parts[-1][-1] for path in user.paths if path.parts and path.parts[-1] and not user.joined
        ]
        return tuple(dict.fromkeys(step for step in steps if isinstance(step, str)))

    def _paths(self) -> list[Path]:
        choices = (choice.when for row in (self.behaviors or {}).values() for choice in row)
        conditions = [condition for condition in (self.when, *choices) if condition is not None]
        paths = [path for value in (*self.values, *self.attributes) for path in value.paths]
        return paths + [test.path for condition in conditions for test in condition.tests]

    def events(self, message: object, record: Record | None) -> Iterator[Found]:
        """The events in one message, each with its place such as ``lines[2]``, or empty without a loop."""
        held = look_up(message, self.messages) if self.messages else ABSENT
        if held is ABSENT or held is None or held == []:
            yield from self._events(message, record)
            return
        name = ".".join(map(str, self.messages))
        if not isinstance(held, list):
            yield "", Misfit(f"{name} must be a list, got {type(held).__name__}")
            return
        around = self._around(message)
        for number, one in enumerate(held):
            at = f"{name}[{number}]"
            if not isinstance(one, dict):
                yield at, Misfit(f"{at} must be an object, got {type(one).__name__}")
                continue
            for place, found in self._events({**around, **one}, record):
                yield f"{at}.{place}" if place else at, found

    def _around(self, message: object) -> dict[str, object]:
        """The values that a body has for all of its messages, except the event id."""
        own = {self.messages[0], *(path.parts[0][0] for path in self.values[-1].paths if not path.record)}
        beside = message.items() if isinstance(message, dict) else ()
        return {key: value for key, value in beside if key not in own}

    def _events(self, message: object, record: Record | None) -> Iterator[Found]:
        """The events of a message that holds no other messages."""
        if self.when is not None:
            answer = self._holds(self.when, (message,), record)
            if answer is not True:
                yield "", answer or None
                return
        if not self.loops:
            yield "", self._event((message,), (), record)
            return
        for place, scopes, turn in self._turns("", (message,), ()):
            yield place, scopes if isinstance(scopes, Misfit) else self._event(scopes, turn, record)

    def _turns(
        self, place: str, scopes: _Scopes, turn: _Turn
    ) -> Iterator[tuple[str, _Scopes | Misfit, _Turn]]:
        """The turns of the innermost loop."""
        depth = len(scopes) - 1
        steps = self.loops[depth] if depth < len(self.loops) else ()
        elements = look_up(scopes[-1], steps) if depth < len(self.loops) else None
        if elements is ABSENT or elements is None or elements == []:
            yield place, scopes, turn
            return
        name = ".".join([*([place] if place else []), *map(str, steps)])
        if not isinstance(elements, list):
            yield place, Misfit(f"{name} must be a list, got {type(elements).__name__}"), turn
            return
        for number, element in enumerate(elements):
            yield from self._turns(f"{name}[{number}]", (*scopes, element), (*turn, number))

    def _event(self, scopes: _Scopes, turn: _Turn, record: Record | None) -> Values | Misfit | None:
        user, item, behavior, ts, event_id = self._gets
        name = behavior(scopes, record)
        if self.behaviors is not None and isinstance(name, str) and name != self.erase:
            choices = self.behaviors.get(name)
            if choices is None and self.ignore_others:
                return None
            if choices is not None:
                chosen = self._choose(choices, scopes, record)
                if chosen is None or isinstance(chosen, Misfit):
                    return chosen
                name = chosen.relation
        if turn:
            own_id, depth = self._pick(self.values[-1], scopes, record)
            if depth < len(turn) and not is_empty(own_id) and type(own_id) in (str, int):
                own_id = f"{own_id}#{'.'.join(map(str, turn[depth:]))}"  # ids of a message differ
        else:
            own_id = event_id(scopes, record)
        said = tuple(self._pick(value, scopes, record)[0] for value in self.attributes)
        return Values(user(scopes, record), item(scopes, record), name, ts(scopes, record), own_id, said)

    def _choose(
        self, choices: Sequence[Choice], scopes: _Scopes, record: Record | None
    ) -> Choice | Misfit | None:
        """The first choice whose condition holds; None if none does."""
        for choice in choices:
            answer = True if choice.when is None else self._holds(choice.when, scopes, record)
            if answer is True:
                return choice
            if isinstance(answer, Misfit):
                return answer
        return None

    def _holds(self, condition: Condition, scopes: _Scopes, record: Record | None) -> bool | Misfit:
        try:
            return all(test.holds(self._at(test.path, scopes, record)) for test in condition.tests)
        except NotComparableError as error:
            return Misfit(str(error))

    def _get_of(self, value: Value) -> _Get:
        """A function that finds the value: a shortcut for the usual cases, else ``_pick``."""
        if len(value.paths) != 1 or value.joined or value.paths[0].record or self.none:
            return lambda scopes, record: self._pick(value, scopes, record)[0]
        depth, steps = value.paths[0].depth, value.paths[0].parts[-1]

        def get(scopes: _Scopes, record: Record | None) -> object:  # noqa: ARG001  all have these arguments
            found = look_up(scopes[depth], steps) if depth < len(scopes) else ABSENT
            return ABSENT if type(found) is UnsetNumber or type(found) is UnsetText else found

        return get

    def _pick(self, value: Value, scopes: _Scopes, record: Record | None) -> tuple[object, int]:
        """The value, and the depth of the loop in which it was found."""
        if value.constant is not None:
            return value.constant, 0
        if value.joined:
            parts = [self._at(path, scopes, record) for path in value.paths]
            if any(map(is_empty, parts)):
                return ABSENT, 0
            return JOINT.join(map(str, parts)), max(path.depth for path in value.paths)
        empty: object = ABSENT
        for path in value.paths:
            found = self._at(path, scopes, record)
            if not is_empty(found):
                return found, path.depth
            if not isinstance(found, UnsetNumber | UnsetText) and empty is ABSENT:
                empty = found
        return (empty if len(value.paths) == 1 else ABSENT), 0  # one empty path is refused as what it is

    def _at(self, path: Path, scopes: _Scopes, record: Record | None) -> object:
        if path.record:
            return beside(path.record, record)
        if path.depth >= len(scopes):
            return ABSENT
        found = look_up(scopes[path.depth], path.parts[-1])
        return ABSENT if self.none and isinstance(found, str) and found in self.none else found


def _told(key: str, parse: Any, written: object) -> Any:
    try:
        return parse(written)
    except (ValueError, TypeError) as error:
        raise MappingError(key, str(error)) from error


def _choices(name: str, written: object) -> tuple[Choice, ...]:
    """The choices of one name: a relation, or several relations with conditions."""
    key = f"behaviors.{name}"
    if isinstance(written, str) and written:
        return (Choice(written),)
    rows = [written] if isinstance(written, Mapping) else written
    form = '{ relation = "like", when = "rating >= 4" }'
    if not isinstance(rows, list | tuple) or not rows:
        raise MappingError(key, f"should be a relation, or a list of {form}")
    choices: list[Choice] = []
    for row in rows:
        named = isinstance(row, Mapping) and isinstance(row.get("relation"), str)
        if not named or not set(row) <= {"relation", "when"}:
            raise MappingError(key, f"each of the list should be like {form}, not {row!r}")
        when = None if row.get("when") is None else _told(key, Condition.parse, row["when"])
        choices.append(Choice(row["relation"], when))
    return tuple(choices)


def _loops(
    values: Sequence[Value], when: Condition | None, behaviors: Mapping[str, Sequence[Choice]]
) -> tuple[Steps, ...]:
    """The lists that the paths loop over. Two paths that loop over different lists are refused."""
    for test in when.tests if when else ():
        if test.path.depth:
            raise MappingError(
                "when", f"{test.path.text} loops over a list, but this is asked once a message"
            )
    keys = (*FIELDS, *["attributes"] * (len(values) - len(FIELDS)))
    paths = [(key, path) for key, value in zip(keys, values, strict=True) for path in value.paths]
    for name, choices in behaviors.items():
        tests = [test for choice in choices if choice.when for test in choice.when.tests]
        paths += [(f"behaviors.{name}", test.path) for test in tests]
    deepest_key, deepest = max(paths, key=lambda pair: pair[1].depth, default=("", Path("", ())))
    for key, path in paths:
        if path.parts[: path.depth] != deepest.parts[: path.depth]:
            raise MappingError(
                key,
                f"{path.text} and {deepest.text} of {deepest_key} loop over different lists; "
                "all paths of a mapping loop over the same one",
            )
    return deepest.parts[: deepest.depth]
