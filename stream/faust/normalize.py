"""Makes canonical events from a site's own records: the user's function, its checks and its process.

    SiteRecord ──► [NormalizeProcess: Normalizer] ──► canonical messages, or the reason why there are none

The function runs in a process of its own, so that its use of processor and memory and its crashes stay there:
a record that takes seconds, raises, or kills the process becomes a dead letter, and nothing else happens.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, cast

import msgspec

from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.formats import FieldNames
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import MISSING, Event, EventRules, Reason, Refusal, id_of, shown
from driftgraph.stream.processes import start_shielded

ANSWER_WITHIN_S: Final = 60.0  # for one record; then its process is killed and the record is a dead letter
READY_WITHIN_S: Final = 60.0  # for the start of a process, imports included
EVENTS_MAX: Final = 10_000  # of one record


class NormalizeError(DriftgraphError):
    """The user's function cannot be found, or no process can run it."""


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """One Kafka record as the site wrote it: the argument of a ``normalize`` function."""

    value: bytes
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int
    origin: str  # topic[partition]@offset


@dataclass(frozen=True, slots=True)
class CanonicalMessage:
    """A message for the canonical topic, keyed by user."""

    key: bytes | None
    value: bytes | None


Fields = Mapping[str, Any]  # an event: user_id, item_id, behavior, ts; further fields are passed on
Function = Callable[[SiteRecord], Fields | Iterable[Fields] | None]
Answer = tuple[CanonicalMessage, ...] | Refusal


def function_of(name: str) -> Function:
    """The function that ``package.module:function`` names.

    Raises:
        NormalizeError: If there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise NormalizeError(
            f"normalize = {name!r}: should be module:function, such as mysite.events:normalize"
        )
    try:
        found: Any = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise NormalizeError(
            f"normalize = {name!r} cannot be imported ({error}); check the name, "
            "and that its folder is on PYTHONPATH"
        ) from error
    if not callable(found):
        raise NormalizeError(f"normalize = {name!r} is a {type(found).__name__}, not a function")
    return cast("Function", found)


class Normalizer:
    """Applies a function to records, and checks its events by the same rules as the updater.

    A record is taken whole or not at all: if one of its events is refused, none is passed on. An event
    without an id gets one made from the record's origin, so that deduplication by id counts a record once
    that a crash made normalize twice.
    """

    def __init__(self, rules: EventRules, names: FieldNames, function: Function | None = None) -> None:
        self._rules = rules
        self._names = names
        self._function = function
        self._canonical = CanonicalJson(rules, names)

    def answer(self, record: SiteRecord) -> Answer:
        """The messages that the record becomes, or why there are none. Raises no error of the function."""
        try:
            return self._answer(record)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:500]
            return Refusal(Reason.NORMALIZE_FAILED, f"the function raised {what}")

    def _answer(self, record: SiteRecord) -> Answer:
        if self._function is None:
            judged = self._canonical.event_of(record.value, self._rules.times.bounds())
            if isinstance(judged, Refusal):
                return judged
            given: Any = msgspec.json.decode(record.value)
        else:
            given = self._function(record)
        if given is None:
            return ()
        events = [given] if isinstance(given, Mapping) else list(given)
        if len(events) > EVENTS_MAX:
            return Refusal(
                Reason.NORMALIZE_FAILED,
                f"one record became {len(events)} events, at most {EVENTS_MAX} may be",
            )
        messages = []
        for number, event in enumerate(events):
            origin = record.origin if len(events) == 1 else f"{record.origin}#{number}"
            message = self._message(event, origin)
            if isinstance(message, Refusal):
                return message
            messages.append(message)
        return tuple(messages)

    def _message(self, event: Any, origin: str) -> CanonicalMessage | Refusal:
        if not isinstance(event, Mapping):
            return Refusal(
                Reason.NORMALIZE_FAILED, f"an event must be a mapping of names to values, got {shown(event)}"
            )
        names = self._names
        judged = self._rules.event_of(
            user=event.get(names.user, MISSING),
            item=event.get(names.item, MISSING),
            behavior=event.get(names.behavior, MISSING),
            ts=event.get(names.ts, MISSING),
            event_id=event.get(names.event_id, MISSING),
            bounds=self._rules.times.bounds(),
        )
        if isinstance(judged, Refusal):
            return judged
        if isinstance(judged, Event):
            user: str | Refusal = judged.user
        else:  # an event of an ignored behavior is passed on unchanged, keyed by its user
            user = id_of(event.get(names.user, MISSING), "user id")
        fields = dict(event) if event.get(names.event_id) else {**event, names.event_id: origin}
        return CanonicalMessage(
            None if isinstance(user, Refusal) else user.encode(), msgspec.json.encode(fields)
        )


class NormalizeProcess:
    """A process that runs a function on records. The first record starts it, and the next one if it died.

    One thread uses it. The process ends when this one ends in any way, since it reads from a pipe.
    """

    def __init__(self, function_name: str, rules: EventRules, names: FieldNames) -> None:
        self._arguments = (function_name, rules, names)
        self._context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def answers(self, records: list[SiteRecord]) -> list[Answer]:
        """One answer for each record, in order. A record that kills or blocks the process is refused.

        Raises:
            NormalizeError: If no process gets ready in time.
        """
        answers: list[Answer] = []
        while len(answers) < len(records):
            pipe = self._ready()
            try:
                pipe.send(records[len(answers) :])
                while len(answers) < len(records):
                    if not pipe.poll(ANSWER_WITHIN_S):
                        raise TimeoutError
                    answers.append(pipe.recv())
            except (EOFError, OSError) as error:
                blocked = isinstance(error, TimeoutError)
                said = f"gave no answer in {ANSWER_WITHIN_S:g} s" if blocked else "ended its process"
                answers.append(Refusal(Reason.NORMALIZE_FAILED, f"the function {said}"))
                self.stop()
        return answers

    def stop(self) -> None:
        """End the process at once. The next record starts another one."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _ready(self) -> Connection:
        if self._pipe is not None and self._process is not None and self._process.is_alive():
            return self._pipe
        self.stop()
        self._pipe, theirs = self._context.Pipe()
        with theirs:
            self._process = self._context.Process(
                target=_serve, args=(theirs, *self._arguments), name="driftgraph-normalize", daemon=True
            )
            start_shielded(self._process)
        try:
            if not self._pipe.poll(READY_WITHIN_S):
                raise EOFError  # noqa: TRY301
            self._pipe.recv()
        except EOFError:
            self.stop()
            raise NormalizeError(
                f"the process for {self._arguments[0]} did not start within {READY_WITHIN_S:g} s; "
                "what it said stands above"
            ) from None
        return self._pipe


def _serve(pipe: Connection, function_name: str, rules: EventRules, names: FieldNames) -> None:
    """Run in the process: read lists of records and write answers, until the pipe is closed."""
    normalizer = Normalizer(rules, names, function_of(function_name))
    pipe.send("ready")
    while True:
        try:
            records: list[SiteRecord] = pipe.recv()
        except EOFError:
            return
        for record in records:
            try:
                pipe.send(normalizer.answer(record))
            except BrokenPipeError:  # the parent has ended
                return
