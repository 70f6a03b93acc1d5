"""Items and users of a catalog who have no event: vectors, lists, and what an evaluation says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from driftgraph.model.evaluation.evaluate import Evaluation
from driftgraph.model.options import ListLengths
from driftgraph.model.score.lists import AskedUsers
from driftgraph.model.score.ranking import NEW_BIAS
from driftgraph.model.score.scored_lists import ScoredLists
from driftgraph.model.score.scorer import PRIOR_F, TASTE
from driftgraph.model.trainer import Trainer
from driftgraph.stream.arrays import F32, U32
from driftgraph.stream.attributes.attributes import ALWAYS_MS, Attributes
from driftgraph.stream.events import EventBatch, Strings
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Cut
from tests.model.attributes.test_attributes import (
    FIELDS,
    ITEMS,
    block_of,
    item_rows,
    said_of,
    trainer_with,
    view_of,
)
from tests.model_worlds import RELATIONS, START_MS, Row, blocks, empty_cut

CATALOG = replace(FIELDS, in_files=(True, True), cold_max=8)
COLD = (200, 201, 202, 203)  # items of block 0, 1, 0, 1
NOTHING = np.zeros(0, np.uint32)


def say_items(table: Attributes, items: tuple[int, ...]) -> None:
    columns = [Strings.of(column) for column in zip(*map(said_of, items), strict=True)]
    table.say(ITEM, Strings.of([f"i{n}" for n in items]), columns, np.full(len(items), ALWAYS_MS, np.int64))
    table.hold()


def say_users(table: Attributes, users: tuple[int, ...]) -> None:
    camps = Strings.of([f"c{user >= 30 and user < 900:d}" for user in users])
    table.say(USER, Strings.of([f"u{n}" for n in users]), [camps], np.full(len(users), ALWAYS_MS, np.int64))
    table.hold()


def add(graph: Heterograph, table: Attributes, rows: list[Row]) -> None:
    users, items, relations, times = zip(*rows, strict=True)
    batch = EventBatch(
        Strings.of([f"u{n}" for n in users]),
        Strings.of([f"i{n}" for n in items]),
        np.array(relations, np.uint8),
        np.array(times, np.int64) + START_MS,
    )
    graph.apply(batch)
    table.apply(batch)
    graph.expire(int(batch.time_ms.max()))


def fitted_catalog() -> tuple[Heterograph, Attributes, Trainer]:
    graph = Heterograph.create(None, RELATIONS, user_rows=512, item_rows=512)
    table = Attributes(None, CATALOG, graph)
    say_items(table, (*range(ITEMS), *COLD))
    say_users(table, (*range(60), 900))
    add(graph, table, list(blocks(3_000, seed=5)))
    table.hold()
    trainer = trainer_with(table)
    assert trainer.fit(graph.window, empty_cut(graph.window), graph.window.cut()).accepted
    return graph, table, trainer


def lists_of(
    graph: Heterograph, trainer: Trainer, items: tuple[U32, F32] | None = None, taste: float = 1.0
) -> ScoredLists:
    view, moment = graph.window, graph.moment()
    served = trainer.embed(view, moment.cut)
    weight = PRIOR_F.copy()
    weight[TASTE] = taste

    def new_items(rows: U32, cut: Cut, time_ms: int) -> F32:
        return trainer.new_items(view, rows, cut, time_ms)

    return ScoredLists(
        view, moment, items or (served.item_rows, served.item), weight, ListLengths(lists=ITEMS + 8),
        new_items, trainer.cold.item_attributes,
    )  # fmt: skip


def listed(graph: Heterograph, trainer: Trainer, lists: ScoredLists, user: str) -> list[str]:
    row = graph.find(USER, Strings.of([user])).astype(np.uint32)
    moment, now = graph.moment(), np.array([START_MS + 4_000_000])
    vectors = trainer.embed_users(graph.window, row, moment.cut, now)
    best = lists.of(AskedUsers(row, vectors, now, moment, NOTHING, np.array([0, 0])))
    return [str(name) for name in graph.names(ITEM, best.rows[0, : best.lengths[0]], moment)]


def test_what_has_attributes_and_no_event_is_published_with_the_vector_of_its_words() -> None:
    graph, table, trainer = fitted_catalog()
    served = trainer.embed(graph.window, graph.window.cut())
    rows, now = item_rows(graph, *COLD), START_MS + 3_001_000
    at = np.searchsorted(served.item_rows, rows)
    assert served.item_rows[at].tolist() == rows.tolist()
    assert served.item_event_ms[at].tolist() == [0] * 4
    assert trainer.cold.item_words is not None
    assert trainer.cold.user_words is not None
    words, _ = trainer.cold.item_words.of(view_of(table, ITEM), rows, now)
    assert np.allclose(served.item[at][:, :-1], words[:, :-1], atol=1e-6)
    live = served.item_event_ms > 0
    assert np.allclose(served.item[at][:, -1], np.quantile(served.item[live, -1], NEW_BIAS))
    user = graph.find(USER, Strings.of(["u900"])).astype(np.uint32)
    theirs, _ = trainer.cold.user_words.of(view_of(table, USER), user, now)
    found = served.user[np.searchsorted(served.user_rows, user)]
    assert np.allclose(found[:, :-1], theirs[:, :-1], atol=1e-6)
    assert (np.diff(served.item_rows.astype(np.int64)) > 0).all()
    assert trainer.serving is not None
    assert np.isin(rows, trainer.serving.item_rows).all()


def test_lists_have_such_items_by_taste_and_such_users_have_lists() -> None:
    graph, _, trainer = fitted_catalog()
    lists = lists_of(graph, trainer)
    own = listed(graph, trainer, lists, "u1")
    assert own.index("i200") < own.index("i201")
    stranger = listed(graph, trainer, lists, "u900")
    assert {f"i{n}" for n in (*range(ITEMS), *COLD)} == set(stranger)
    block = [int(name[1:]) // 20 for name in stranger if int(name[1:]) < ITEMS]
    assert sum(block[:10]) < 5  # of its camp's block, by its words alone


def test_a_refresh_takes_up_items_that_were_said_of_since_without_an_event() -> None:
    graph, table, trainer = fitted_catalog()
    lists = lists_of(graph, trainer)
    say_items(table, (300, 301))
    found = listed(graph, trainer, lists, "u1")
    assert found.index("i300") < found.index("i301")


def test_lists_of_an_older_publish_take_up_what_came_since() -> None:
    """As a worker does that was started again: items of the saved state, and a window that went on."""
    graph, table, trainer = fitted_catalog()
    moment = graph.moment()
    add(graph, table, [(3, 100, 0, 3_001_000)])
    found = listed(
        graph, trainer, lists_of(graph, trainer, trainer.served_items(moment.versions[ITEM])), "u1"
    )
    assert "i100" in found
    assert "i200" in found


def test_an_item_with_its_first_event_is_more_than_its_words() -> None:
    graph, table, trainer = fitted_catalog()
    lists = lists_of(graph, trainer)
    before = lists._item_CD[lists._stage.place_of(item_rows(graph, 200))[0]].copy()
    add(graph, table, [(3, 200, 0, 3_001_000)])
    listed(graph, trainer, lists, "u1")
    after = lists._item_CD[lists._stage.place_of(item_rows(graph, 200))[0]]
    made = trainer.new_items(graph.window, item_rows(graph, 200), graph.window.cut(), START_MS + 3_001_001)
    assert np.allclose(after[:-1], made[0, :-1], atol=1e-6)
    assert not np.allclose(before, after, atol=1e-4)


def test_an_item_without_an_event_has_the_nearest_ones_by_vectors_as_similar_ones() -> None:
    """The plainest ranking by cosine, beside it; of its own words come first. Others keep their paths."""
    graph, table, trainer = fitted_catalog()
    say_items(table, (300,))
    lists = lists_of(graph, trainer)
    items = item_rows(graph, 200, 1, 300)
    [best] = lists.similar(items)
    length = ListLengths().similar
    for n in (0, 2):
        own = lists._item_CD[lists._stage.place_of(items[n : n + 1])[0], :-1]
        others = [(row, one[:-1]) for row, one in zip(lists._rows, lists._item_CD, strict=True)]
        cosine = {
            int(row): float(one @ own / np.linalg.norm(one) / np.linalg.norm(own)) for row, one in others
        }
        del cosine[int(items[n])]
        ranked = sorted(cosine, key=lambda row: -cosine[row])[:length]
        assert best.lengths[n] == len(ranked) == min(length, len(lists._rows) - 1)
        np.testing.assert_allclose(best.score[n, : len(ranked)], [cosine[row] for row in ranked], atol=1e-5)
        names = graph.names(ITEM, best.rows[n, :10], graph.moment())
        assert f"i{items[n]}" not in names
        near = [int(str(name)[1:]) for name in names]
        assert sum(block_of(one) == block_of((200, 0, 300)[n]) for one in near) >= 8, near
    by_paths = lists_of(graph, trainer)
    assert np.array_equal(next(by_paths.similar(items[1:2])).rows[0], best.rows[1])
    assert best.score[1, 0] > 1, "weights of paths, not cosines"


def test_a_list_by_vectors_has_no_item_whose_row_has_another_owner() -> None:
    graph, _, trainer = fitted_catalog()
    lists = lists_of(graph, trainer)
    item = item_rows(graph, 200)
    [before] = lists.similar(item)
    nearest = before.rows[0, 0]
    graph.window.recycle(ITEM, np.array([nearest], np.uint32))
    graph.window.recycle(ITEM, np.array([nearest], np.uint32))
    [after] = lists.similar(item)
    assert after.rows[0, : after.lengths[0]].tolist() == before.rows[0, 1 : before.lengths[0]].tolist()


def evaluated(graph: Heterograph, table: Attributes, trainer: Trainer, rows: list[Row]) -> Evaluation:
    since = graph.window.cut()
    add(graph, table, rows)
    return trainer.evaluate(graph.window, since, graph.window.cut())


def test_an_evaluation_ranks_an_untouched_item_of_a_catalog_and_misses_any_other() -> None:
    graph, table, trainer = fitted_catalog()
    rows = [(1, 200, 0, 3_001_000), (2, 200, 0, 3_002_000), (1, 100, 0, 3_003_000), (2, 100, 0, 3_004_000)]
    found = evaluated(graph, table, trainer, rows)
    assert found.event_count == 4
    assert found.new_item_share == 0.25  # i100 with its first event
    assert (found.counts["untouched_items"], found.counts["new_items"]) == (2, 2)
    assert found.candidate_count == ITEMS + len(COLD) + 1
    assert found.slices["untouched_items"]["taste"]["recall_at_20"] == 0.5
    assert found.slices["untouched_items"]["recent_popularity"]["recall_at_20"] <= 0.5


def test_without_a_catalog_an_item_without_an_event_is_nothing() -> None:
    graph, _, trainer = fitted_catalog()
    plain = trainer_with(None)
    assert plain.fit(graph.window, empty_cut(graph.window), graph.window.cut()).accepted
    served = plain.embed(graph.window, graph.window.cut())
    assert not np.isin(item_rows(graph, *COLD), served.item_rows).any()
    assert trainer.model_version == plain.model_version
