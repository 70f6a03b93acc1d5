"""Readers beside everything that happens to generations: each answer is of one that was live, and none fails.

A schedule by a fixed seed lets workers publish, die and refresh, an operator go back and forth, and primaries
crash or be replaced, while two services read. Afterwards each answer is held against what was live when.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import numpy as np
import pytest
import redis

from driftgraph.snapshots.answers import Batch, Recommendation, SimilarItems
from driftgraph.snapshots.generations.keys import Keys, connect
from driftgraph.snapshots.generations.lease import read_epoch
from driftgraph.snapshots.generations.store import GenerationStore
from tests import chaos
from tests.chaos import Answer
from tests.redis_topologies import WatchedPair, ask
from tests.services_redis import NAMESPACE, assert_no_remains
from tests.waits import until

SEED = 14
PUBLISHES, KILLS, CHOICES, FAILOVERS = 50, 10, 10, 5
READERS = ("blocking", "asyncio")


class Live(NamedTuple):
    """A generation was served, at most from and at most until."""

    from_s: float
    until_s: float
    generation: int
    attempt: int

    def may_be_told(self, answer: Answer) -> bool:
        """Whether it can be what a reader was told by this answer."""
        return (
            (self.generation, self.attempt) == (answer.generation, answer.attempt)
            and self.from_s <= answer.answered_s
            and answer.asked_s <= self.until_s
        )


class Publisher(NamedTuple):
    """A process that publishes, and what it tells; see ``chaos.publishing``."""

    process: Any
    sent: Any
    number: Any
    verified_s: Any
    served_s: Any


class Chaos:
    """What is done, and the log of what was live when."""

    def __init__(self, pair: WatchedPair, rng: random.Random) -> None:
        self.pair, self.rng = pair, rng
        self.live: list[Live] = []
        self.attempt = self.messages = 0
        self.done = Counter[str]()
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.chaos"])
        self._now = (0.0, 0, 0)  # since when which generation of which attempt is served

    @contextlib.contextmanager
    def reading(self, folder: Path) -> Iterator[list[Any]]:
        """Readers at work; for each how many answers it has, and then its answers."""
        end, readers = self._processes.Event(), list[Any]()
        for kind in READERS:
            count, path = self._processes.Value("i", 0), folder / kind
            args = (self.pair.url, kind, SEED, path, count, end)
            process = self._processes.Process(target=chaos.reading, args=args)
            process.start()
            readers.append((process, count, path))
        try:
            yield [count for _, count, _ in readers]
        finally:
            end.set()
            for process, _, _ in readers:
                process.join(30)
                process.kill()

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """As a new process has it: it asks the Sentinels which server is the primary."""
        with contextlib.closing(connect(self.pair.url)) as client:
            yield client

    def served(self) -> tuple[int, int]:
        """The generation that the primary serves, and its attempt."""
        with self.client() as client:
            return _served_by(client)

    def look(self, from_s: float, until_s: float | None = None) -> None:
        """Note what is served now; a change happened between the times."""
        found = self.served()
        until_s = time.monotonic() if until_s is None else until_s
        if found != self._now[1:]:
            self.end(until_s)
            self._now = (from_s, *found)

    def end(self, until_s: float) -> None:
        """What was served is no longer."""
        if self._now[1]:
            self.live.append(Live(self._now[0], until_s, *self._now[1:]))

    def start_publishing(self, dies_after: int = 0) -> Publisher:
        """Start a worker with the next attempt."""
        self.attempt += 1
        with self.client() as client:
            epoch = read_epoch(client, NAMESPACE) + 1
        told = [self._processes.Value(code, 0) for code in "iidd"]
        args = (self.pair.url, self.attempt, epoch, dies_after, *told)
        process = self._processes.Process(target=chaos.publishing, args=args)
        process.start()
        return Publisher(process, *told)

    def publish(self, dies_after: int = 0) -> None:
        """A worker publishes and refreshes, or is killed on the way; then the next start finds no remains."""
        began_s = time.monotonic()
        worker = self.start_publishing(dies_after)
        worker.process.join(60)
        self.look(worker.verified_s.value or began_s, worker.served_s.value or None)
        if dies_after:
            assert worker.process.exitcode == -signal.SIGKILL, (
                f"dies after {dies_after} of {self.messages} messages"
            )
            self.done["killed"] += 1
            self.done["killed, and served all the same"] += self._now[2] == self.attempt
            self.start_again()
        else:
            assert worker.process.exitcode == 0
            assert self._now[2] == self.attempt
            self.messages = worker.sent.value
            self.done["published"] += 1

    def start_again(self) -> None:
        """What the start of a worker does with what a killed one left."""
        with self.client() as client:
            store = GenerationStore(
                client, namespace=NAMESPACE, epoch=read_epoch(client, NAMESPACE) + 1, keep=3
            )
            store.clean_up()
            assert_no_remains(store, client)
        assert self.served() == self._now[1:]

    def choose(self) -> None:
        """An operator goes back, or to any generation that is kept; then its users are refreshed."""
        began_s = time.monotonic()
        with self.client() as client:
            store = GenerationStore(client, namespace=NAMESPACE, epoch=read_epoch(client, NAMESPACE), keep=3)
            others = [one.number for one in store.generations() if not one.current]
            can_go_back = int(client.hget(Keys(NAMESPACE).current, "previous") or 0) > 0
            if can_go_back and self.rng.random() < 0.5:
                store.rollback()
                self.done["of them back"] += 1
            else:
                store.promote(self.rng.choice(others))
            self.done["chosen"] += 1
            self.look(began_s)
            generation = store.served()
            assert generation is not None
            assert store.take_up(generation)
            attempt = int(generation.manifest["attempt"])
            store.refresh(generation.number, chaos.users_of(attempt, chaos.REFRESHED, 100 * attempt + 3))

    def fail_over(self, *, crash: bool) -> None:
        """The primary changes while a worker publishes; what that one has done may be lost."""
        until(self.pair.has_replica)
        [former] = self.pair.primary_ports()
        began_s = time.monotonic()
        worker = self.start_publishing()
        time.sleep(self.rng.uniform(0.0, 0.3))
        if crash:
            self.pair.crash()
        else:
            self.pair.fail_over()
        worker.process.join(60)
        found, attempt = self.served(), self.attempt
        extra = [self._now[1:]]
        if worker.verified_s.value and found[1] != attempt:  # it may have been served by the former primary
            extra.append((worker.number.value, attempt))
        self.look(began_s)
        if crash:
            self.pair.add_replica()
        else:  # which answers its readers until the Sentinels have made it a replica
            until(lambda: ask(former, "ROLE")[0] == b"slave")
        ended_s = time.monotonic()
        self.live += [Live(began_s, ended_s, *one) for one in extra]
        self.done["crashed" if crash else "replaced"] += 1
        self.done["attempts that a failover undid or stopped"] += found[1] != attempt
        self.start_again()


def _served_by(client: redis.Redis) -> tuple[int, int]:
    number = int(client.hget(f"{NAMESPACE}:emb:current", "gen") or 0)
    return number, int(client.hget(Keys(NAMESPACE).of(number, "manifest"), "attempt") or 0)


def schedule(rng: random.Random) -> list[str]:
    """What is done, in order: a failover after each tenth of the rest."""
    acts = ["publish"] * (PUBLISHES - 3) + ["kill"] * KILLS + ["choose"] * CHOICES
    rng.shuffle(acts)
    for n in range(FAILOVERS):
        acts.insert((n + 1) * len(acts) // (FAILOVERS + 1), "crash" if n % 2 == 0 else "replace")
    return ["publish"] * 3 + acts


def vectors(*attempts: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([[attempt, 1, 0] for attempt in attempts], np.float32)


THERE = np.ones(2, np.bool_)
BEST = [(f"i{n}", float(9 + 3 * (n + 1))) for n in range(chaos.ITEMS - 1, chaos.ITEMS - 1 - chaos.TOP, -1)]


@pytest.mark.parametrize(
    ("found", "attempt"),
    [
        (Batch(7, vectors(3, 3), THERE, vectors(3, 3), THERE), 3),
        (Batch(7, vectors(3, 3), THERE, vectors(3, 4), THERE), 0),
        (Batch(7, vectors(3, 3), ~THERE, vectors(3, 3), THERE), 0),
        (Batch(7, vectors(3, 3) + np.array([0, 0, 401], np.float32), THERE, vectors(3, 3), THERE), 0),
        (Recommendation(7, "embedding", BEST), 3),
        (Recommendation(7, "embedding", [(item, score + (item == "i149")) for item, score in BEST]), 0),
        (Recommendation(7, "embedding", [("i1", 15.0), *BEST[1:]]), 0),
        (Recommendation(7, "list", [(item, 3.0) for item, _ in BEST]), 3),
        (Recommendation(7, "list", [(item, 3.0 + (item == "i149")) for item, _ in BEST]), 0),
        (Recommendation(0, "none", []), 0),
        ([Recommendation(g, "list", [(item, 3.0) for item, _ in BEST]) for g in (7, 8)], 0),
        (SimilarItems(7, "unknown", []), 0),
    ],
)
def test_an_answer_that_is_mixed_or_not_whole_is_seen(found: Any, attempt: int) -> None:
    assert chaos.judged(found) == ((7, attempt, "") if attempt else (0, 0, ANY))


@pytest.mark.timeout(400)
def test_every_answer_is_of_one_generation_that_was_live_and_no_reader_sees_an_error(
    pair: WatchedPair, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    world = Chaos(pair, rng)
    pair.hasten()
    acts = schedule(rng)
    print(f"seed {SEED}: {' '.join(acts)}")
    world.publish()
    began_s = time.monotonic()
    with world.reading(tmp_path) as counts:
        for act in acts[1:]:
            match act:
                case "publish":
                    world.publish()
                case "kill":
                    world.publish(rng.randint(1, world.messages))
                case "choose":
                    world.choose()
                case _:
                    world.fail_over(crash=act == "crash")
            before = [count.value for count in counts]
            until(lambda b=before: all(c.value > n + 1 for c, n in zip(counts, b, strict=True)))  # type: ignore[misc]
    ended_s = time.monotonic()
    world.end(ended_s)
    print(f"{ended_s - began_s:.1f} s: {dict(world.done)}")
    assert (world.done["published"], world.done["killed"], world.done["chosen"]) == (
        PUBLISHES,
        KILLS,
        CHOICES,
    )
    assert world.done["crashed"] + world.done["replaced"] == FAILOVERS
    for kind in READERS:
        answers: list[Answer] = pickle.loads((tmp_path / kind).read_bytes())
        longest_s = max(one.answered_s - one.asked_s for one in answers)
        seen = {one.attempt for one in answers}
        print(f"{kind}: {len(answers):,} answers of {len(seen)} attempts, {longest_s:.1f} s at most")
        assert [one for one in answers if one.fault] == [], f"seed {SEED}, {kind}"
        wrong = [one for one in answers if not any(live.may_be_told(one) for live in world.live)]
        assert wrong == [], f"seed {SEED}, {kind}: not live; {world.live}"
        assert len(seen) > PUBLISHES * 0.8, "the readers were too slow to see them"
