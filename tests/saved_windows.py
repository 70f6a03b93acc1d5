"""A data_dir as an updater leaves it: with a checkpoint of its window."""

from __future__ import annotations

from driftgraph.app.config.settings import Settings
from driftgraph.snapshots.checkpoints.window import Snapshot, WindowCheckpoints
from driftgraph.stream.time.watermark import WatermarkState
from driftgraph.stream.window.heterograph import Heterograph


def checkpointed(settings: Settings, graph: Heterograph) -> None:
    """Write the newest checkpoint, of the graph as it is."""
    moment = graph.moment()
    now_ms = moment.cut.watermark_ms
    state = Snapshot(moment, {"events[0]": sum(moment.cut.next)}, WatermarkState(now_ms, {0: now_ms}), ())
    stream = f"{settings.kafka.topic} {settings.kafka.shard}"
    WindowCheckpoints(settings.data_dir / "checkpoints", graph, stream).write(state)
