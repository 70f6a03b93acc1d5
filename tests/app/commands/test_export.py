"""Exports: what each library loads back is the plain list of the window's events."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from driftgraph.app.cli.export import _print
from driftgraph.app.commands import export as exporting
from driftgraph.app.commands.export import ExportError, Format, export
from driftgraph.app.commands.saved_window import NoCheckpointError
from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import NoProgress
from driftgraph.app.console.status_files import write_json
from driftgraph.model.options import STATE_FORMAT
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.erasures import ErasureList
from driftgraph.stream import disk
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.shared_files import Life
from driftgraph.stream.window.writer import Relation
from tests.saved_windows import checkpointed
from tests.shop_worlds import DAY_MS, START_MS, small_shop, write_csv

CODE = "from driftgraph.app.cli.main import main; main()"

RELATIONS = [
    Relation("click", 2 * DAY_MS, 1 << 12),
    Relation("add to/cart", 5 * DAY_MS, 1 << 12),
    Relation("none", DAY_MS, 8),
]
Event = tuple[str, str, str, int]  # user, relation, item, time
World = tuple[Settings, Counter[Event]]


def events_of(seed: int) -> list[Event]:
    """Events over eight days in order, with repeats and ties; the newest is a click."""
    rng = random.Random(seed)
    times = sorted(START_MS + rng.randrange(0, 8 * DAY_MS, 3_600_000) for _ in range(1_500))
    made = [
        (f"u{rng.randrange(60)}", rng.choice(("click", "add to/cart")), f"ä{rng.randrange(90)}", t)
        for t in times
    ]
    return [*made, ("u1", "click", "ä2", times[-1])]


def live(events: list[Event]) -> Counter[Event]:
    """The plain oracle."""
    span_ms = {r.name: r.span_ms for r in RELATIONS}
    return Counter(e for e in events if e[3] >= events[-1][3] - span_ms[e[1]])


def settings_of(data_dir: Path) -> Settings:
    relations = {r.name: {"span": f"{r.span_ms}ms", "capacity": r.capacity} for r in RELATIONS}
    window = {"user_rows": 1 << 10, "item_rows": 1 << 10}
    return Settings.model_validate({"data_dir": data_dir, "relations": relations, "window": window})


def saved(data_dir: Path, events: list[Event]) -> Settings:
    """A data_dir with a checkpoint of the events."""
    settings = settings_of(data_dir)
    graph = Heterograph.create(None, RELATIONS, user_rows=1 << 10, item_rows=1 << 10, history=(Life("one"),))
    names = [r.name for r in RELATIONS]
    users, kinds, items, times = zip(*events, strict=True)
    graph.apply(
        EventBatch(
            Strings.of(users),
            Strings.of(items),
            np.array([names.index(kind) for kind in kinds], np.uint8),
            np.array(times, np.int64),
        )
    )
    graph.expire(times[-1])
    checkpointed(settings, graph)
    return settings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    events = events_of(3)
    return saved(tmp_path_factory.mktemp("world"), events), live(events)


def written(
    settings: Settings, folder: Path, format_: Format, *, parts: int | None = None
) -> dict[str, object]:
    return export(
        settings,
        folder,
        format_=format_,
        parts=parts,
        source=None,
        progress=NoProgress(),
    )


def ids(folder: Path, side: str) -> list[str]:
    table = pq.read_table(folder / f"{side}s.parquet")
    assert table["node"].to_pylist() == list(range(len(table)))
    found: list[str] = table["id"].to_pylist()
    assert len(set(found)) == len(found)
    return found


def test_parquet_is_the_plain_list_in_order_of_time(world: World, tmp_path: Path) -> None:
    settings, oracle = world
    told = written(settings, tmp_path / "out", "parquet")
    users, items = ids(tmp_path / "out", "user"), ids(tmp_path / "out", "item")
    assert sorted(users) == sorted({event[0] for event in oracle})
    assert sorted(items) == sorted({event[2] for event in oracle})
    found: Counter[Event] = Counter()
    for name, file in (("click", "click"), ("add to/cart", "add%20to%2Fcart"), ("none", "none")):
        edges = pq.read_table(tmp_path / "out" / "edges" / f"{file}.parquet").to_pylist()
        times = [edge["time_ms"] for edge in edges]
        assert times == sorted(times)
        assert told["edges"][name] == len(edges)  # type: ignore[index]
        found.update((users[e["user"]], name, items[e["item"]], e["time_ms"]) for e in edges)
    assert found == oracle
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"folder": str(tmp_path / "out"), **manifest} == told
    assert (manifest["watermark_ms"], manifest["checkpoint"]) == (max(e[3] for e in oracle), 1)
    assert manifest["model_version"] is None
    assert manifest["cut"]["none"] == {"first": 0, "next": 0}


@pytest.mark.parametrize(("version", "said"), [(0, "lists, before a model"), (1, "model version 1")])
def test_the_model_version_of_the_served_generation_is_told_beside_that_which_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: int, said: str
) -> None:
    """Between the save of a first model and its publish, lists are served."""
    settings = saved(tmp_path / "var", events_of(4))
    meta = {
        "format": STATE_FORMAT,
        "relations": ["click"],
        "dim": 64,
        "layers": 1,
        "heads": 4,
        "model_version": 1,
    }
    checkpoint.write(tmp_path / "var/trainer", 1, [("trainer.json", msgspec.json.encode(meta))], {}, keep=1)
    served = {"generation": 1 + version, "model_version": version, "made_by": "whoever"}
    write_json(
        tmp_path / "var/status/worker.json", {"pid": os.getpid(), "state": "running", "serves": served}
    )
    told = written(settings, tmp_path / "out", "parquet")
    names = ("model_version", "generation", "generation_model_version")
    assert [told[name] for name in names] == [1, 1 + version, version]
    _print(told, Console(width=100))
    assert f"generation {1 + version} ({said})" in capsys.readouterr().out


def test_dgl_loads_the_plain_list_in_both_directions(world: World, tmp_path: Path) -> None:
    dgl = pytest.importorskip("dgl", reason="DGL 1.1.3 has wheels for Python 3.11 and older only")
    settings, oracle = world
    written(settings, tmp_path / "out", "dgl", parts=3)
    (graph,), _ = dgl.load_graphs(str(tmp_path / "out" / "graph.bin"))
    assert graph.formats()["created"] == ["csc"]
    names = {side: ids(tmp_path / "out", side) for side in ("user", "item")}
    assert {side: graph.num_nodes(side) for side in names} == {side: len(own) for side, own in names.items()}
    for is_back in (False, True):
        found: Counter[Event] = Counter()
        for name in ("click", "add to/cart", "none"):
            kind = ("item", f"rev-{name}", "user") if is_back else ("user", name, "item")
            ends = graph.edges(etype=kind, order="eid")
            user, item = reversed(ends) if is_back else ends
            time_ms = graph.edges[kind].data["time_ms"].tolist()
            assert time_ms == sorted(time_ms)
            for u, i, t in zip(user.tolist(), item.tolist(), time_ms, strict=True):
                found[names["user"][u], name, names["item"][i], t] += 1
        assert found == oracle
    for side in names:
        part = pq.read_table(tmp_path / "out" / f"{side}s.parquet")["part"].to_pylist()
        assert graph.nodes[side].data["part"].tolist() == part


def test_pyg_loads_the_plain_list_sorted_by_target_and_time(world: World, tmp_path: Path) -> None:
    data_of = pytest.importorskip("torch_geometric.data", reason="PyG is in the extra bench")
    settings, oracle = world
    written(settings, tmp_path / "out", "pyg")
    data = data_of.HeteroData.from_dict(torch.load(tmp_path / "out" / "graph.pt", weights_only=True))
    data.validate()
    names = {side: ids(tmp_path / "out", side) for side in ("user", "item")}
    assert {side: data[side].num_nodes for side in names} == {side: len(own) for side, own in names.items()}
    for is_back in (False, True):
        found: Counter[Event] = Counter()
        for name in ("click", "add to/cart", "none"):
            store = data["item", f"rev-{name}", "user"] if is_back else data["user", name, "item"]
            source, target = store.edge_index.tolist()
            by_target = list(zip(target, store.time.tolist(), strict=True))
            assert by_target == sorted(by_target)
            user, item = (target, source) if is_back else (source, target)
            for u, i, t in zip(user, item, store.time.tolist(), strict=True):
                found[names["user"][u], name, names["item"][i], t] += 1
        assert found == oracle


def test_the_parts_cover_all_nodes_and_keep_two_shops_apart(tmp_path: Path) -> None:
    """Two shops that share no user and no item: METIS has no reason to part either of them."""
    pytest.importorskip("dgl", reason="DGL 1.1.3 has wheels for Python 3.11 and older only")
    rng = random.Random(5)
    events = []
    for n in range(3_000):
        shop = rng.randrange(2)
        events.append((f"{shop}u{rng.randrange(100)}", "click", f"{shop}i{rng.randrange(100)}", START_MS + n))
    told = written(saved(tmp_path / "data", events), tmp_path / "out", "parquet", parts=2)
    parts = {
        node["id"]: node["part"]
        for side in ("user", "item")
        for node in pq.read_table(tmp_path / "out" / f"{side}s.parquet").to_pylist()
    }
    assert set(parts.values()) == {0, 1}
    assert len({(name[0], part) for name, part in parts.items()}) == 2
    assert told["parts"] == {"count": 2, "users": [100, 100], "items": [100, 100], "events_inside": 1.0}


def test_erased_users_and_other_relations_stay_out(tmp_path: Path) -> None:
    events = events_of(4)
    settings = saved(tmp_path, events)
    erased = ErasureList(tmp_path / "erasures")
    hashes = erased.load().hashes(Strings.of(["u1"]))
    erased.append(hashes, np.full((1, 2), events[-1][3], np.int64))
    written(settings, tmp_path / "out", "parquet")
    assert "u1" not in ids(tmp_path / "out", "user")
    assert len(ids(tmp_path / "out", "user")) == len({e[0] for e in live(events)} - {"u1"})


def test_a_file_gives_the_window_of_its_replay(tmp_path: Path) -> None:
    shop = small_shop(1_000)
    path = write_csv(shop, tmp_path / "events.csv")
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "var", "window": {"span": "2d", "capacity": 1 << 12}}
    )
    told = export(
        settings, tmp_path / "out", format_="parquet", parts=None, source=path, progress=NoProgress()
    )
    users, items = ids(tmp_path / "out", "user"), ids(tmp_path / "out", "item")
    time_s = shop.time_ms // 1_000
    newest = int(time_s.max())
    oracle = Counter(
        (shop.user_ids[u], shop.item_ids[i], int(t) * 1_000)
        for u, i, t in zip(shop.user.tolist(), shop.item.tolist(), time_s.tolist(), strict=True)
        if t * 1_000 >= told["watermark_ms"] - 2 * DAY_MS
    )
    found: Counter[tuple[str, str, int]] = Counter()
    for name in told["edges"]:
        for edge in pq.read_table(tmp_path / "out" / "edges" / f"{name}.parquet").to_pylist():
            found[users[edge["user"]], items[edge["item"]], edge["time_ms"]] += 1
    assert found == oracle
    assert told["source"] == "events.csv"
    assert told["watermark_ms"] <= newest * 1_000


def test_a_folder_with_something_is_left_alone(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(ExportError, match="has something in it"):
        written(world[0], out, "parquet")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
    (out / "mine").unlink()
    written(world[0], out, "parquet")
    assert (out / "manifest.json").exists()
    with pytest.raises(ExportError, match="make it first"):
        written(world[0], tmp_path / "no" / "out", "parquet")


@pytest.mark.parametrize("fails_at", ["users.parquet", "items.parquet", "edges", "manifest.json", "rename"])
def test_a_full_disk_at_any_file_leaves_nothing(
    fails_at: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    nodes = exporting._write_nodes
    if fails_at == "rename":
        monkeypatch.setattr(disk, "replace", full)
    elif fails_at == "manifest.json":
        monkeypatch.setattr(disk, "write_synced", full)
    elif fails_at == "edges":
        monkeypatch.setattr(exporting, "_write_edges", full)
    else:
        monkeypatch.setattr(
            exporting,
            "_write_nodes",
            lambda path, *rest: full() if path.name == fails_at else nodes(path, *rest),
        )
    with pytest.raises(ExportError, match="No space left on device; free some space"):
        written(world[0], tmp_path / "out", "parquet")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_in_the_way_of_none(world: World, tmp_path: Path) -> None:
    settings, _ = world
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "graph.bin").write_bytes(b"half")
    written(settings, tmp_path / "out", "parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"edges", "items.parquet", "manifest.json", "users.parquet"}


def test_without_a_checkpoint_the_sentence_names_the_topic_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match=r"topic events, shard 0/1 in .*driftgraph run writes one"):
        written(settings_of(tmp_path), tmp_path / "out", "parquet")
    with pytest.raises(ConfigError, match="no relations"):
        written(Settings.model_validate({"data_dir": tmp_path}), tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


def test_without_dgl_the_sentence_names_what_works(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("driftgraph.model.export.dgl_files", raising=False)
    monkeypatch.setitem(sys.modules, "driftgraph.model.export.dgl_files", None)
    cases: list[tuple[Format, int | None]] = [("dgl", None), ("parquet", 2)]
    for format_, parts in cases:
        with pytest.raises(ExportError, match=r"DGL is not here.*--format pyg"):
            written(world[0], tmp_path / "out", format_, parts=parts)
    written(world[0], tmp_path / "out", "pyg")


def test_more_parts_than_nodes_are_refused(world: World, tmp_path: Path) -> None:
    pytest.importorskip("dgl", reason="DGL 1.1.3 has wheels for Python 3.11 and older only")
    with pytest.raises(ExportError, match=r"--parts 61 .*users \(60\)"):
        written(world[0], tmp_path / "out", "parquet", parts=61)


def test_a_checkpoint_that_is_being_written_is_left_alone(world: World, tmp_path: Path) -> None:
    """An updater works: what it has begun is not removed, and a checkpoint that it removes is read anew."""
    settings = saved(tmp_path / "data", events_of(3))
    begun = tmp_path / "data" / "checkpoints" / f"2{checkpoint.PARTIAL}"
    begun.mkdir()
    (begun / "state.json").touch()
    written(settings, tmp_path / "out", "parquet")
    assert (begun / "state.json").exists()


def test_the_command_says_the_same_as_text_and_as_json(world: World, tmp_path: Path) -> None:
    settings, oracle = world
    config = tmp_path / "driftgraph.toml"
    tables = "".join(f'[relations."{r.name}"]\nspan = "{r.span_ms}ms"\n' for r in RELATIONS)
    config.write_text(
        f'data_dir = "{settings.data_dir}"\n{tables}'
        "[window]\ncapacity = 4096\nuser_rows = 1024\nitem_rows = 1024\n"
    )

    def ran(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CODE, "export", "-c", str(config), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)

    said = ran("out")
    assert said.returncode == 0, said.stderr
    assert f"click events        {sum(n for e, n in oracle.items() if e[1] == 'click')}" in said.stdout
    again = ran("out", "--json")
    assert again.returncode == 1
    assert again.stderr.startswith("driftgraph: out has something in it")
    told = msgspec.json.decode(ran("other", "--json").stdout)
    assert told["edges"]["add to/cart"] == sum(n for e, n in oracle.items() if e[1] == "add to/cart")
