"""Paths into a message, and conditions on them, as they are written in a configuration.

    "properties.products[*].product_id"  ──► [Path.parse] ──► look up in each message
    "rating >= 4 and verified == true"   ──► [Condition.parse]

Both are parsed once, when the configuration is loaded, which also finds every error in them. Nothing here
knows events: ``field_mapping`` puts paths together.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final


class _Absent:
    """The type of ``ABSENT``: no value, as opposed to null."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()


class UnsetNumber(int):
    """0 in place of a number that was not sent. Protobuf has no other sign for that.

    A condition takes it as the number 0; as a value of an event it counts as absent.
    """


class UnsetText(str):
    """As ``UnsetNumber``, for an empty text."""

    __slots__ = ()


def is_empty(value: object) -> bool:
    """Whether a value is absent, null, a text of blanks, or was not set."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is ABSENT or value is None or type(value) is UnsetNumber


LOOP: Final = -1  # the step [*]; other integers are indexes into a list
Step = str | int
Steps = tuple[Step, ...]

_NAME: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|([^.\[\]"\s]+)')
_PLACE: Final = re.compile(r"\[(\*|\d{1,6})\]")
_METADATA: Final = ("$key", "$timestamp")
_HEADER: Final = "$header."


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value is: in the message, or beside it in its Kafka record.

    ``parts`` are the steps between the ``[*]``: those of ``a.b[*].c`` are ``("a", "b")`` and ``("c",)``.
    """

    text: str
    parts: tuple[Steps, ...]
    record: str = ""  # key, timestamp or header.NAME, for a value beside the message

    @classmethod
    def parse(cls, text: str) -> Path:
        """Read ``a.b``, ``a[0].b``, ``a[*].b``, ``"odd.name".b``, ``$key``, ``$timestamp``, ``$header.NAME``.

        Raises:
            ValueError: If it is none of these.
        """
        if text in _METADATA or (text.startswith(_HEADER) and len(text) > len(_HEADER)):
            return cls(text, (), text[1:])
        if text.startswith("$"):
            raise ValueError(
                "what begins with $ is $key, $timestamp or $header.NAME; put a field's name into quotes"
            )
        parts: list[Steps] = []
        steps: list[Step] = []
        for step in _steps(text):
            if step == LOOP:
                parts.append(tuple(steps))
                steps = []
            else:
                steps.append(step)
        return cls(text, (*parts, tuple(steps)))

    @property
    def depth(self) -> int:
        """How many lists the path loops over."""
        return max(0, len(self.parts) - 1)


def _steps(text: str) -> Iterator[Step]:
    at, place = 0, 'a path is made of names with a dot between, such as user.id or items[*]."odd.name"'
    while True:
        name = _NAME.match(text, at)
        if name is None:
            raise ValueError(f"{place}; there is no name at character {at + 1}")
        yield json.loads(name[0]) if name[1] is not None else name[2]
        at = name.end()
        while found := _PLACE.match(text, at):
            yield LOOP if found[1] == "*" else int(found[1])
            at = found.end()
        if at == len(text):
            return
        if text[at] != ".":
            raise ValueError(f"{place}; character {at + 1} is {text[at]!r}")
        at += 1


def steps_of(text: str) -> Steps:
    """The steps of a path in a message without a loop.

    Raises:
        ValueError: If it is not such a path.
    """
    path = Path.parse(text)
    if path.record or path.depth:
        raise ValueError(f"{text} should be a path in the message without [*], such as batch")
    return path.parts[0]


def look_up(value: object, steps: Steps) -> object:
    """The value at the path, or ``ABSENT``."""
    for step in steps:
        if type(step) is str and type(value) is dict:
            value = value.get(step, ABSENT)
        elif type(step) is int and type(value) is list:
            value = value[step] if step < len(value) else ABSENT
        else:
            return ABSENT
    return value


class NotComparableError(ValueError):
    """A condition compares a value by size with a value of another kind."""


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison: ``rating >= 4``."""

    __test__ = False  # so that pytest does not collect it

    path: Path
    sign: str
    operand: Any = None

    def holds(self, value: object) -> bool:
        """Whether the value at the path passes.

        Raises:
            NotComparableError: If ``<`` or the like compares a number with another kind of value, or a text.
        """
        if self.sign in ("exists", "missing"):
            return is_empty(value) == (self.sign == "missing")
        if self.sign == "in":
            return any(_equal(value, one) for one in self.operand)
        if self.sign in ("==", "!="):
            return _equal(value, self.operand) == (self.sign == "==")
        if not (_both(value, self.operand, _is_number) or _both(value, self.operand, _is_text)):
            kind = "a number" if _is_number(self.operand) else "a text"
            raise NotComparableError(f"{self.path.text} must be {kind} to be {self.sign} {self.operand!r}")
        return _ORDER[self.sign](value, self.operand)


@dataclass(frozen=True, slots=True)
class Condition:
    """Comparisons that must all hold."""

    tests: tuple[Test, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read ``PATH SIGN VALUE``, any number of them with ``and`` between.

        The value is JSON; the sign is one of ``== != < <= > >= in``, or ``exists`` or ``missing`` without a
        value.

        Raises:
            ValueError: If it is not a condition.
        """
        tests: list[Test] = []
        at = 0
        while True:
            test, at = _test_at(text, at)
            tests.append(test)
            if not text[at:].strip():
                return cls(tuple(tests))
            joined = _AND.match(text, at)
            if joined is None:
                raise ValueError(f"after {text[:at].strip()!r} comes 'and' or the end, not {text[at:]!r}")
            at = joined.end()


_TEST: Final = re.compile(
    r'\s*((?:"(?:[^"\\]|\\.)*"|[^\s"=!<>])+)\s*(==|!=|>=|<=|>|<|in\b|exists\b|missing\b)\s*'
)
_AND: Final = re.compile(r"\s*and\b")
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _test_at(text: str, at: int) -> tuple[Test, int]:
    found = _TEST.match(text, at)
    if found is None:
        raise ValueError(
            'a condition reads like: rating >= 4, or: type == "track" and user.id exists; '
            f"there is none in {text[at:]!r}"
        )
    path, sign = Path.parse(found[1]), found[2]
    if sign in ("exists", "missing"):
        return Test(path, sign), found.end()
    try:
        operand, end = _DECODER.raw_decode(text, found.end())
    except ValueError:
        raise ValueError(
            f'after {sign} comes a JSON value, such as 4 or "text", not {text[found.end() :]!r}'
        ) from None
    if sign == "in" and not isinstance(operand, list):
        raise ValueError(f'after in comes a list, such as ["a", "b"], not {operand!r}')
    if sign in _ORDER and not (_is_number(operand) or _is_text(operand)):
        raise ValueError(f"after {sign} comes a number or a text, not {operand!r}")
    return Test(path, sign, operand), end


_DECODER: Final = json.JSONDecoder()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _both(left: object, right: object, kind: Callable[[object], bool]) -> bool:
    return kind(left) and kind(right)


def _equal(left: object, right: object) -> bool:
    """As in JSON: 1 is 1.0, but neither is true."""
    return left == right and (isinstance(left, bool) == isinstance(right, bool))
