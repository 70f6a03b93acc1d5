"""A model of the user's own through the whole job: trained, published, saved, refused, and told of."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from driftgraph.app.commands.doctor import checks
from driftgraph.app.commands.doctor.findings import State
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config import saved_model
from driftgraph.app.config.builders import lease_client, trainer_options
from driftgraph.app.config.saved_model import OtherModelError
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.live.run import run
from driftgraph.app.live.supervisor import Supervisor
from driftgraph.app.training.cycle import Worker
from driftgraph.app.training.process import worker_start
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.reader import EmbeddingReader
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.ingest.fit_schedule import Marks
from driftgraph.stream.time.clock import ManualClock
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from tests.app.cli.test_cli import Shell
from tests.model.custom_models import EXAMPLES
from tests.services.updaters import until
from tests.services_redis import NAMESPACE
from tests.shop_worlds import RELATIONS, batch_of, grow, one_event, small_shop, write_csv

SHOP = small_shop()
MODELS = "tests.model.custom_models"


def settings_of(folder: Path, **model: object) -> Settings:
    tables = {
        "data_dir": folder,
        "relations": {r.name: {"span": f"{r.span_ms}ms"} for r in RELATIONS},
        "model": {"dim": 16, "device": "cpu", **model},
    }
    return Settings.model_validate(tables)


def graph_in(folder: Path) -> Heterograph:
    graph = Heterograph.create(
        folder / "window", RELATIONS, user_rows=1 << 12, item_rows=1 << 12, history=(Life("one"),)
    )
    grow(graph, batch_of(SHOP))
    return graph


def worker_in(settings: Settings, store: GenerationStore | None = None) -> Worker:
    return worker_start.attached(settings, settings.data_dir / "window", cast(GenerationStore, store))


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(capsys, monkeypatch)


@pytest.mark.parametrize("model", EXAMPLES)
def test_an_example_is_published_refreshed_and_goes_on_after_a_restart(
    model: dict[str, str], redis_client: redis.Redis, store: GenerationStore, tmp_path: Path
) -> None:
    """Redis has its vectors and lists; a new worker has the saved state, and refreshes by it."""
    graph, settings = graph_in(tmp_path), settings_of(tmp_path, **model)
    worker = worker_in(settings, store)
    report, _ = worker.cycle(worker.graph.moment())
    assert (report.fit.accepted, report.generation, report.model_version) == (True, 1, 1)
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    cut = worker.graph.moment().cut
    embedding = worker.trainer.embed(worker.graph.window, cut)
    names = worker.graph.names(0, embedding.user_rows, worker.graph.moment())
    assert (reader.users([str(name) for name in names])[0] == embedding.user).all()
    found = reader.recommend(str(names[0]), 5)
    assert (found.source, len(found.items), reader.made_by()) == ("list", 5, "model")

    again = worker_in(settings, store)
    assert (again.trainer.model_version, again.published) == (1, 1)
    after = again.trainer.embed(again.graph.window, cut)
    assert (after.user == embedding.user).all()
    assert (after.item == embedding.item).all()
    before = reader.users([SHOP.user_ids[3]])[0]
    grow(graph, one_event(SHOP.user_ids[3], SHOP.item_ids[50], 0, int(SHOP.time_ms.max()) + 1_000))
    again.refresh(again.graph.moment())
    assert (reader.users([SHOP.user_ids[3]])[0] != before).any()


@pytest.mark.parametrize(
    ("saved", "now", "words"),
    [
        (
            {"custom": f"{MODELS}:Mean"},
            {},
            f"the saved model is of {MODELS}:Mean, this configuration names driftgraph's own network: set "
            f'model.custom = "{MODELS}:Mean" and model.backend = "torch" to go on with it, or remove',
        ),
        (
            {},
            {"custom": "examples.dgl_model:HeteroGat", "backend": "dgl"},
            "the saved model is of driftgraph's own network, this configuration names "
            "examples.dgl_model:HeteroGat on DGL blocks: remove model.custom and model.backend to go on with "
            "it, or remove",
        ),
    ],
)
def test_a_saved_model_of_another_class_is_refused_with_what_to_do(
    saved: dict[str, str], now: dict[str, str], words: str, tmp_path: Path
) -> None:
    """By ``run`` before it fills the window, and by the worker."""
    graph_in(tmp_path)
    worker = worker_in(settings_of(tmp_path, **saved))
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    saved_model.check(settings_of(tmp_path, **saved))
    refusals: list[Callable[[], object]] = [
        lambda: saved_model.check(settings_of(tmp_path, **now)),
        lambda: worker_in(settings_of(tmp_path, **now)),
    ]
    for refuse in refusals:
        with pytest.raises(OtherModelError) as refused:
            refuse()
        assert words in str(refused.value)


def test_a_saved_class_of_other_relations_or_parameters_is_refused(tmp_path: Path) -> None:
    graph_in(tmp_path)
    mean = settings_of(tmp_path, custom=f"{MODELS}:Mean")
    worker = worker_in(mean)
    assert worker.cycle(worker.graph.moment())[0].fit.accepted
    fewer = mean.with_relations(["click"])
    with pytest.raises(
        OtherModelError, match=r"click, favorite and purchase, this configuration click: only"
    ):
        saved_model.check(fewer)
    with pytest.raises(OtherModelError, match="this configuration none: only a"):
        saved_model.check(mean.with_relations([]))
    found, _ = checkpoint.latest(tmp_path / "trainer")
    assert found is not None
    meta = json.loads(found.read("trainer.json")) | {"custom": f"{MODELS}:Layered"}
    files = {name: found.read(name) for name in found.files} | {"trainer.json": json.dumps(meta).encode()}
    checkpoint.write(tmp_path / "trainer", found.number + 1, files.items(), found.facts)
    with pytest.raises(
        OtherModelError, match=r"has scale of shape \[\], the class now \[3\]; .* to do so, remove"
    ):
        worker_in(settings_of(tmp_path, custom=f"{MODELS}:Layered"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_package:Gru", "model.custom = no_such_package:Gru: there is no module no_such_package on"),
        (f"{MODELS}:Half", f"model.custom = {MODELS}:Half has no method encode_items"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_by_run_and_named_by_doctor(
    name: str, words: str, tmp_path: Path
) -> None:
    """Before Kafka is asked for anything."""
    settings = settings_of(tmp_path, custom=name)
    with pytest.raises(ConfigError) as refused:
        run(settings, progress=cast(Any, None), clock=ManualClock(0))
    assert str(refused.value).startswith(words)
    found = checks._guarded("device", lambda: checks._device(settings))
    assert found[-1].state is State.FAIL
    assert found[-1].detail.startswith(words)


def test_a_worker_says_what_is_wrong_with_the_class(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """In a process of its own: the sentence is what ``driftgraph status`` shows of the worker."""
    graph_in(tmp_path)
    settings = settings_of(tmp_path, custom="no_such_package:Gru").model_copy(
        update={"redis": load(options={"redis": {"url": redis_server.url, "namespace": "custom"}}).redis}
    )
    lease = lease_client(settings, "here")
    watch = Supervisor(settings, tmp_path / "window", lease.owner, ManualClock(1_783_000_000_000))

    def has_failed() -> bool:
        assert lease.take() is not None
        watch.tell(Marks())
        watch.tend()
        return watch.failures > 0

    try:
        until("it has ended", has_failed)
    finally:
        watch.stop()
    assert watch.status()["why"].startswith(
        "model.custom = no_such_package:Gru: there is no module no_such_package on Python's path or in "
    )


def test_options_of_the_class_come_from_the_configuration(tmp_path: Path) -> None:
    options = trainer_options(settings_of(tmp_path, custom="a.b:C", backend="dgl"), device="cpu")
    assert (options.custom, options.backend) == ("a.b:C", "dgl")
    with pytest.raises(ConfigError, match='backend "dgl" trains a DGL module: name its class in custom'):
        load(options={"model": {"backend": "dgl"}})


# --- the command line --------------------------------------------------------------------------------


def test_a_replay_trains_the_class_that_its_configuration_names(shell: Shell) -> None:
    """A module in the folder that the command runs in, and our own network beside it: other vectors."""
    shop = small_shop(1_500, users=60, items=60)
    write_csv(shop, Path("shop.csv"))
    Path("my_models.py").write_text(
        "from tests.model.custom_models import Mean\n\n\nclass Own(Mean):\n    '''Ours in this folder.'''\n"
    )
    Path("own.toml").write_text('[model]\ncustom = "my_models:Own"\ndim = 16\n')
    losses = []
    for config in (["--config", "own.toml"], ["--dim", "16"]):
        done = shell("replay", "shop.csv", *config, "--redis", "embedded", "--fit-every", "1d", "--json")
        assert done.code == 0, done.err
        report = done.json()
        assert report["generations"][0]["fit"]["accepted"]
        losses.append(report["generations"][0]["fit"]["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("no_such_package:Gru", 2, "there is no module no_such_package on Python's path or in"),
        (f"{MODELS}:Narrow", 1, "Narrow.encode_items returned a tensor of shape ["),
        (
            f"{MODELS}:Fails",
            1,
            "Fails.encode_users failed with KeyError: 'no such thing' (custom_models.py, ",
        ),
    ],
)
def test_a_replay_ends_with_one_sentence_about_the_class(
    shell: Shell, name: str, code: int, words: str
) -> None:
    write_csv(small_shop(600, users=40, items=40), Path("shop.csv"))
    Path("own.toml").write_text(f'[model]\ncustom = "{name}"\ndim = 16\n')
    done = shell("replay", "shop.csv", "--config", "own.toml", "--redis", "none", "--fit-every", "1d")
    assert done.code == code
    said = done.err.strip().splitlines()[-1]
    assert said.startswith("driftgraph: ")
    assert words in said
    assert "Traceback" not in done.err
