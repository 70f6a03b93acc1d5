"""A generated shop whose customers change their taste: the demo's stream and the truth about it.

    ShopOptions ──► [open_shop] ──► Shop: events in time order, as columns and as JSON ──► Kafka

The patterns that are planted for a model to find:
  * a user has a taste: one favorite category, two others, and a little of everything;
  * a session is about one category, so items that are visited together belong together;
  * within a category items are popular by Zipf's law, and no category is more popular than another,
    so popularity alone explains little;
  * a click may become a favorite, and a favorite a purchase: the rarer behavior says more about the taste;
  * at the middle of the time half of the users change to a taste that has nothing in common with the old one,
    and from then on some items are new. A model that stops learning there gets worse; one that goes on
    recovers.

The same options give the same events, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftgraph.stream.arrays import F64, I32, I64, U8, Index, Mask

BEHAVIORS = ("click", "favorite", "purchase")
CATEGORY_NAMES = (
    *("shoes", "bags", "hats", "coats", "dresses", "shirts", "jeans", "socks", "watches", "rings"),
    *("lamps", "chairs", "tables", "rugs", "plants", "books", "games", "puzzles", "bikes", "tents"),
    *("skis", "balls", "phones", "laptops", "cameras", "drones", "pans", "knives", "teas", "candles"),
)
TASTE_SHARES = (0.6, 0.2, 0.1)  # sessions in the favorite and the two other categories; the rest are anywhere


@dataclass(frozen=True, slots=True)
class ShopOptions:
    """The size of the shop and the behavior of its customers."""

    user_count: int = 2_000
    item_count: int = 3_000
    category_count: int = 30
    event_count: int = 240_000  # about: so many sessions are drawn that so many events are expected
    start_ms: int = 1_782_864_000_000  # 2026-07-01T00:00:00Z
    span_ms: int = 14 * 86_400_000
    drifting_share: float = 0.5  # of users: they change their taste
    drift_at: float = 0.5  # of the span: when they change it
    new_item_share: float = 0.1  # of items: they come on sale one by one after the change
    session_clicks_mean: float = 6.0
    click_gap_ms_mean: float = 25_000.0
    favorite_share: float = 0.25  # of clicks
    purchase_share: float = 0.3  # of favorites
    zipf_exponent: float = 0.8  # of popularity within a category
    activity_sigma: float = 0.6  # log-normal: the busiest of 2,000 users comes about 8 times as often as most
    seed: int = 7

    def __post_init__(self) -> None:
        if self.category_count < 2 * len(TASTE_SHARES):
            raise ValueError(f"a change of taste needs at least 6 categories, got {self.category_count}")
        if self.item_count < 2 * self.category_count:
            raise ValueError(
                f"{self.category_count} categories need twice as many items, got {self.item_count}"
            )
        if self.user_count < 1 or self.event_count < 1 or self.span_ms < 1:
            raise ValueError("user_count, event_count and span_ms must be at least 1")
        for name in ("drifting_share", "drift_at", "new_item_share", "favorite_share", "purchase_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must be 0 to 1, got {getattr(self, name)}")

    @property
    def drift_ms(self) -> int:
        """The event time from which drifting users have their new taste."""
        return self.start_ms + round(self.span_ms * self.drift_at)


@dataclass(frozen=True, slots=True)
class Shop:
    """The events of a shop and the truth about it. U users, I items, C categories, N events in time order.

    Always true: ``time_ms`` ascends and lies at or after ``start_ms``; no event names an item before its
    ``item_on_sale_ms``; the categories of a drifting user's two tastes have none in common.
    """

    options: ShopOptions
    user_ids: list[str]
    item_ids: list[str]  # "shoes-017"
    categories: list[str]
    item_category: I32  # [I]
    item_popularity: F64  # [I] share of its category's clicks, adds up to 1 for each category
    item_on_sale_ms: I64  # [I] the time from which it may be clicked
    user_drifts: Mask  # [U]
    taste_before: I32  # [U, 3] categories, the favorite first
    taste_after: I32  # [U, 3]
    user: I32  # [N] index into user_ids
    item: I32  # [N] index into item_ids
    behavior: U8  # [N] index into BEHAVIORS
    time_ms: I64  # [N]

    def __len__(self) -> int:
        return len(self.time_ms)

    def category_of(self, item_id: str) -> str:
        """The category that an item id names."""
        return item_id.rpartition("-")[0]

    def taste_of(self, user_id: str, time_ms: int) -> list[str]:
        """The categories that a user likes at a time, the favorite first."""
        taste = self.taste_before if time_ms < self.options.drift_ms else self.taste_after
        return [self.categories[c] for c in taste[self.user_ids.index(user_id)].tolist()]

    def drifters(self) -> frozenset[str]:
        """The users whose taste changes."""
        return frozenset(self.user_ids[n] for n in np.flatnonzero(self.user_drifts).tolist())

    def payloads(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """(key, canonical JSON) of events ``first`` to ``stop``; the key is the user's id."""
        columns = (self.user, self.item, self.behavior, self.time_ms)
        rows = zip(*(column[first:stop].tolist() for column in columns), strict=True)
        for number, (user, item, behavior, time_ms) in enumerate(rows, start=first):
            user_id = self.user_ids[user]
            text = (
                f'{{"event_id":"e{number:07d}","user_id":"{user_id}","item_id":"{self.item_ids[item]}",'
                f'"behavior":"{BEHAVIORS[behavior]}","ts":{time_ms}}}'
            )
            yield user_id.encode(), text.encode()


def open_shop(options: ShopOptions | None = None) -> Shop:
    """Draw a shop and all its events. Takes about 0.2 s at the defaults."""
    options = options or ShopOptions()
    rng = np.random.default_rng(options.seed)
    categories = _category_names(options.category_count)
    category_I = np.arange(options.item_count, dtype=np.int32) % options.category_count
    rank_I = np.arange(options.item_count) // options.category_count  # 0 is the most popular of its category
    weight_I = (rank_I + 1.0) ** -options.zipf_exponent
    popularity_I = weight_I / np.bincount(category_I, weight_I)[category_I]
    on_sale_ms_I = _on_sale(options, rng, rank_I)

    drifts_U = np.zeros(options.user_count, np.bool_)
    drifting_count = round(options.user_count * options.drifting_share)
    drifts_U[rng.permutation(options.user_count)[:drifting_count]] = True
    # six categories in a random order, so that no category is in a taste twice or in both tastes
    order_UC = np.argsort(rng.random((options.user_count, options.category_count)), axis=1).astype(np.int32)
    taste_before_U3 = order_UC[:, :3]
    taste_after_U3 = np.where(drifts_U[:, None], order_UC[:, 3:6], taste_before_U3)

    user, category, start_ms = _sessions(options, rng, taste_before_U3, taste_after_U3)
    user, item, click_ms = _clicks(
        options,
        rng,
        user=user,
        category=category,
        start_ms=start_ms,
        popularity_I=popularity_I,
        on_sale_ms_I=on_sale_ms_I,
    )
    kept, behavior, time_ms = _funnel(options, rng, click_ms)
    order = np.argsort(time_ms, kind="stable")
    kept = kept[order]
    digits = len(str(options.item_count // options.category_count + 1))
    numbers = rng.permutation(rank_I.max() + 1)  # a name must not tell how popular its item is
    item_ids = [
        f"{categories[c]}-{numbers[r]:0{max(digits, 3)}d}"
        for c, r in zip(category_I.tolist(), rank_I.tolist(), strict=True)
    ]
    return Shop(
        options=options,
        user_ids=[f"u{n:04d}" for n in range(options.user_count)],
        item_ids=item_ids,
        categories=categories,
        item_category=category_I,
        item_popularity=popularity_I,
        item_on_sale_ms=on_sale_ms_I,
        user_drifts=drifts_U,
        taste_before=taste_before_U3,
        taste_after=taste_after_U3,
        user=user[kept],
        item=item[kept],
        behavior=behavior[order],
        time_ms=time_ms[order],
    )


def _category_names(count: int) -> list[str]:
    names = list(CATEGORY_NAMES[:count])
    return names + [f"category{n}" for n in range(len(names), count)]


def _on_sale(options: ShopOptions, rng: np.random.Generator, rank_I: npt.NDArray[np.int_]) -> I64:
    """When each item comes; the most popular item of a category is there from the beginning."""
    new_I = (rng.random(options.item_count) < options.new_item_share) & (rank_I > 0)
    late_ms = rng.uniform(options.drift_ms, options.start_ms + options.span_ms, options.item_count)
    return np.where(new_I, late_ms, options.start_ms).astype(np.int64)


def _sessions(
    options: ShopOptions, rng: np.random.Generator, before_U3: I32, after_U3: I32
) -> tuple[I32, I32, I64]:
    """Draw sessions: user, category, begin. Busy and quiet users, and more visits by day than by night."""
    a_click = 1 + options.favorite_share * (1 + options.purchase_share)  # the expected events of a click
    count = max(1, round(options.event_count / (options.session_clicks_mean * a_click)))
    activity_U = rng.lognormal(0.0, options.activity_sigma, options.user_count)
    user = rng.choice(options.user_count, count, p=activity_U / activity_U.sum()).astype(np.int32)

    even_ms = options.start_ms + rng.uniform(0, options.span_ms, count)
    day_ms = 86_400_000.0
    # Moves each begin towards the middle of its day: density 1 - 0.6 cos(day), monotone, so still one to one.
    phase = 2 * np.pi * (even_ms % day_ms) / day_ms
    start_ms = (even_ms + 0.6 * day_ms / (2 * np.pi) * np.sin(phase)).astype(np.int64)

    taste_S3 = np.where((start_ms < options.drift_ms)[:, None], before_U3[user], after_U3[user])
    place = np.searchsorted(np.cumsum(TASTE_SHARES), rng.random(count), side="right")  # 3: anywhere
    anywhere = rng.integers(0, options.category_count, count)
    in_taste = taste_S3[np.arange(count), np.minimum(place, 2)]
    return user, np.where(place == 3, anywhere, in_taste).astype(np.int32), start_ms


def _clicks(
    options: ShopOptions,
    rng: np.random.Generator,
    *,
    user: I32,
    category: I32,
    start_ms: I64,
    popularity_I: F64,
    on_sale_ms_I: I64,
) -> tuple[I32, I32, I64]:
    """Draw each session's clicks: user, item, time."""
    length = rng.geometric(1 / options.session_clicks_mean, len(user))
    session = np.repeat(np.arange(len(user)), length)
    gap_ms = rng.exponential(options.click_gap_ms_mean, len(session)) + 1_000
    since_first = np.cumsum(gap_ms)
    first = np.cumsum(length) - length
    time_ms = start_ms[session] + (since_first - since_first[first][session]).astype(np.int64)

    # Items of category c are c, c + C, c + 2C, …; one cumulative row for each category.
    count, width = options.category_count, -(-options.item_count // options.category_count)
    padded = np.zeros(count * width)
    padded[: options.item_count] = popularity_I
    edges = np.cumsum(padded.reshape(width, count).T, axis=1)  # [C, width], ends at 1
    flat_edges = (edges + np.arange(count)[:, None]).ravel()  # ascending over all categories
    wanted = category[session]
    item = np.zeros(len(session), np.int64)
    redraw = np.arange(len(session))
    for _ in range(20):  # an item that is not on sale yet is drawn again
        place = np.searchsorted(
            flat_edges, wanted[redraw] + rng.random(len(redraw)) * (1 - 1e-9), side="right"
        )
        item[redraw] = place % width * count + wanted[redraw]
        redraw = redraw[on_sale_ms_I[item[redraw]] > time_ms[redraw]]
    item[redraw] = wanted[redraw]  # the category's most popular one, which is always on sale
    return user[session], item.astype(np.int32), time_ms


def _funnel(options: ShopOptions, rng: np.random.Generator, click_ms: I64) -> tuple[Index, U8, I64]:
    """Some clicks become favorites, some of those purchases: (which click, behavior, time)."""
    clicks = np.arange(len(click_ms))
    favorites = clicks[rng.random(len(clicks)) < options.favorite_share]
    favorite_ms = click_ms[favorites] + 2_000 + rng.exponential(15_000, len(favorites)).astype(np.int64)
    buys = rng.random(len(favorites)) < options.purchase_share
    purchases = favorites[buys]
    purchase_ms = favorite_ms[buys] + 20_000 + rng.exponential(300_000, len(purchases)).astype(np.int64)
    behavior = np.repeat(np.arange(3, dtype=np.uint8), [len(clicks), len(favorites), len(purchases)])
    return (
        np.concatenate([clicks, favorites, purchases]),
        behavior,
        np.concatenate([click_ms, favorite_ms, purchase_ms]),
    )
