"""The demo's shop: what was planted is there, and it can be learned."""

from __future__ import annotations

import json

import numpy as np
import pytest

from driftgraph.app.demo.shop import BEHAVIORS, TASTE_SHARES, Shop, ShopOptions, open_shop
from driftgraph.stream.arrays import F64, I32, Mask


@pytest.fixture(scope="module")
def shop() -> Shop:
    return open_shop()


def first_contacts(shop: Shop) -> Mask:
    """Is an event the first of its user and item?"""
    _, first = np.unique(shop.user.astype(np.int64) * len(shop.item_ids) + shop.item, return_index=True)
    mask = np.zeros(len(shop), np.bool_)
    mask[first] = True
    return mask


def recall_at_20(shop: Shop, events: Mask, taste: I32 | None, known_I: F64) -> float:
    """How often the item of a first contact is among the 20 best of those not touched and on sale.

    With ``taste`` an item scores the share of its category times ``known_I``; without it ``known_I`` alone.
    """
    rng = np.random.default_rng(0)
    wanted = rng.choice(np.flatnonzero(events & first_contacts(shop)), 1_500, replace=False)
    chosen, hits = {*wanted.tolist()}, list[bool]()
    touched: list[set[int]] = [set() for _ in shop.user_ids]
    for n, (user, item) in enumerate(zip(shop.user.tolist(), shop.item.tolist(), strict=True)):
        if n in chosen:
            score = known_I.copy()
            if taste is not None:
                share = np.full(len(shop.categories), (1 - sum(TASTE_SHARES)) / len(shop.categories))
                share[taste[user]] += TASTE_SHARES
                score *= share[shop.item_category]
            score[(shop.item_on_sale_ms > shop.time_ms[n])] = -1
            score[[*touched[user]]] = -1
            hits.append(int((score > score[item]).sum()) < 20)
        touched[user].add(item)
    return float(np.mean(hits))


def test_the_same_options_give_the_same_bytes_and_another_seed_others() -> None:
    small = ShopOptions(user_count=50, item_count=90, event_count=2_000)
    one, same = list(open_shop(small).payloads()), list(open_shop(small).payloads())
    assert one == same
    assert one != list(open_shop(ShopOptions(50, 90, event_count=2_000, seed=8)).payloads())


def test_the_default_shop_is_as_large_as_it_says(shop: Shop) -> None:
    options = shop.options
    assert len(shop) == pytest.approx(options.event_count, rel=0.02)
    assert (len(shop.user_ids), len(shop.item_ids), len(shop.categories)) == (2_000, 3_000, 30)
    assert len({*shop.item_ids}) == 3_000
    assert shop.user_ids[42] == "u0042"
    assert shop.item_ids[0].startswith("shoes-")
    assert (np.diff(shop.time_ms) >= 0).all()
    assert shop.time_ms[0] >= options.start_ms
    assert np.quantile(shop.time_ms, 0.999) < options.start_ms + options.span_ms


def test_events_are_canonical_json_with_the_user_as_key(shop: Shop) -> None:
    payloads = list(shop.payloads(1_000, 1_500))
    for n, (key, payload) in enumerate(payloads, start=1_000):
        event = json.loads(payload)
        assert json.dumps(event, separators=(",", ":")).encode() == payload
        assert list(event) == ["event_id", "user_id", "item_id", "behavior", "ts"]
        assert event["event_id"] == f"e{n:07d}"
        assert key.decode() == event["user_id"] == shop.user_ids[shop.user[n]]
        assert event["item_id"] == shop.item_ids[shop.item[n]]
        assert shop.category_of(event["item_id"]) == shop.categories[shop.item_category[shop.item[n]]]
        assert (event["behavior"], event["ts"]) == (BEHAVIORS[shop.behavior[n]], shop.time_ms[n])


def test_a_purchase_follows_a_favorite_and_a_favorite_a_click(shop: Shop) -> None:
    counts = np.bincount(shop.behavior)
    assert counts[1] / counts[0] == pytest.approx(shop.options.favorite_share, abs=0.01)
    assert counts[2] / counts[1] == pytest.approx(shop.options.purchase_share, abs=0.02)
    seen: list[set[tuple[int, int]]] = [set(), set(), set()]
    rows = zip(shop.user.tolist(), shop.item.tolist(), shop.behavior.tolist(), strict=True)
    for user, item, behavior in rows:
        assert behavior == 0 or (user, item) in seen[behavior - 1]
        seen[behavior].add((user, item))


def test_half_of_the_users_change_to_a_taste_with_nothing_of_the_old_one(shop: Shop) -> None:
    assert shop.user_drifts.mean() == 0.5
    for before, after, drifts in zip(shop.taste_before, shop.taste_after, shop.user_drifts, strict=True):
        assert len({*before.tolist()} & {*after.tolist()}) == (0 if drifts else 3)
    late = shop.time_ms >= shop.options.drift_ms + 3_600_000  # sessions that began before are over
    for events, taste, share in (
        (late, shop.taste_after, 0.9),
        (late & shop.user_drifts[shop.user], shop.taste_before, 0.0),
        (shop.time_ms < shop.options.drift_ms, shop.taste_before, 0.9),
    ):
        category = shop.item_category[shop.item[events]]
        in_taste = (taste[shop.user[events]] == category[:, None]).any(axis=1).mean()
        assert in_taste == pytest.approx(share, abs=0.03)


def test_a_session_stays_in_one_category(shop: Shop) -> None:
    """Of two clicks of a user within two minutes nearly all are of one category."""
    clicks = np.flatnonzero(shop.behavior == 0)
    order = clicks[np.argsort(shop.user[clicks], kind="stable")]
    pair = (np.diff(shop.user[order]) == 0) & (np.diff(shop.time_ms[order]) < 120_000)
    same = np.diff(shop.item_category[shop.item[order]]) == 0
    assert pair.sum() > 50_000
    assert same[pair].mean() > 0.95


def test_items_are_popular_by_rank_within_their_category(shop: Shop) -> None:
    sums = np.bincount(shop.item_category, shop.item_popularity)
    np.testing.assert_allclose(sums, 1)
    clicks = np.bincount(shop.item[shop.behavior == 0], minlength=len(shop.item_ids))
    old = shop.item_on_sale_ms == shop.options.start_ms
    assert np.corrcoef(clicks[old], shop.item_popularity[old])[0, 1] > 0.95


def test_no_item_is_seen_before_it_is_on_sale(shop: Shop) -> None:
    assert (shop.time_ms >= shop.item_on_sale_ms[shop.item]).all()
    new = shop.item_on_sale_ms >= shop.options.drift_ms
    assert new.mean() == pytest.approx(shop.options.new_item_share, abs=0.03)
    assert np.bincount(shop.item, minlength=len(shop.item_ids))[new].sum() > 2_000


def test_who_stops_learning_falls_who_goes_on_recovers_and_popularity_is_not_enough(shop: Shop) -> None:
    """An oracle that knows taste, one that knows the old taste only, and what everybody likes."""
    late, drifts = shop.time_ms >= shop.options.drift_ms, shop.user_drifts[shop.user]
    popular = np.bincount(shop.item[~late], minlength=len(shop.item_ids)).astype(np.float64)
    before = recall_at_20(shop, ~late & drifts, shop.taste_before, shop.item_popularity)
    stale = recall_at_20(shop, late & drifts, shop.taste_before, shop.item_popularity)
    learning = recall_at_20(shop, late & drifts, shop.taste_after, shop.item_popularity)
    popularity = recall_at_20(shop, late & drifts, None, popular)
    steady = recall_at_20(shop, late & ~drifts, shop.taste_before, shop.item_popularity)
    assert before > 0.3
    assert stale < 0.05
    assert learning > 0.9 * before
    assert steady > 0.25
    assert popularity < 0.25 * learning


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"category_count": 5}, "at least 6 categories, got 5"),
        ({"item_count": 59}, "30 categories need twice as many items, got 59"),
        ({"drifting_share": 1.5}, "drifting_share is a share and must be 0 to 1, got 1.5"),
        ({"event_count": 0}, "at least 1"),
    ],
)
def test_options_that_make_no_shop_are_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ShopOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_shop_may_have_no_drift_or_nothing_but_drift(share: float) -> None:
    small = open_shop(
        ShopOptions(60, 120, 20, 3_000, drifting_share=share, drift_at=share, new_item_share=share)
    )
    assert small.user_drifts.mean() == share
    assert len(small) > 2_000
    assert small.taste_of("u0003", 0) == [small.categories[c] for c in small.taste_before[3]]
