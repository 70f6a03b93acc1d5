"""The lists of a trained model: what the evaluation ranks, fresh at each refresh, and similar items."""

from __future__ import annotations

import numpy as np
import pytest

from driftgraph.model.network.embed import Embedding
from driftgraph.model.options import ListLengths
from driftgraph.model.score import ranking
from driftgraph.model.score.bank import Bank
from driftgraph.model.score.lists import AskedUsers
from driftgraph.model.score.ranking import PATH_SCALE, SHAPE, path_tables
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.model.score.scorer import PATHS, PRIOR_F, Scorer, alone
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import F32, F64, U32
from driftgraph.stream.window.adjacency import ITEM
from driftgraph.stream.window.heterograph import Moment
from driftgraph.stream.window.view import StaleCut
from driftgraph.stream.window.writer import Cut, Window
from tests.model.score.test_lists import LENGTHS, moment_of, rows_of, similar_of
from tests.model_worlds import (
    RELATIONS,
    SMALL,
    START_MS,
    Row,
    append,
    blocks,
    empty_cut,
    events_of,
    trainer_of,
    window_of,
)
from tests.plain_paths import plain_paths, plain_sums
from tests.plain_window import PlainWindow

VECTORS_ONLY = alone("vectors", PRIOR_F)


def trained(rows: list[Row]) -> tuple[Trainer, Window]:
    window, trainer = window_of(rows), trainer_of(learning_rate=0.02)
    assert trainer.fit(window, empty_cut(window), window.cut()).accepted
    return trainer, window


def made_by(trainer: Trainer, window: Window, lengths: ListLengths = LENGTHS) -> ScoredLists:
    embedding = trainer.embed(window, window.cut())

    def new_items(rows: U32, cut: Cut, time_ms: int) -> F32:
        return trainer.new_items(window, rows, cut, time_ms)

    items = (embedding.item_rows, embedding.item)
    return ScoredLists(window, moment_of(window), items, trainer.scorer.weight_F, lengths, new_items)


def ask(lists: ScoredLists, window: Window, users: AskedUsers) -> list[tuple[U32, F64]]:
    best = lists.of(users)
    return [(best.rows[n, :end], best.score[n, :end]) for n, end in enumerate(best.lengths.tolist())]


def asked(trainer: Trainer, window: Window, user: int, time_ms: int, touched: U32) -> AskedUsers:
    rows, times_ms = rows_of(user), np.array([time_ms])
    vectors = trainer.embed_users(window, rows, window.cut(), times_ms)
    return AskedUsers(rows, vectors, times_ms, moment_of(window), touched, np.array([0, len(touched)]))


def touched_by(window: Window, user: int) -> U32:
    events = window.events(window.cut())
    return np.unique(events.item[events.user == user])


@pytest.mark.parametrize("user", [3, 17, 44])
def test_a_list_is_what_the_evaluation_ranks_first(user: int) -> None:
    """The user's next event is ranked as of its time; the list was made at that time."""
    trainer, window = trained(blocks(1_500, seed=1, users=80, items=120))
    trainer.scorer.mean_F = np.linspace(0.3, 1.2, len(trainer.scorer.mean_F))
    since = window.cut()
    now_ms = int(window.events(since).time_ms.max()) + 1
    touched = touched_by(window, user)
    [(listed, _)] = ask(made_by(trainer, window), window, asked(trainer, window, user, now_ms, touched))
    untouched = next(item for item in range(120) if item not in touched)
    got = trainer.evaluate(window, since, append(window, [(user, untouched, 0, now_ms - START_MS)]))
    assert got.predictions is not None
    assert got.predictions.top_items[0].tolist() == listed[:20].tolist()
    assert len(listed) == LENGTHS.lists


def test_a_refresh_knows_what_happened_since_the_publish() -> None:
    """An item that came after the publish is in the list of a user whose neighbors touched it."""
    trainer, window = trained(blocks(1_000, seed=2, users=60, items=40))
    lists = made_by(trainer, window, ListLengths(lists=20, similar=10))
    last_ms = int(window.events(window.cut()).time_ms.max()) - START_MS
    touched = touched_by(window, 5)
    [(before, _)] = ask(lists, window, asked(trainer, window, 5, START_MS + last_ms + 1, touched))
    rush = [(user, 60, 0, last_ms + 2 + n) for n, user in enumerate(range(20))]
    append(window, rush)
    [(after, _)] = ask(
        lists, window, asked(trainer, window, 21, START_MS + last_ms + 100, touched_by(window, 21))
    )
    assert 60 not in before.tolist()
    assert 60 in after.tolist()
    [(own, _)] = ask(
        lists, window, asked(trainer, window, 5, START_MS + last_ms + 100, touched_by(window, 5))
    )
    assert 60 not in own.tolist(), "the user has touched it"


def embedding_of(window: Window, *, seed: int) -> Embedding:
    """Random vectors of every live user and item."""
    rng, events = np.random.default_rng(seed), window.events(window.cut())
    users, items = np.unique(events.user), np.unique(events.item)
    vectors = [rng.standard_normal((len(rows), SMALL.dim)).astype(np.float32) for rows in (users, items)]
    vectors[0][:, -1] = 1
    times = [np.zeros(len(rows), np.int64) for rows in (users, items)]
    return Embedding(users, vectors[0], times[0], items, vectors[1], times[1])


def by_vectors(window: Window, embedding: Embedding) -> ScoredLists:
    def none(rows: U32, *_: object) -> F32:
        return np.zeros((len(rows), SMALL.dim), np.float32)

    items = (embedding.item_rows, embedding.item)
    return ScoredLists(window, moment_of(window), items, VECTORS_ONLY, LENGTHS, none)


def lists_by(lists: ScoredLists, window: Window, touched: list[U32], vectors: F32) -> list[tuple[U32, F64]]:
    count = len(touched)
    bounds = np.cumsum([0, *(len(rows) for rows in touched)])
    joined, times_ms = np.concatenate([rows_of(), *touched]), np.full(count, 1 << 60)
    users = AskedUsers(
        np.arange(count, dtype=np.uint32), vectors, times_ms, moment_of(window), joined, bounds
    )
    return ask(lists, window, users)


@pytest.mark.parametrize("scores_at_once", [1, 700, 1 << 23])
def test_where_only_vectors_count_a_list_is_their_exact_ranking(
    scores_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores_at_once)
    window = window_of(blocks(4_000, seed=3, users=90, items=150))
    embedding = embedding_of(window, seed=4)
    rng = np.random.default_rng(5)
    touched = [rng.permutation(300)[: rng.integers(0, 140)].astype(np.uint32) for _ in embedding.user_rows]
    made = lists_by(by_vectors(window, embedding), window, touched, embedding.user)
    for user, (rows, score) in enumerate(made):
        exact = embedding.item.astype(np.float64) @ embedding.user[user].astype(np.float64)
        order = [n for n in np.argsort(-exact) if embedding.item_rows[n] not in touched[user]][:50]
        assert rows.tolist() == embedding.item_rows[order].tolist()
        np.testing.assert_allclose(score, exact[order], rtol=1e-4, atol=1e-5)


def test_a_list_is_as_long_as_items_are_left() -> None:
    window = window_of(blocks(2_000, seed=6, users=50, items=30))
    embedding = embedding_of(window, seed=7)
    everything = embedding.item_rows
    touched = [everything, everything[:10], rows_of(), rows_of(4_000)]
    made = lists_by(by_vectors(window, embedding), window, touched, embedding.user[:4])
    assert [len(rows) for rows, _ in made] == [0, len(everything) - 10, len(everything), len(everything)]
    assert lists_by(by_vectors(window, embedding), window, [], embedding.user[:0]) == []


def test_a_row_that_changed_hands_since_is_in_no_list() -> None:
    window = window_of(blocks(2_000, seed=8, users=50, items=60))
    embedding = embedding_of(window, seed=9)
    lists = by_vectors(window, embedding)
    [(before, _)] = lists_by(lists, window, [rows_of()], embedding.user[:1])
    gone = before[[0, 3]]
    window.recycle(ITEM, gone)
    [(after, _)] = lists_by(lists, window, [rows_of()], embedding.user[:1])
    assert after.tolist()[: len(before) - 2] == [row for row in before.tolist() if row not in gone]
    assert all(not set(gone.tolist()) & set(rows.tolist()) for rows, _ in similar_of(lists, before))


def test_after_a_refresh_lists_are_those_that_would_be_made_anew() -> None:
    """Of late events, too, and of items whose degree has grown since the publish."""
    trainer, window = trained(blocks(800, seed=12, users=60, items=40))
    trainer.scorer.mean_F = np.linspace(0.3, 1.2, len(trainer.scorer.mean_F))
    old = made_by(trainer, window)
    embedding, weight_F = trainer.embed(window, window.cut()), trainer.scorer.weight_F
    last_ms = int(window.events(window.cut()).time_ms.max()) - START_MS
    append(window, blocks(300, seed=13, users=60, items=40, first_ms=last_ms))
    append(window, [(7, item, 0, last_ms // 2) for item in range(30)])  # late

    def never(rows: U32, *_: object) -> F32:
        raise AssertionError(f"rows {rows} are not new")

    now_ms = int(window.events(window.cut()).time_ms.max()) + 1
    anew = ScoredLists(
        window, moment_of(window), (embedding.item_rows, embedding.item), weight_F, LENGTHS, never
    )
    for user in (3, 7, 44):
        users = asked(trainer, window, user, now_ms, touched_by(window, user))
        [(rows, score)], [(expected, exact)] = ask(old, window, users), ask(anew, window, users)
        np.testing.assert_allclose(score, exact, rtol=1e-5)
        assert rows.tolist() == expected.tolist()


def test_an_item_in_the_row_of_one_that_left_is_a_new_item() -> None:
    """Rows are given anew as soon as they are free: most new items of a full window have one of these."""
    trainer, window = trained(blocks(1_000, seed=14, users=60, items=40))
    lists = made_by(trainer, window, ListLengths(lists=20, similar=10))
    last_ms = int(window.events(window.cut()).time_ms.max()) - START_MS
    window.recycle(ITEM, rows_of(5))
    append(window, [(user, 5, 0, last_ms + 2 + n) for n, user in enumerate(range(20))])
    plain = Bank(64, START_MS + last_ms + 22)
    plain.add(np.full(20, 5, np.uint32), START_MS + last_ms + 2 + np.arange(20))
    now_ms = START_MS + last_ms + 100
    touched = np.setdiff1d(touched_by(window, 21), rows_of(5))  # what it touched there was another item
    [(found, _)] = ask(lists, window, asked(trainer, window, 21, now_ms, touched))
    assert 5 in found.tolist()
    np.testing.assert_allclose(lists._bank.count_FR[:, 5], plain.count_FR[:, 5])
    assert lists._bank.degree_R[5] == 20, "the events of the one that left do not count"
    window.recycle(ITEM, rows_of(5))  # that one leaves, too, and nobody follows yet
    [(after, _)] = ask(lists, window, asked(trainer, window, 21, now_ms, touched))
    assert 5 not in after.tolist()


def test_a_new_item_has_left_and_another_has_its_row() -> None:
    """The row came after the publish: who has it now is not who was taken up."""
    trainer, window = trained(blocks(1_000, seed=15, users=60, items=40))
    lists = made_by(trainer, window, ListLengths(lists=50, similar=10))
    last_ms = int(window.events(window.cut()).time_ms.max()) - START_MS
    append(window, [(user, 60, 0, last_ms + 2 + user) for user in range(20)])
    users = asked(trainer, window, 21, START_MS + last_ms + 100, touched_by(window, 21))
    [(before, _)] = ask(lists, window, users)
    window.recycle(ITEM, rows_of(60))
    [(after, _)] = ask(lists, window, users)
    assert 60 in before.tolist()
    assert 60 not in after.tolist()


def test_a_row_that_was_added_while_the_moment_was_taken_is_a_new_item() -> None:
    """A moment reads the owners before the cut."""
    trainer, window = trained(blocks(1_000, seed=15, users=60, items=40))
    lists, owners = made_by(trainer, window), moment_of(window).versions
    last_ms = int(window.events(window.cut()).time_ms.max()) - START_MS
    append(window, [(user, 60, 0, last_ms + 2 + user) for user in range(20)])
    users = asked(trainer, window, 21, START_MS + last_ms + 100, touched_by(window, 21))
    [(found, _)] = ask(lists, window, users._replace(moment=Moment(window.cut(), owners)))
    assert 60 in found.tolist()


def test_what_a_failed_refresh_did_not_take_up_the_next_one_does() -> None:
    trainer, window = trained(blocks(1_000, seed=16, users=60, items=40))
    lists = made_by(trainer, window, ListLengths(lists=20, similar=10))
    usual = lists._new_items

    def overwritten(*_: object) -> F32:
        raise StaleCut("events of the cut were overwritten")

    last_ms = int(window.events(window.cut()).time_ms.max()) - START_MS
    append(window, [(user, 60, 0, last_ms + 2 + user) for user in range(20)])
    users = asked(trainer, window, 21, START_MS + last_ms + 100, touched_by(window, 21))
    lists._new_items = overwritten
    with pytest.raises(StaleCut):
        lists.of(users)
    lists._new_items = usual
    append(window, [(0, 1, 0, last_ms + 200)])
    [(found, _)] = ask(lists, window, users._replace(moment=moment_of(window)))
    assert 60 in found.tolist()
    assert lists._bank.degree_R[60] == 20


def test_a_list_by_paths_alone_goes_on_with_what_is_popular() -> None:
    """Most items are at the end of no path and have one score: chance must not order them."""
    window = window_of(blocks(300, seed=17, users=60, items=200))
    embedding = embedding_of(window, seed=18)
    scorer = Scorer()
    scorer.fallback = "paths"
    lists = ScoredLists(
        window,
        moment_of(window),
        (embedding.item_rows, embedding.item),
        scorer.weight_F,
        LENGTHS,
        lambda rows, *_: embedding.item[rows],
    )
    stranger = np.array([4_000], np.uint32)
    users = AskedUsers(
        stranger, embedding.user[:1], np.array([1 << 60]), moment_of(window), rows_of(), np.array([0, 0])
    )
    [(rows, score)] = ask(lists, window, users)
    assert len(rows) == LENGTHS.lists
    popular = embedding.item_rows[np.argsort(-embedding.item[:, -1], kind="stable")]
    assert rows.tolist() == popular[: LENGTHS.lists].tolist()
    assert np.abs(score).max() < 0.01, "one path counts for more than any popularity"


def test_similar_items_are_at_the_ends_of_the_plainest_paths() -> None:
    rows = blocks(400, seed=10, users=40, items=50)
    window, plain = window_of(rows), PlainWindow(RELATIONS)
    every = events_of([(u, i, r, t + START_MS) for u, i, r, t in rows])
    plain.append(every.user, every.item, every.relation, every.time_ms)
    plain.expire(int(every.time_ms.max()))
    embedding, now_ms = embedding_of(window, seed=11), int(every.time_ms.max()) + 1
    worth = np.maximum(np.bincount(every.item, minlength=64), 1.0) ** -0.25
    made = similar_of(by_vectors(window, embedding), embedding.item_rows)
    for item, (found, score) in zip(embedding.item_rows.tolist(), made, strict=True):
        ends, _ = plain_paths(plain, window.cut(), -1, now_ms, SHAPE, given=[item])
        sums = plain_sums(ends, path_tables(len(RELATIONS)), worth, is_user=False)
        expected = {row: float(np.log1p(PATH_SCALE * total[0] * worth[row])) for row, total in sums.items()}
        best = sorted(expected.values(), reverse=True)[: LENGTHS.similar]
        np.testing.assert_allclose(score, best, rtol=1e-5)
        np.testing.assert_allclose(score, [expected[row] for row in found.tolist()], rtol=1e-5)
        assert item not in found
    assert VECTORS_ONLY[PATHS] == 0


def test_after_other_vectors_were_put_the_lists_are_those_of_a_maker_that_began_with_them() -> None:
    """Also once a new item was taken up behind them; the vectors that the caller has stay as they were."""
    trainer, window = trained(blocks(1_500, seed=1, users=80, items=120))
    trainer.scorer.mean_F = np.linspace(0.3, 1.2, len(trainer.scorer.mean_F))
    embedding = trainer.embed(window, window.cut())
    rng, moved = np.random.default_rng(7), embedding.item_rows[::3]
    other = embedding.item.copy()
    other[::3] = rng.normal(0, 0.5, other[::3].shape)

    def made_with(vectors: F32) -> ScoredLists:
        def new_items(rows: U32, cut: Cut, time_ms: int) -> F32:
            return trainer.new_items(window, rows, cut, time_ms)

        items, weight_F = (embedding.item_rows, vectors), trainer.scorer.weight_F
        return ScoredLists(window, moment_of(window), items, weight_F, LENGTHS, new_items)

    kept = embedding.item.copy()
    lists, expected, before = made_with(embedding.item), made_with(other), made_with(kept)
    lists.put(np.append(moved, np.uint32(4_000)), np.concatenate([other[::3], other[:1]]))
    assert np.array_equal(embedding.item, kept)
    last_ms = int(window.events(window.cut()).time_ms.max())
    for step in range(2):
        now_ms = last_ms + 100 * (step + 1)
        question = asked(trainer, window, 5, now_ms, touched_by(window, 5))
        [(rows, score)], [(wanted, wanted_score)] = (
            ask(lists, window, question),
            ask(expected, window, question),
        )
        assert rows.tolist() == wanted.tolist()
        assert np.allclose(score, wanted_score, atol=1e-5)
        assert rows.tolist() != ask(before, window, question)[0][0].tolist()
        append(window, [(user, 200, 0, now_ms + user - START_MS) for user in range(20)])
