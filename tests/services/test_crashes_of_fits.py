"""Killed again and again on a real Kafka, a run with impressions and attributes has what a replay has, which
nobody kills: window, impressions, attributes, position, fits, heads, models.

A start of the updater goes on with the rows of before, so the fits are those of the replay bit for bit, also
where the updater is killed with the worker while they are made.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load as tensors_of

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import load
from driftgraph.app.training.lockstep import Lockstep
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.attributes.attributes import AttributesView
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import HeterographView
from tests.services.conftest import RealKafka
from tests.services.test_attributes import live_tables, tokens_by_id
from tests.services.test_kafka import make_topic
from tests.services.test_same_fits import (
    CONFIG,
    FIT_WITHIN_S,
    IN_EVENTS,
    SHOWN,
    Fit,
    busy_shop,
    hash_of_heads,
    hashes,
    payloads_of,
    produce_part,
    replayed,
    with_attributes,
    with_impressions,
)
from tests.services.updaters import RunningUpdater, until

pytestmark = pytest.mark.services

KILLS = 4  # of both processes
Events = Counter[tuple[str, str, str, int]]
Tokens = dict[int, dict[str, list[int]]]


def held(graph: HeterographView) -> Events:
    """The events of every relation and of the impressions: user, item, behavior, time."""
    found: Events = Counter()
    moment = graph.moment()
    for r, relation in enumerate(graph.window.relations):
        events = graph.arrivals(r, moment.cut.first[r], moment.cut.next[r], moment)
        users, items = events.users.to_list(), events.items.to_list()
        for user, item, time_ms in zip(events.user, events.item, events.time_ms.tolist(), strict=True):
            found[users[user], items[item], relation.name, time_ms] += 1
    return found


def told(graph: HeterographView, attributes: AttributesView, before_ms: int) -> Tokens:
    """What is said of every user and every item as of a time, in events of whenever."""
    return {side: tokens_by_id(graph, attributes, side, before_ms) for side in (USER, ITEM)}


def never_killed(
    config: Path, events: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Fit], Events, dict[int, Tokens]]:
    """The fits of a replay but the last, and at its end the window and the attributes as of some times."""
    ends, finish = list[tuple[Events, dict[int, Tokens]]](), Lockstep.finish

    def noted(lockstep: Lockstep) -> None:
        attributes, end_ms = lockstep.ingest.attributes, lockstep.graph.window.cut().watermark_ms
        assert attributes is not None
        times_ms = [end_ms + 60_000, end_ms - 3_600_000]
        ends.append((held(lockstep.graph), {ms: told(lockstep.graph, attributes, ms) for ms in times_ms}))
        finish(lockstep)

    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "finish", noted)
        fits, generations = replayed(config, events, monkeypatch)
    assert all(one.fit.accepted for one in generations[:-1]), "so that each fit leaves a state"
    [(window, tokens)] = ends
    return fits, window, tokens


def cut_saved(data_dir: Path) -> tuple[int, ...]:
    """Up to where the newest saved model is trained; of no model, nothing."""
    found, _ = checkpoint.latest(data_dir / "trainer", is_ours=False)
    return () if found is None else tuple(int(number) for number in str(found.facts["next"]).split())


def is_saved_at(cut: tuple[int, ...], updater: RunningUpdater, data_dir: Path) -> bool:
    """Whether the model of a cut is saved, of an updater that still runs."""
    updater.status()
    return cut_saved(data_dir) == cut


def saved(data_dir: Path) -> tuple[str, str]:
    """The hash of the newest saved model, and that of its heads."""
    found, _ = checkpoint.latest(data_dir / "trainer", is_ours=False)
    assert found is not None
    return str(found.facts["model_hash"]), hash_of_heads(tensors_of(found.read("trainer.safetensors")))


def worker_of(updater: RunningUpdater) -> int | None:
    """The pid of its worker, if it has one now."""
    found: int | None = (updater.status().get("worker") or {}).get("pid")
    return found


def kill_worker(updater: RunningUpdater) -> None:
    """Kill -9 of the worker alone."""
    pid = until("a worker runs", lambda: worker_of(updater))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_both(updater: RunningUpdater) -> None:
    """Kill -9 of the updater, and of its worker if it has one."""
    worker = worker_of(updater)
    updater.process.kill()
    updater.process.wait(10)
    if worker is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def test_a_run_with_impressions_and_attributes_that_is_killed_has_what_one_has_that_was_not(
    real_kafka: RealKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the worker's process reads
    topic, shop, rng = f"killed-{uuid4().hex[:8]}", busy_shop(3_000), random.Random(11)
    make_topic(real_kafka.address, topic, 1)
    events = with_impressions(shop, with_attributes(shop, payloads_of(shop)))
    file = tmp_path / "shop.jsonl"
    file.write_bytes(b"".join(value + b"\n" for _, value, _ in events))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(contextlib.closing(connect(server.url)))
        config = tmp_path / "driftgraph.toml"
        written = CONFIG.format(
            topic=topic, folder=tmp_path / "var", kafka=real_kafka.address, redis=server.url,
            namespace=topic, every="12h",
        )  # fmt: skip
        config.write_text(f'{written}[checkpoint]\nevery = "1s"\n{SHOWN}{IN_EVENTS}', encoding="utf-8")
        fits, window, tokens = never_killed(config, file, monkeypatch)
        settings = load(config)
        edges = [0, *(sum(fit.cut) + 1 for fit in fits), len(events)]
        updater = stack.enter_context(RunningUpdater(config))
        for number, fit in enumerate(fits):
            produce_part(real_kafka, topic, events[edges[number] : edges[number + 1]])
            time.sleep(rng.uniform(0.0, 2.0))  # into its start, a fit, a save or a publish
            if number % 2 == 0:
                kill_worker(updater)
            else:
                until("it runs", updater.status)
                kill_both(updater)
                updater = stack.enter_context(RunningUpdater(config))
            until(
                f"fit {number + 1}",
                partial(is_saved_at, fit.cut, updater, settings.data_dir),
                FIT_WITHIN_S,
            )
            assert saved(settings.data_dir) == (fit.model_hash, fit.heads), updater.output()
        store = GenerationStore(client, namespace=topic, epoch=0)
        models = [fit.model_hash for fit in fits]
        until("all are published", lambda: updater.status() and hashes(store) == models)
        rest, sent = events[edges[-2] :], 0
        for turn in range(KILLS):
            part = rest[sent : len(rest) * (turn + 1) // KILLS]
            produce_part(real_kafka, topic, part)
            sent += len(part)
            until("it runs", updater.status)
            time.sleep(rng.uniform(0.0, 2.5))  # into a read, a checkpoint or a refresh
            kill_both(updater)
            updater = stack.enter_context(RunningUpdater(config))

        def is_at_the_end(status: dict[str, Any]) -> bool:
            return bool(status["state"] == "running" and status["position"] == {f"{topic}[0]": len(events)})

        updater.wait_for("all is read", is_at_the_end)
        graph, attributes = live_tables(settings)
        assert held(graph) == window
        assert {ms: told(graph, attributes, ms) for ms in tokens} == tokens
        until("the worker goes on", lambda: worker_of(updater) and "already; its users" in updater.output())
        assert saved(settings.data_dir) == (fits[-1].model_hash, fits[-1].heads)
        assert hashes(store) == models, "no fit was made or published again"
        assert "goes on from checkpoint" in updater.output()
