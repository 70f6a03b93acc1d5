"""Processes that publish, die and read while Redis changes under them, and what a right answer is.

    test_chaos.py ──► [publishing] a worker ──► Redis ──► [reading] a service ──► answers, to be judged

Each attempt to publish has a number of its own, and every number in Redis tells the attempt and the id that
it is of. So an answer shows of which attempt each of its parts is, also where Redis has lost a generation by
a failover and another attempt was given the same number.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from driftgraph.snapshots.answers import Batch, Recommendation, SimilarItems
from driftgraph.snapshots.generations.keys import StoreError, connect, connect_async
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import NO_LIST, Listed, Vectors
from driftgraph.snapshots.reader import AsyncEmbeddingReader, EmbeddingReader
from tests.publishing_process import Mortal, MortalWatchedConnection
from tests.services_redis import NAMESPACE

USERS, ITEMS, DIM, LISTED, TOP = 200, 150, 8, 12, 5
REFRESHED: Final = range(40, 60)
PAUSE_S: Final = 0.002  # between two questions of a reader, so that it leaves others some of the cores


# --- what is published ---------------------------------------------------------------------------------


def users_of(attempt: int, numbers: range = range(USERS), refresh: int = 0) -> Vectors:
    """Users whose vectors are (attempt, number + 1, refresh, 0, …); each second one has a list."""
    lists = [
        listed(attempt, [(7 * n + k) % ITEMS for k in range(LISTED)]) if n % 2 else NO_LIST for n in numbers
    ]
    return _side("u", attempt, numbers, refresh, lists)


def items_of(attempt: int) -> Vectors:
    """Items whose vectors are (attempt, number + 1, 0, …), each with a list of similar ones."""
    lists = [listed(attempt, [(n + k) % ITEMS for k in range(1, LISTED)]) for n in range(ITEMS)]
    return _side("i", attempt, range(ITEMS), 0, lists)


def listed(attempt: int, items: list[int]) -> Listed:
    scores = np.full(len(items), attempt, "<f4")
    return msgspec.json.encode([f"i{n}" for n in items]), scores.tobytes()


def _side(prefix: str, attempt: int, numbers: range, refresh: int, lists: list[Listed]) -> Vectors:
    vectors = np.zeros((len(numbers), DIM), np.float32)
    vectors[:, 0], vectors[:, 1], vectors[:, 2] = attempt, np.array(numbers) + 1, refresh
    event_ms = np.full(len(numbers), 1_783_000_000_000 + refresh, np.int64)
    return Vectors([f"{prefix}{n}" for n in numbers], vectors, event_ms, lists=lists)


def publishing(
    url: str,
    attempt: int,
    epoch: int,
    dies_after: int,
    sent: Synchronized[int],
    number: Synchronized[int],
    verified_s: Synchronized[float],
    served_s: Synchronized[float],
) -> None:
    """A worker's life: clean up, publish, refresh twice. It dies after so many messages to Redis (0: never).

    It tells which generation it publishes, when it was about to switch, when that was done, and at its end
    how much it has sent. It ends with 1 where Redis did not do what was asked.
    """
    client = connect(url)
    client.connection_pool.connection_class = MortalWatchedConnection
    try:
        client.ping()  # connects; the handshake is not counted
        Mortal.sent, Mortal.dies_after = 0, dies_after
        store = GenerationStore(client, namespace=NAMESPACE, epoch=epoch, keep=3)
        store.clean_up()
        number.value = store.next_number()
        store.publish(
            number.value,
            users_of(attempt),
            items_of(attempt),
            {"attempt": attempt, "lists": LISTED, "similar": LISTED},
            at_switch=lambda: _timed(verified_s, served_s),
        )
        for n in (1, 2):
            store.refresh(number.value, users_of(attempt, REFRESHED, 100 * attempt + n))
    except StoreError as error:
        print(f"attempt {attempt}: {error}")
        raise SystemExit(1) from None
    sent.value = Mortal.sent


@contextlib.contextmanager
def _timed(verified_s: Synchronized[float], served_s: Synchronized[float]) -> Iterator[None]:
    verified_s.value = time.monotonic()
    yield
    served_s.value = time.monotonic()


# --- what is read --------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a reader was told, and when. The times are of the clock that all processes share."""

    asked_s: float
    answered_s: float
    question: str
    generation: int
    attempt: int  # 0 where the answer is wrong in itself
    fault: str = ""


def reading(url: str, kind: str, seed: int, path: Path, count: Synchronized[int], end: Event) -> None:
    """A service: ask at random until ``end``, then write all answers to ``path``."""
    rng, answers = random.Random(seed), list[Answer]()

    def keep(asked_s: float, question: str, found: Any) -> None:
        told = judged(found) if not isinstance(found, Exception) else (0, 0, repr(found))
        answers.append(Answer(asked_s, time.monotonic(), question, *told))
        count.value = len(answers)

    if kind == "blocking":
        with contextlib.closing(connect(url)) as client:
            _ask(EmbeddingReader(client, namespace=NAMESPACE), rng, keep, end)
    else:
        asyncio.run(_ask_async(url, rng, keep, end))
    path.write_bytes(pickle.dumps(answers))


Keep = Callable[[float, str, Any], None]


def _questions(rng: random.Random) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    """What is asked: its text, the method, its arguments."""
    while True:
        users = [f"u{n}" for n in rng.sample(range(USERS), 4)]
        items = [f"i{n}" for n in rng.sample(range(ITEMS), 4)]
        kinds: list[tuple[str, list[Any], dict[str, Any]]] = [
            ("batch", [], {"users": users, "items": items}),
            ("recommend", [users[0], TOP], {}),
            ("recommend", [users, TOP], {}),
            ("similar", [items[0], TOP], {}),
        ]
        method, args, named = rng.choice(kinds)
        yield f"{method}({args or named})", method, args, named


def _ask(reader: EmbeddingReader, rng: random.Random, keep: Keep, end: Event) -> None:
    for question, method, args, named in _questions(rng):
        if end.is_set():
            return
        asked_s = time.monotonic()
        try:
            found = getattr(reader, method)(*args, **named)
        except Exception as error:
            found = error
        keep(asked_s, question, found)
        time.sleep(PAUSE_S)


async def _ask_async(url: str, rng: random.Random, keep: Keep, end: Event) -> None:
    client = connect_async(url)
    reader = AsyncEmbeddingReader(client, namespace=NAMESPACE)
    for question, method, args, named in _questions(rng):
        if end.is_set():
            break
        asked_s = time.monotonic()
        try:
            asked: Awaitable[Any] = getattr(reader, method)(*args, **named)
            found = await asked
        except Exception as error:
            found = error
        keep(asked_s, question, found)
        await asyncio.sleep(PAUSE_S)
    await client.aclose()


def judged(found: Any) -> tuple[int, int, str]:
    """The generation and the attempt of an answer, and what is wrong with it in itself: else nothing."""
    seen = set[tuple[int, int]]()
    faults = list[str]()
    for one in found if isinstance(found, list) else [found]:
        try:
            seen.add(_attempt_of(one))
        except AssertionError as error:
            faults.append(str(error))
    if not faults and len(seen) == 1:
        return *seen.pop(), ""
    return 0, 0, f"{faults or seen}: {found}"


def _attempt_of(one: Batch | Recommendation | SimilarItems) -> tuple[int, int]:
    match one:
        case Batch():
            assert one.users_found.all(), "a user is missing"
            assert one.items_found.all(), "an item is missing"
            attempts = {*one.users[:, 0].tolist(), *one.items[:, 0].tolist()}
            assert {*(one.users[:, 2] // 100).tolist()} <= {0, *attempts}, "a refresh of another attempt"
        case Recommendation(source="embedding"):
            assert len(one.items) == TOP, "too few"
            best = [int(item[1:]) for item, _ in one.items]
            assert best == list(range(ITEMS - 1, ITEMS - 1 - TOP, -1)), "not the best"
            attempts = _by_products([score for _, score in one.items])
        case Recommendation(source="list") | SimilarItems(source="list"):
            assert len(one.items) == TOP, "too few"
            attempts = {score for _, score in one.items}
        case _:
            raise AssertionError(f"the answer is made of {one.source}")
    assert len(attempts) == 1, f"parts of several attempts: {attempts}"
    return one.generation, int(attempts.pop())


def _by_products(scores: list[float]) -> set[float]:
    """The attempts behind the products of a user (attempt, u, …) with the last items (attempt, i, 0, …)."""
    user = {best - next_ for best, next_ in pairwise(scores)}  # neighbors differ by u
    assert len(user) == 1, f"scores of several attempts: {scores}"
    square = scores[0] - user.pop() * ITEMS
    return {square**0.5}
