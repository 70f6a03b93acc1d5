"""A start beside a Redis that serves something: this very model, an older one, a newer one, a damaged one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from driftgraph.app.config.settings import Settings
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.process import loop, worker_start
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.keys import StoreError
from driftgraph.snapshots.generations.retention import Generation
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from driftgraph.stream.window.writer import Relation
from tests.services_redis import NAMESPACE, publish
from tests.shop_worlds import DAY_MS, RELATIONS, batch_of, grow, one_event, small_shop

SHOP = small_shop()
LATER_MS = int(SHOP.time_ms.max()) + 1_000


@dataclass(frozen=True)
class Machine:
    """An updater's folder and window, whose worker may start again and again."""

    folder: Path
    client: redis.Redis
    graph: Heterograph

    @classmethod
    def of(
        cls, folder: Path, client: redis.Redis, relations: Sequence[Relation] = RELATIONS, life: str = "one"
    ) -> Machine:
        graph = Heterograph.create(
            folder / life, relations, user_rows=1 << 12, item_rows=1 << 12, history=(Life(life),)
        )
        return cls(folder, client, graph)

    def settings(self, data_dir: Path | None = None, model: dict[str, Any] | None = None) -> Settings:
        relations = {r.name: {"span": f"{r.span_ms}ms"} for r in self.graph.window.relations}
        return Settings.model_validate(
            {
                "data_dir": data_dir or self.folder,
                "relations": relations,
                "model": {"dim": 16, "device": "cpu", **(model or {})},
            }
        )

    def start(self, *, keep: int = 3, model: dict[str, Any] | None = None, life: str = "one") -> Worker:
        """As the process does it, up to where it has looked around once."""
        store = GenerationStore(self.client, namespace=NAMESPACE, epoch=1, keep=keep)
        store.clean_up()
        worker = worker_start.attached(self.settings(model=model), self.folder / life, store)
        self.step(worker)
        return worker

    def step(self, worker: Worker) -> None:
        settings = Settings.model_validate({"data_dir": self.folder})
        loop._Loop(settings, worker, Marks)._step(worker.graph.moment())

    def fitted(self, worker: Worker) -> Worker:
        report, _ = worker.cycle(worker.graph.moment())
        assert report.fit.accepted
        return worker


@pytest.fixture
def machine(tmp_path: Path, redis_client: redis.Redis) -> Machine:
    """Somebody's generation 1, and generations 2 and 3 by two fits."""
    publish(GenerationStore(redis_client, namespace=NAMESPACE, epoch=1), 1)
    one = Machine.of(tmp_path, redis_client)
    edge = len(SHOP) * 2 // 3
    grow(one.graph, batch_of(SHOP, 0, edge))
    worker = one.fitted(one.start())
    grow(one.graph, batch_of(SHOP, edge))
    one.fitted(worker)
    return one


def generations(client: redis.Redis) -> list[Generation]:
    return GenerationStore(client, namespace=NAMESPACE, epoch=1).generations()


def numbers(client: redis.Redis) -> list[int]:
    return [one.number for one in generations(client)]


def hashes(client: redis.Redis, number: int, kind: str) -> dict[str, dict[bytes, bytes]]:
    """Every hash of a side, without the field that names its generation."""
    found = {}
    for i in cast("list[bytes]", client.lrange(f"{NAMESPACE}:emb:{number}:{kind}-ids", 0, -1)):
        fields: Any = client.hgetall(f"{NAMESPACE}:emb:{number}:{kind}:{i.decode()}")
        found[i.decode()] = {name: value for name, value in fields.items() if name != b"gen"}
    return found


def without(hashed: dict[str, dict[bytes, bytes]], names: Sequence[bytes]) -> dict[str, dict[bytes, bytes]]:
    return {i: {n: v for n, v in fields.items() if n not in names} for i, fields in hashed.items()}


def test_a_worker_that_crashes_again_and_again_publishes_its_model_once(
    machine: Machine, redis_client: redis.Redis
) -> None:
    """What an operator can go back to stays, and users are as fresh as after a publish."""
    assert numbers(redis_client) == [1, 2, 3]
    worker = machine.start()
    for n in range(5):
        grow(machine.graph, one_event(f"new{n}", SHOP.item_ids[n], 0, LATER_MS + n))
        worker = machine.start()
        machine.step(worker)
        assert numbers(redis_client) == [1, 2, 3]
        reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
        assert reader.recommend(f"new{n}", 1).event_ms == LATER_MS + n
        assert worker.refresh(worker.graph.moment()) == 0, "all of them were refreshed"
    users, items = (hashes(redis_client, 3, kind) for kind in ("user", "item"))
    assert all(one[b"list"] for one in users.values()), "each refresh renews the list"
    worker.publish(worker.graph.moment())
    lists = (b"list", b"list_scores")  # of items as of the generation, and so are its vectors of items
    assert without(hashes(redis_client, 4, "user"), lists) == without(users, lists)
    assert {**hashes(redis_client, 4, "item"), **items}.keys() == items.keys()
    assert worker.store is not None
    assert worker.store.rollback() == 3


def test_a_start_applies_what_else_has_changed_and_writes_what_is_missing(
    machine: Machine, redis_client: redis.Redis
) -> None:
    redis_client.delete(f"{NAMESPACE}:trending:{RELATIONS[0].name}")
    worker = machine.start(keep=2)
    worker.look(worker.graph.moment())
    assert numbers(redis_client) == [2, 3]
    assert EmbeddingReader(redis_client, namespace=NAMESPACE).trending(RELATIONS[0].name)
    user = SHOP.user_ids[int(SHOP.user[-1])]
    assert user in hashes(redis_client, 3, "user")
    machine.graph.erase([user])
    worker.erase([user])
    worker = machine.start(keep=2)
    machine.step(worker)
    assert user not in hashes(redis_client, 3, "user")


@pytest.mark.parametrize(
    "lost", ["user-ids", "manifest", "items", f"user:{SHOP.user_ids[int(SHOP.user[-1])]}"]
)
def test_a_generation_that_lacks_keys_is_published_again(
    lost: str, machine: Machine, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftgraph.snapshots.generations.check.LOOKED_AT", 1_000)  # all of them
    redis_client.delete(f"{NAMESPACE}:emb:3:{lost}")
    worker = machine.start()
    assert worker.published == EmbeddingReader(redis_client, namespace=NAMESPACE).current() == 4


def test_a_changed_configuration_is_published_once(machine: Machine, redis_client: redis.Redis) -> None:
    """The vectors of one model depend on it, and a generation has all of one configuration."""
    for _ in range(3):
        worker = machine.start(model={"user_fanout": 5})
        assert worker.published == 4
    wider = [Relation(r.name, r.span_ms + DAY_MS, r.capacity) for r in RELATIONS]
    changed = Machine.of(machine.folder, redis_client, wider, life="two")
    grow(changed.graph, batch_of(SHOP))
    assert [changed.start(life="two").published for _ in range(2)] == [5, 5]


def test_a_publish_whose_answer_was_lost_is_not_made_again(
    machine: Machine, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(machine.graph, one_event("new", SHOP.item_ids[0], 0, LATER_MS))
    worker = machine.start()
    assert worker.store is not None
    publish_it = worker.store.publish

    def lost(*args: Any, **named: Any) -> None:
        publish_it(*args, **named)
        raise StoreError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(worker.store, "publish", lost)
        with pytest.raises(StoreError, match="no answer"):
            worker.cycle(worker.graph.moment())
    assert (worker.published, worker.trainer.model_version) == (0, 3)
    machine.step(worker)
    machine.step(worker)
    assert (worker.published, numbers(redis_client)) == (4, [2, 3, 4])


def test_a_standby_with_an_older_model_leaves_the_newer_one_until_its_next_fit(
    machine: Machine, redis_client: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a data_dir of its own, with a model of fewer events; its version numbers are its own, too."""
    before = hashes(redis_client, 3, "user")
    other = Machine.of(tmp_path / "other", redis_client)
    edge = len(SHOP) // 2
    grow(other.graph, batch_of(SHOP, 0, edge))
    offline = worker_start.attached(
        Settings.model_validate(
            {
                "data_dir": other.folder,
                "relations": {r.name: {"span": f"{r.span_ms}ms"} for r in RELATIONS},
                "model": {"dim": 16, "device": "cpu"},
            }
        ),
        other.folder / "one",
        None,  # type: ignore[arg-type]
    )
    for n in range(3):
        grow(other.graph, one_event(f"w{n}", SHOP.item_ids[n], 0, int(SHOP.time_ms[edge - 1]) + n))
        other.fitted(offline)
    assert offline.trainer.model_version == 3, "a higher one than that of the newer model"
    grow(other.graph, batch_of(SHOP, edge))

    worker = other.start()
    for _ in range(3):
        other.step(worker)
    assert (worker.published, numbers(redis_client)) == (0, [1, 2, 3])
    assert hashes(redis_client, 3, "user") == before, "a refresh by another model would be a mixture"
    assert caplog.text.count("whose model was trained on newer events than ours, model version 3") == 1
    other.fitted(worker)
    assert (worker.published, numbers(redis_client)) == (4, [2, 3, 4])


def test_after_a_crash_of_the_machine_the_newer_model_is_served_until_its_fit_is_made_again(
    machine: Machine, redis_client: redis.Redis
) -> None:
    """The newest state was lost; the one before is trained less far than what Redis serves."""
    newest, _ = checkpoint.latest(machine.folder / "trainer")
    assert newest is not None
    for path in newest.folder.iterdir():
        path.unlink()
    worker = machine.start()
    assert (worker.published, worker.trainer.model_version, numbers(redis_client)) == (0, 1, [1, 2, 3])
    machine.fitted(worker)
    assert worker.published == 4


def test_what_an_operator_went_back_to_is_gone_on_with_under_other_relations(
    machine: Machine, redis_client: redis.Redis
) -> None:
    """Its weights have other shapes then, so it is published anew; the one that was left is not."""
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
    assert store.rollback() == 2
    click, _, purchase = RELATIONS
    other = (Relation("view", DAY_MS, 1 << 10), purchase, click)
    changed = Machine.of(machine.folder, redis_client, other, life="two")
    for n in range(200):
        grow(changed.graph, one_event(f"u{n % 9}", f"i{n % 17}", 2, LATER_MS + n))
    worker = changed.start(life="two")
    wanted = generations(redis_client)[0].manifest["model_hash"]
    assert (worker.published, worker.model_hash, numbers(redis_client)) == (4, wanted, [2, 3, 4])
    worker.erase(["nobody"])  # saves the state as it is now
    again = changed.start(life="two")
    assert (again.published, again.model_hash) == (4, wanted)
