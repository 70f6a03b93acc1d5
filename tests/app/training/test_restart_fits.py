"""Fits after a start are those of a run that never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from driftgraph.app.training import trainer_state
from driftgraph.app.training.cycle import Worker
from driftgraph.snapshots.checkpoints import checkpoint
from driftgraph.snapshots.checkpoints.window import Snapshot, WindowCheckpoints, latest, restore
from driftgraph.stream.ingest.dedupe import Deduplicator
from driftgraph.stream.ingest.erased_users import ErasedUsers
from driftgraph.stream.time.watermark import WatermarkState
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation
from tests.shop_worlds import DAY_MS, RELATIONS, batch_of, graph_of, grow, small_shop, trainer_of

SPANS = tuple(Relation(one.name, DAY_MS // 2 + DAY_MS // 4 * r, 1 << 12) for r, one in enumerate(RELATIONS))
SHOP = small_shop(2_400, users=400, items=300)  # an id is often away for longer than a span, and comes back
AT_ONCE = 40  # events
FIT_EVERY = 12  # batches


def restarted(worker: Worker, root: Path, states: Path) -> Worker:
    """What a start makes of the checkpoints of this moment, with the trainer's of the newest fit."""
    graph = worker.graph
    assert isinstance(graph, Heterograph)
    moment = graph.moment()
    now = WatermarkState(moment.cut.watermark_ms, {})
    WindowCheckpoints(root, graph, "e").write(Snapshot(moment, {}, now, (), rows=graph.kept_rows()))
    found, state, _ = latest(root, "e")
    assert found is not None
    assert state is not None
    again = graph_of([], SPANS)
    assert restore(found, state, again, Deduplicator(for_checkpoints=True), ErasedUsers(bytes(16))) == (
        0,
        True,
    )
    other = Worker(again, trainer_of(SPANS), None, checkpoints=states)
    kept, _ = checkpoint.latest(states)
    if kept is not None:
        trainer_state.restore(other.trainer, kept, again, again.moment())
        other.since, other.seen = worker.since, worker.seen
    return other


@pytest.mark.parametrize("behind", [0, 1])
def test_a_fit_after_a_start_is_that_of_a_run_that_never_stopped(behind: int, tmp_path: Path) -> None:
    """The start comes so many batches behind each fit. In between, rows lose owners and get new ones."""
    plain = Worker(graph_of([], SPANS), trainer_of(SPANS), None, checkpoints=tmp_path / "plain")
    broken = Worker(graph_of([], SPANS), trainer_of(SPANS), None, checkpoints=tmp_path / "broken")
    for number, first in enumerate(range(0, len(SHOP), AT_ONCE)):
        for worker in (plain, broken):
            assert isinstance(worker.graph, Heterograph)
            grow(worker.graph, batch_of(SHOP, first, min(first + AT_ONCE, len(SHOP))))
            if number % FIT_EVERY == FIT_EVERY - 1:
                worker.cycle(worker.graph.moment())
        if number % FIT_EVERY == (FIT_EVERY - 1 + behind) % FIT_EVERY:
            broken = restarted(broken, tmp_path / f"window-{number}", tmp_path / "broken")
    assert plain.trainer.model_version == broken.trainer.model_version > 2
    assert min(plain.graph.window.row_losses(side)[1] for side in (USER, ITEM)) > 20, "rows changed owners"
    ours, theirs = map(saved, (plain, broken))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert plain.trainer.state_dict()[1] == broken.trainer.state_dict()[1]


def saved(worker: Worker) -> dict[str, torch.Tensor]:
    """What the state on disk would have, but for versions of rows, which count from a start on."""
    files, _ = trainer_state.save(
        worker.trainer, worker.graph, worker.graph.moment(), worker.since, worker.seen
    )
    tensors = load(files["trainer.safetensors"])
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("version")}
