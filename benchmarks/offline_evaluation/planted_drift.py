"""The planted drift: 20 % of a generated shop's users change their taste at once. Does the list follow?

    open_shop ──► a file ──► driftgraph replay ──► ours, and an oracle that knows every taste, by window

The oracle ranks by the chance with which the shop draws an item for the user at that time. What counts is
how near ours comes to it: ours / oracle among who changed, over the same among who did not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.offline_evaluation.datasets import Dataset
from benchmarks.offline_evaluation.prequential import CLOCKS, Judge, Stream, metrics_of, targets_at
from benchmarks.offline_evaluation.product import Replay
from benchmarks.report import Figures
from driftgraph.app.demo.shop import BEHAVIORS, TASTE_SHARES, Shop, ShopOptions, open_shop
from driftgraph.stream.arrays import F64, Index, Mask

FITS = 3  # after so many fits since the change
SHARE = 0.2  # of the users change


def planted(folder: Path, options: ShopOptions, every: str) -> tuple[Shop, Dataset]:
    """The shop, and its events as a Parquet file."""
    shop = open_shop(options)
    path = folder / f"planted-{len(shop)}-{options.seed}.parquet"
    ids = (
        np.array(shop.user_ids)[shop.user],
        np.array(shop.item_ids)[shop.item],
        np.array(BEHAVIORS)[shop.behavior],
    )
    table = pa.table(
        dict(zip(("user_id", "item_id", "behavior"), ids, strict=True)) | {"timestamp": shop.time_ms}
    )
    pq.write_table(table, path)
    return shop, Dataset(path.stem, path, BEHAVIORS, f"{options.span_ms // 86_400_000 + 1}d", every, every)


class Oracle:
    """Knows the taste of each user at each time, and what is on sale."""

    def __init__(self, shop: Shop, stream: Stream) -> None:
        self._shop = shop
        numbers = ({name: n for n, name in enumerate(ids)} for ids in (shop.user_ids, shop.item_ids))
        users, items = numbers
        self._user = [users[name] for name in stream.user_ids]
        self._item = np.array([items[name] for name in stream.item_ids])

    def retrain(self, until_ms: int) -> None:
        """It knows already."""

    def score(self, user: int, before_ms: int, out: F64) -> None:
        """The chance of each item."""
        shop = self._shop
        tastes = shop.taste_before if before_ms < shop.options.drift_ms else shop.taste_after
        chance = np.full(len(shop.categories), (1 - sum(TASTE_SHARES)) / len(shop.categories))
        chance[tastes[self._user[user]]] += TASTE_SHARES
        out[:] = (chance[shop.item_category] * shop.item_popularity)[self._item]


def drift_figures(shop: Shop, dataset: Dataset, stream: Stream, replays: list[Replay]) -> Figures:
    """Recall@20 of first contacts by fits since the change, ours and the oracle's, and the share regained."""
    mask = np.zeros(len(stream), np.bool_)
    for one in replays:
        mask[one.events] = True
    mask &= stream.time_ms >= shop.options.drift_ms - dataset.every_ms
    nothing = np.zeros(len(stream), np.bool_)
    targets = targets_at(stream, mask, nothing, every_ms=dataset.every_ms)
    judge = Judge(stream, targets)
    ranks = judge.no_ranks(("explore",))
    oracle = Oracle(shop, stream)
    for window_ms, places in judge.windows():
        judge.rank(oracle, window_ms, places, ranks, CLOCKS[:1])
    best = ranks["event"]["explore"]
    ours = np.stack([_ranks(one, np.flatnonzero(mask)) for one in replays])
    changed = shop.user_drifts[[shop.user_ids.index(name) for name in stream.user_ids]][targets.user]
    fits = (targets.window_ms - shop.options.drift_ms) // dataset.every_ms
    rows = [
        _row(ours, best, changed, fits == number) | {"fits": number} for number in np.unique(fits).tolist()
    ]
    after = _row(ours, best, changed, (fits >= FITS) & (fits < 2 * FITS))
    return {"fits_since_the_change": rows, "regained": after["regained"], "targets": len(targets), "at": FITS}


def _ranks(one: Replay, events: Index) -> F64:
    """[T] the replay's ranks of events; nan where it has none."""
    found = np.full(int(max(events.max(initial=0), one.events.max(initial=0))) + 1, np.nan)
    found[one.events] = one.ranks
    ranks: F64 = found[events]
    return ranks


def _row(ours: F64, best: F64, changed: Mask, inside: Mask) -> Figures:
    """Ours and the oracle's Recall@20 among who changed and who did not, on the same targets."""
    row: Figures = {}
    for name, who in (("changed", changed & inside), ("stayed", ~changed & inside)):
        asked = ~np.isnan(ours[:, who])
        row[f"{name}_targets"] = int(asked.sum())
        row[name] = metrics_of(ours[:, who][asked])["recall_at_20"]
        row[f"{name}_oracle"] = metrics_of(np.broadcast_to(best[who], asked.shape)[asked])["recall_at_20"]
    stayed = row["stayed"] / row["stayed_oracle"] if row["stayed_oracle"] else float("nan")
    near = row["changed"] / row["changed_oracle"] if row["changed_oracle"] else float("nan")
    row["regained"] = near / stayed if stayed else float("nan")
    return row
