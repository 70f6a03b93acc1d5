"""Attributes in the model: words, tastes, word vectors and cold start, each beside its plainest form."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from driftgraph.model.attributes import token_vectors
from driftgraph.model.attributes.cold_start import PRIOR_EVENTS, ColdStart
from driftgraph.model.attributes.token_vectors import RIDGE, TokenVectors
from driftgraph.model.attributes.vocabulary import NO_WORD, NUMBER_BUCKETS, Vocabulary, shares_of
from driftgraph.model.evaluation.evaluate import _chunks
from driftgraph.model.options import ListLengths
from driftgraph.model.score.bank import COUNT_SCALE, HALF_LIVES_H, Bank, Later
from driftgraph.model.score.lists import AskedUsers, Wanted
from driftgraph.model.score.ranking import Stage, best_of
from driftgraph.model.score.reasons import by_part_of
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.model.score.scorer import ATTRIBUTE_PATHS, FEATURES, KIN, PRIOR_F, TASTE
from driftgraph.model.score.tastes import (
    GENERAL,
    KIN_EVENTS,
    RECENT,
    WORTH_SCALE,
    Tastes,
)
from driftgraph.model.score.tastes import PRIOR_EVENTS as TASTE_EVENTS
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import F32, F64, I64, U32
from driftgraph.stream.attributes.attributes import AttributeFields, Attributes
from driftgraph.stream.attributes.fields import Field, tokens_of
from driftgraph.stream.attributes.table import AttributeView
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Cut, WindowView
from tests.model_worlds import RELATIONS, SMALL, START_MS, Row, blocks, empty_cut

FIELDS = AttributeFields(
    user=(Field("camp", "category"),),
    item=(Field("block", "category"), Field("tags", "tags"), Field("length", "number")),
)
ITEMS = 40


def block_of(item: int) -> int:
    return int(item >= ITEMS // 2) if item < ITEMS else item % 2


def said_of(item: int) -> tuple[str, str, str]:
    if item % 7 == 3 and item < ITEMS:
        return "", "", ""
    return f"b{block_of(item)}", f"t{block_of(item)},u{item % 3}", str(10 * block_of(item) + item % 5)


def world(rows: Sequence[Row]) -> tuple[Heterograph, Attributes]:
    graph = Heterograph.create(None, RELATIONS, user_rows=512, item_rows=512)
    table = Attributes(None, FIELDS, graph)
    grow(graph, table, rows)
    return graph, table


def grow(graph: Heterograph, table: Attributes, rows: Sequence[Row]) -> None:
    columns = zip(*(said_of(row[1]) for row in rows), strict=True)
    batch = EventBatch(
        Strings.of([f"u{row[0]}" for row in rows]),
        Strings.of([f"i{row[1]}" for row in rows]),
        np.array([row[2] for row in rows], np.uint8),
        np.array([row[3] + START_MS for row in rows], np.int64),
        attributes=(*map(Strings.of, columns), Strings.of([f"c{row[0] >= 30:d}" for row in rows])),
    )
    graph.apply(batch)
    table.apply(batch)
    graph.expire(int(batch.time_ms.max()))


def item_rows(graph: Heterograph, *items: int) -> U32:
    return graph.find(ITEM, Strings.of([f"i{item}" for item in items])).astype(np.uint32)


def bank_of(graph: Heterograph, time_ms: int) -> Bank:
    bank = Bank(graph.window.rows(ITEM), time_ms)
    events = graph.window.events(graph.window.cut())
    before = events.time_ms < time_ms
    bank.add(events.item[before], events.time_ms[before])
    return bank


def view_of(table: Attributes, side: int) -> AttributeView:
    view = table[side]
    assert view is not None
    return view


def trainer_with(table: Attributes | None) -> Trainer:
    return Trainer([r.name for r in RELATIONS], [r.span_ms for r in RELATIONS], SMALL, table)


def test_numbers_are_words_by_quantiles_of_what_was_known() -> None:
    fields = (Field("price", "number"),)
    numbers, _ = tokens_of("number", Strings.of([str(n) for n in range(800)]))
    vocabulary = Vocabulary.of(fields, numbers)
    words = vocabulary.words(numbers)[:, 0]
    assert (np.diff(words) >= 0).all()
    assert np.unique(words, return_counts=True)[1].tolist() == [800 // NUMBER_BUCKETS] * NUMBER_BUCKETS
    later, _ = tokens_of("number", Strings.of(["-5", "1e9", ""]))
    assert vocabulary.words(later)[:, 0].tolist() == [words[0], words[-1], NO_WORD]


def test_numbers_that_are_nearly_all_the_same_have_fewer_buckets() -> None:
    numbers, _ = tokens_of("number", Strings.of(["1"] * 99 + ["2"]))
    words = Vocabulary.of((Field("price", "number"),), numbers).words(numbers)
    assert len(np.unique(words)) == 2


def test_ids_without_a_number_do_not_move_the_buckets() -> None:
    fields = (Field("price", "number"),)
    told, _ = tokens_of("number", Strings.of([str(n) for n in range(80)]))
    with_gaps, _ = tokens_of("number", Strings.of([*(str(n) for n in range(80)), *[""] * 300]))
    assert np.array_equal(Vocabulary.of(fields, with_gaps).edges_FB, Vocabulary.of(fields, told).edges_FB)
    nothing, _ = tokens_of("number", Strings.of(["", ""]))
    assert np.isinf(Vocabulary.of(fields, nothing).edges_FB).all()


def test_equal_tokens_of_two_fields_are_two_words_and_numbers_are_found_behind_many_tags() -> None:
    fields = (Field("tags", "tags"), Field("kind", "category"), Field("price", "number"))
    tags = tokens_of("tags", Strings.of(["a,b"] * 80))[0]
    kind = tokens_of("category", Strings.of(["a"] * 80))[0]
    price = tokens_of("number", Strings.of([str(n) for n in range(80)]))[0]
    tokens = np.concatenate([tags, kind, price], axis=1)
    vocabulary = Vocabulary.of(fields, tokens)
    assert np.isfinite(vocabulary.edges_FB).all(axis=1).tolist() == [False, False, True]
    words = vocabulary.words(tokens)
    assert len(set(words[0, words[0] != NO_WORD].tolist())) == 4


def test_a_word_that_the_fit_did_not_know_counts_nothing() -> None:
    graph, table = world(blocks(600, seed=4))
    rows, view, now = item_rows(graph, *range(ITEMS)), view_of(table, ITEM), START_MS + 10_000_000
    few = rows[[0, 1]]
    fitted = TokenVectors.fit(view, few, np.eye(2, 5, dtype=np.float32), now)
    made, known = fitted.of(view, rows, now)
    words = fitted.vocabulary.words(view.tokens(rows, now))
    share = shares_of(words, fitted.vocabulary.field_W)
    place = {word: n for n, word in enumerate(fitted.words.tolist())}
    for n in range(len(rows)):
        told = [
            (place[w], part)
            for w, part in zip(words[n].tolist(), share[n].tolist(), strict=True)
            if w in place
        ]
        wanted = fitted.mean_D + sum((part * fitted.vector_KD[at] for at, part in told), np.zeros(5))
        assert np.allclose(made[n], wanted, atol=1e-5)
        assert known[n] == bool(told)
    assert 0 < known.sum() < len(rows)


def test_the_words_of_a_field_share_one() -> None:
    """Beside the plainest count: three tags count a third each, whatever other fields say."""
    rng = np.random.default_rng(0)
    field = np.array([0, 1, 1, 1, 2, 2])
    words = np.where(rng.random((50, 6)) < 0.4, NO_WORD, rng.integers(1, 9, (50, 6)))
    found = shares_of(words, field)
    for n in range(50):
        for w in range(6):
            own = [v for v in range(6) if field[v] == field[w] and words[n, v] != NO_WORD]
            assert found[n, w] == (pytest.approx(1 / len(own)) if words[n, w] != NO_WORD else 0)


def test_of_too_many_words_the_most_frequent_have_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, table = world(blocks(600, seed=4))
    rows, view, now = item_rows(graph, *range(ITEMS)), view_of(table, ITEM), START_MS + 10_000_000
    vector = np.random.default_rng(0).normal(size=(len(rows), 5)).astype(np.float32)
    whole = TokenVectors.fit(view, rows, vector, now)
    words = whole.vocabulary.words(view.tokens(rows, now))
    known, count = np.unique(words[words != NO_WORD], return_counts=True)
    monkeypatch.setattr(token_vectors, "WORDS_MAX", 3)
    few = TokenVectors.fit(view, rows, vector, now)
    assert few.words.tolist() == sorted(known[np.argsort(-count, kind="stable")[:3]].tolist())
    assert len(whole.words) > 3


def test_without_any_word_the_vector_is_the_mean_and_nobody_is_known() -> None:
    graph, table = world([(n % 30, 3, 0, 1_000 * n) for n in range(1, 50)])  # of which nothing is said
    rows, view, now = item_rows(graph, 3), view_of(table, ITEM), START_MS + 10_000_000
    fitted = TokenVectors.fit(view, rows, np.ones((1, 5), np.float32), now)
    made, known = fitted.of(view, rows, now)
    assert not known.any()
    assert not made.any()


def plain_counts(graph: Heterograph, user: int, time_ms: int, words: I64, share: F64) -> dict[int, float]:
    """How much of each word there is with a user: n_u of ``tastes``, one word at a time."""
    events = graph.window.events(graph.window.cut())
    newest: dict[int, int] = {}
    for u, i, t in zip(events.user.tolist(), events.item.tolist(), events.time_ms.tolist(), strict=True):
        if u == user and t < time_ms:
            newest[i] = max(newest.get(i, 0), t)
    count: dict[int, float] = defaultdict(float)
    for place, i in enumerate(sorted(newest, key=lambda i: (-newest[i], i))):
        for word, part in zip(words[i].tolist(), share[i].tolist(), strict=True):
            count[word] += part / (1 + place)
    return count


def plain_words(table: Attributes, bank: Bank) -> tuple[I64, F64]:
    """Words and shares of all rows as of the bank's moment."""
    view = view_of(table, ITEM)
    tokens = view.tokens(np.arange(len(bank.degree_R), dtype=np.uint32), bank.time_ms)
    vocabulary = Vocabulary.of(view.fields, tokens)
    words = vocabulary.words(tokens)
    return words, shares_of(words, vocabulary.field_W)


def plain_sums(bank: Bank, half_life: int, words: I64, share: F64) -> dict[int, float]:
    """The recent events on the items of each word."""
    sums: dict[int, float] = defaultdict(float)
    for row in range(len(words)):
        for word, part in zip(words[row].tolist(), share[row].tolist(), strict=True):
            sums[word] += part * bank.count_FR[half_life, row]
    return sums


def plain_taste(
    graph: Heterograph, table: Attributes, bank: Bank, user: int, item: int, time_ms: int
) -> float:
    """The formula of ``tastes``, one word at a time."""
    words, share = plain_words(table, bank)
    count = plain_counts(graph, user, time_ms, words, share)
    general = plain_sums(bank, GENERAL, words, share)
    whole = bank.count_FR[GENERAL].sum()
    total: float = sum(
        part * math.log1p(count[word] / (TASTE_EVENTS * general[word] / whole))
        for word, part in zip(words[item].tolist(), share[item].tolist(), strict=True)
        if word != NO_WORD and part
    )
    return total


def test_tastes_are_those_of_the_plain_formula() -> None:
    graph, table = world(blocks(600, seed=3))
    now = START_MS + 500_000
    bank = bank_of(graph, now)
    candidate = np.unique(graph.window.events(graph.window.cut()).item).astype(np.int64)
    tastes = Tastes(view_of(table, ITEM), graph.window, bank, candidate)
    users = np.array([0, 5, 17], np.uint32)
    times_ms = np.full(3, now, np.int64)
    found = tastes.of(users, times_ms, graph.window.cut()).taste_nC
    for n, user in enumerate(users.tolist()):
        for c in (0, 3, 11, len(candidate) - 1):
            wanted = plain_taste(graph, table, bank, user, int(candidate[c]), now)
            assert found[n, c] == pytest.approx(wanted, rel=1e-3, abs=1e-4), (user, c)


def plain_path(
    graph: Heterograph, table: Attributes, bank: Bank, user: int, item: int, time_ms: int
) -> float:
    """The formula of the paths through attributes, one word at a time."""
    words, share = plain_words(table, bank)
    count = plain_counts(graph, user, time_ms, words, share)
    recent = plain_sums(bank, RECENT, words, share)
    total: float = sum(
        part * count[word] * bank.count_FR[RECENT, item] / (1 + recent[word])
        for word, part in zip(words[item].tolist(), share[item].tolist(), strict=True)
        if word != NO_WORD
    )
    return math.log1p(WORTH_SCALE * total)


@pytest.mark.parametrize("seed", [3, 9])
def test_paths_through_attributes_are_those_of_the_plain_formula_also_behind_more_events(seed: int) -> None:
    graph, table = world(blocks(600, seed=seed))
    now = START_MS + 400_000
    bank = bank_of(graph, now)
    events = graph.window.events(graph.window.cut())
    candidate = np.unique(events.item).astype(np.int64)
    stage = Stage(
        graph.window, bank, candidate.astype(np.uint32), np.zeros((len(candidate), 4), np.float32),
        repeats=False, attributes=view_of(table, ITEM),
    )  # fmt: skip
    users = np.array([0, 5, 17, 33], np.uint32)

    def check(time_ms: int) -> None:
        times_ms = np.full(len(users), time_ms, np.int64)
        later = Later(np.zeros(0, np.uint32), np.zeros(0, np.int64), times_ms)
        popular = stage.popular(later, PRIOR_F)
        vectors = np.zeros((len(users), 4), np.float32)
        tasted = stage.parts(users, vectors, times_ms, graph.window.cut(), popular).tasted
        assert tasted is not None
        wanted = [
            [plain_path(graph, table, bank, user, item, time_ms) for item in candidate.tolist()]
            for user in users.tolist()
        ]
        assert np.allclose(tasted.paths_nC, wanted, rtol=1e-4, atol=1e-5)
        assert 0 < np.count_nonzero(wanted) < len(users) * len(candidate)

    check(now)
    bank.advance(now + 100_000)
    counted = (events.time_ms >= now) & (events.time_ms < now + 100_000)
    bank.add(events.item[counted], events.time_ms[counted])
    stage.follow(np.unique(events.item[counted]))
    check(now + 100_000)


def test_a_users_newest_items_count_with_what_was_said_of_them_since_the_moment() -> None:
    """Beside tastes of the later moment, of the same candidates: only the events since tell them apart."""
    graph, table = world(blocks(600, seed=8))
    candidate = np.unique(graph.window.events(graph.window.cut()).item).astype(np.int64)
    early = bank_of(graph, START_MS + 700_000)
    tastes = Tastes(view_of(table, ITEM), graph.window, early, candidate)
    grow(graph, table, [(900, 100, 0, 800_000), (900, 102, 0, 800_001)])  # both of block 0, and new
    user = graph.find(USER, Strings.of(["u900"])).astype(np.uint32)
    cut = graph.window.cut()

    def found(own: Tastes, after_ms: int) -> F32:
        return own.of(user, np.array([START_MS + after_ms]), cut).paths_nC

    late = Bank(graph.window.rows(ITEM), START_MS + 800_010)
    late.count_FR[:, : early.count_FR.shape[1]] = early.count_FR
    late.degree_R[: len(early.degree_R)] = early.degree_R
    wanted = found(Tastes(view_of(table, ITEM), graph.window, late, candidate), 800_010)
    assert wanted.any()
    assert np.allclose(found(tastes, 800_010), wanted, atol=1e-5)
    assert not found(tastes, 800_000).any()  # strictly before
    own_block = np.isin(candidate, item_rows(graph, *range(ITEMS // 2)))
    assert wanted[0, own_block].mean() > wanted[0, ~own_block].mean()
    grow(graph, table, [(901, 3, 0, 810_000)])  # of which nothing is said yet
    said = [Strings.of([text]) for text in said_of(0)]
    table.say(ITEM, Strings.of(["i3"]), said, np.array([START_MS + 820_000]))
    user, cut = graph.find(USER, Strings.of(["u901"])).astype(np.uint32), graph.window.cut()
    assert not found(tastes, 820_000).any()
    assert found(tastes, 820_001).any()


def test_paths_through_attributes_see_nothing_at_or_after_their_time() -> None:
    """Beside a window that ends there: later events of the user and of all others change no bit."""
    rows = blocks(600, seed=8)
    now = START_MS + rows[400][3]
    short, long = world(rows[:400]), world(rows)
    users = np.array([0, 1, 2, 3], np.uint32)
    found = []
    for graph, table in (short, long):
        ids = graph.names(USER, users, graph.moment())
        bank = bank_of(graph, now)
        events = graph.window.events(graph.window.cut())
        candidate = np.unique(events.item[events.time_ms < now]).astype(np.int64)
        times_ms = np.full(len(users), now, np.int64)
        tastes = Tastes(view_of(table, ITEM), graph.window, bank, candidate)
        found.append((ids, tastes.of(users, times_ms, graph.window.cut())))
    assert found[0][0] == found[1][0]
    assert found[0][1].paths_nC.any()
    assert np.array_equal(found[0][1].paths_nC, found[1][1].paths_nC)
    assert np.array_equal(found[0][1].taste_nC, found[1][1].taste_nC)


def test_an_item_without_events_is_as_popular_as_its_kin_and_one_with_many_is_not() -> None:
    rows = [(n % 30, 0, 0, 1_000 * n) for n in range(1, 200)] + [(40, 2, 0, 250_000), (41, 22, 0, 250_001)]
    graph, table = world(rows)
    bank = bank_of(graph, START_MS + 300_000)
    candidate = item_rows(graph, 0, 2, 22).astype(np.int64)
    kin = Tastes(view_of(table, ITEM), graph.window, bank, candidate).kin_C
    assert kin[1] > kin[2] + 1  # of the block of item 0
    assert kin[0] < kin[1] / 5  # its own events say it
    count = float(np.log1p(COUNT_SCALE * bank.count_FR[HALF_LIVES_H.index(168), candidate[2]]))
    assert 0 < kin[2] <= count * KIN_EVENTS / (KIN_EVENTS + 1) + 1e-6


def test_word_vectors_are_the_ridge_solution() -> None:
    graph, table = world(blocks(600, seed=4))
    rows = item_rows(graph, *range(ITEMS))
    rng = np.random.default_rng(0)
    vector: F32 = rng.normal(size=(len(rows), 5)).astype(np.float32)
    now = START_MS + 10_000_000
    view = view_of(table, ITEM)
    fitted = TokenVectors.fit(view, rows, vector, now)
    words = fitted.vocabulary.words(view.tokens(rows, now))
    share = shares_of(words, fitted.vocabulary.field_W)
    has = share.any(axis=1)
    design = np.zeros((int(has.sum()), len(fitted.words)))
    for n, (row, part) in enumerate(zip(words[has], share[has], strict=True)):
        for word, one in zip(row.tolist(), part.tolist(), strict=True):
            if word != NO_WORD:
                design[n, np.searchsorted(fitted.words, word)] += one
    target = vector[has] - vector[has].mean(0)
    wanted = np.linalg.solve(design.T @ design + RIDGE * np.eye(len(fitted.words)), design.T @ target)
    assert np.allclose(fitted.vector_KD, wanted, atol=1e-4)
    made, known = fitted.of(view, rows, now)
    assert known.tolist() == has.tolist()
    assert np.allclose(made[has], vector[has].mean(0) + design @ wanted, atol=1e-4)
    assert np.allclose(made[~has], vector[has].mean(0), atol=1e-5)


def fitted_world() -> tuple[Heterograph, Attributes, Trainer]:
    graph, table = world(blocks(3_000, seed=5))
    trainer = trainer_with(table)
    assert trainer.fit(graph.window, empty_cut(graph.window), graph.window.cut()).accepted
    return graph, table, trainer


def test_a_new_item_is_near_those_with_its_attributes_and_nearer_to_its_users_with_each_event() -> None:
    graph, table, trainer = fitted_world()
    grow(graph, table, [(0, 100, 0, 3_001_000), (0, 101, 0, 3_001_001)])  # 100 of block 0, 101 of block 1
    now, cut = START_MS + 3_002_000, graph.window.cut()
    rows = item_rows(graph, 100, 101)
    made = trainer.new_items(graph.window, rows, cut, now)
    other = trainer_with(None)
    other.load_state_dict(*trainer.state_dict())
    plain = other.new_items(graph.window, rows, cut, now)
    cold = trainer.cold
    assert cold.item_words is not None
    prior, _ = cold.item_words.of(view_of(table, ITEM), rows, now)
    share = PRIOR_EVENTS / (PRIOR_EVENTS + 1)
    wanted = plain + share * (prior - plain)
    assert np.allclose(made[:, :-1], wanted[:, :-1], atol=1e-6)
    users = trainer.embed_users(graph.window, np.arange(20, dtype=np.uint32), cut)[:, :-1]
    camps = graph.names(USER, np.arange(20, dtype=np.uint32), graph.moment())
    first = np.array([int(str(name)[1:]) < 30 for name in camps])
    liked = (users @ made[:, :-1].T)[first].mean(0)
    assert liked[0] > liked[1]  # users of block 0 like the new item of block 0, though one touched both


def test_a_user_without_events_but_with_attributes_is_like_its_camp() -> None:
    graph, table, trainer = fitted_world()
    table.say(USER, Strings.of(["u900"]), [Strings.of(["c0"])], np.array([5], np.int64))
    grow(graph, table, [(900, 0, 0, 3_100_000)])
    row = graph.find(USER, Strings.of(["u900"])).astype(np.uint32)
    before = np.array([START_MS + 3_100_000])
    made = trainer.embed_users(graph.window, row, graph.window.cut(), before)[0, :-1]
    items = trainer.embed(graph.window, graph.window.cut())
    own = np.isin(items.item_rows, item_rows(graph, *range(ITEMS // 2)))
    scores = items.item[:, :-1] @ made
    assert scores[own].mean() > scores[~own].mean()
    assert (trainer.embed_users(graph.window, row, graph.window.cut(), before)[0, -1]) == 1


def test_the_state_of_a_trainer_has_its_words() -> None:
    graph, table, trainer = fitted_world()
    other = trainer_with(table)
    other.load_state_dict(*trainer.state_dict())
    grow(graph, table, [(0, 100, 0, 3_001_000)])
    arguments = (graph.window, item_rows(graph, 100), graph.window.cut(), START_MS + 3_002_000)
    assert np.array_equal(other.new_items(*arguments), trainer.new_items(*arguments))
    assert not np.array_equal(
        ColdStart(table).items(np.zeros((1, 16), np.float32), *_of(arguments)),
        trainer.cold.items(np.zeros((1, 16), np.float32), *_of(arguments)),
    )


def _of(
    arguments: tuple[WindowView, U32, Cut, int],
) -> tuple[WindowView, Cut, U32, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    window, rows, cut, time_ms = arguments
    return window, cut, rows, np.array([time_ms])


def test_scores_lessons_and_lists_have_what_attributes_say_of_each_candidate() -> None:
    graph, table = world(blocks(600, seed=6))
    now = START_MS + 500_000
    bank = bank_of(graph, now)
    candidate = np.unique(graph.window.events(graph.window.cut()).item)
    vectors = np.zeros((len(candidate), 16), np.float32)
    view = view_of(table, ITEM)
    stage = Stage(graph.window, bank, candidate, vectors, repeats=False, attributes=view)
    tastes = Tastes(view, graph.window, bank, candidate.astype(np.int64))
    users, times = np.array([1, 2], np.uint32), np.full(2, now, np.int64)
    weight = np.zeros(len(FEATURES))
    weight[TASTE], weight[KIN], weight[ATTRIBUTE_PATHS] = 0.5, 2.0, 1.5
    later = Later(np.zeros(0, np.uint32), np.zeros(0, np.int64), times)
    parts = stage.parts(
        users, np.zeros((2, 16), np.float32), times, graph.window.cut(), stage.popular(later, weight)
    )
    tasted = tastes.of(users, times, graph.window.cut())
    wanted = 0.5 * tasted.taste_nC + 2.0 * tastes.kin_C + 1.5 * tasted.paths_nC
    scores = parts.scores(weight)
    assert np.allclose(scores, wanted, atol=1e-5)
    column = np.array([3, 4])
    excluded = np.zeros(scores.shape, np.bool_)
    features, counts, target = stage.lessons(parts, scores, excluded, column, later)
    first = features[: counts[0]]
    assert first[target[0], TASTE] == pytest.approx(float(tasted.taste_nC[0, 3]))
    assert first[target[0], KIN] == pytest.approx(float(tastes.kin_C[3]))
    assert first[target[0], ATTRIBUTE_PATHS] == pytest.approx(float(tasted.paths_nC[0, 3]))
    by_part = by_part_of(parts, weight)
    assert np.array_equal(by_part["attribute_paths"], np.float32(1.5) * tasted.paths_nC)
    assert np.allclose(sum(by_part.values()), scores, atol=1e-5)
    nobody = np.zeros(len(candidate), np.bool_)
    asked = Wanted(users, np.zeros((2, 16), np.float32), times, nobody, np.zeros(3, np.int64), column[:0])
    lists = stage.best(asked, graph.window.cut(), stage.popular(later, weight), weight, 5)
    assert np.array_equal(candidate[lists.rows], best_of(scores, excluded, candidate.astype(np.int64), 5)[0])
    assert np.array_equal(lists.score.astype(np.float32), np.sort(scores, axis=1)[:, :-6:-1])


def test_a_new_item_is_in_the_lists_of_those_with_its_taste_at_the_refresh_after_its_first_event() -> None:
    graph, table, trainer = fitted_world()
    view, moment = graph.window, graph.moment()
    served = trainer.embed(view, moment.cut)

    def new_items(rows: U32, cut: Cut, time_ms: int) -> F32:
        return trainer.new_items(view, rows, cut, time_ms)

    weight = PRIOR_F.copy()
    weight[TASTE] = 1.0
    lists = ScoredLists(
        view, moment, (served.item_rows, served.item), weight, ListLengths(lists=ITEMS + 2), new_items,
        trainer.cold.item_attributes,
    )  # fmt: skip
    grow(graph, table, [(3, 100, 0, 3_001_000), (3, 101, 0, 3_001_000)])
    user, now = graph.find(USER, Strings.of(["u1"])).astype(np.uint32), np.array([START_MS + 3_002_000])
    vectors = trainer.embed_users(view, user, graph.moment().cut, now)
    nothing = np.zeros(0, np.uint32)
    best = lists.of(AskedUsers(user, vectors, now, graph.moment(), nothing, np.array([0, 0])))
    listed = best.rows[0, : best.lengths[0]].tolist()
    places = [listed.index(row) for row in item_rows(graph, 100, 101).tolist()]
    assert places[0] < places[1]  # of the user's own block first


def test_an_evaluation_knows_the_attributes_of_an_item_that_is_new_in_its_interval() -> None:
    """The first target comes before the new item does, the last one long after: its list has the item."""
    graph, table, trainer = fitted_world()
    since, first_ms = graph.window.cut(), 3_001_000
    rows = [(40, 1, 0, first_ms), (41, 2, 0, first_ms + 1)]  # users of one block, items of the other
    rows += [(3, 100, 0, first_ms + 100_000), (4, 100, 0, first_ms + 500_000)]
    grow(graph, table, rows)
    cut = graph.window.cut()
    found = trainer.evaluate(graph.window, since, cut)
    assert found.event_count == 4
    own = found.lessons.bounds_N1[-2] + found.lessons.target_N[-1]
    assert found.lessons.target_N[-1] >= 0
    assert found.lessons.feature_PF[own, ATTRIBUTE_PATHS] > 0


def test_the_moments_of_an_evaluation() -> None:
    rng = np.random.default_rng(0)
    time_ms = np.sort(rng.integers(0, 10_000, 500))
    for size, moments in ((7, 64), (500, 64), (100, 1)):
        parts = list(_chunks(time_ms, size, moments))
        assert np.array_equal(np.concatenate([np.arange(500)[part] for part in parts]), np.arange(500))
        longest_ms = max(time_ms[part][-1] - time_ms[part][0] for part in parts)
        assert longest_ms <= (time_ms[-1] - time_ms[0]) / moments
        assert max(part.stop - part.start for part in parts) <= size
    assert [part.start for part in _chunks(time_ms, 100, 1)] == [0, 100, 200, 300, 400]
    assert list(_chunks(time_ms[:0], 100, 64)) == []


def test_without_attributes_nothing_changes() -> None:
    graph, _, _ = fitted_world()
    plain = trainer_with(None)
    assert plain.fit(graph.window, empty_cut(graph.window), graph.window.cut()).accepted
    made = np.ones((1, 16), np.float32)
    now = np.array([START_MS])
    cut, row = graph.window.cut(), np.zeros(1, np.uint32)
    assert plain.cold.items(made, graph.window, cut, row, now) is made
    assert plain.cold.users(made, graph.window, cut, row, now) is made
