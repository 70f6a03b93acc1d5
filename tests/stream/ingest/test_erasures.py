"""Erasure: what is dropped, what is on the disk and when, what a crash costs, and whose a dead letter is."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.app.config.settings import Settings
from driftgraph.app.live.loop.backpressure import Backpressure
from driftgraph.app.training.erase_pending import erase_letters, users_of
from driftgraph.snapshots import erasures as erasures_module
from driftgraph.snapshots.erasures import (
    ENTRY,
    HELD,
    LETTERS,
    REDIS,
    DurableErasures,
    ErasureError,
    ErasureList,
    PendingErasures,
)
from driftgraph.snapshots.generations.keys import StaleWorkerError
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream import safe_queue
from driftgraph.stream.dead_letters.files import FileDeadLetters, FileLetterBox
from driftgraph.stream.dead_letters.letters import MemoryDeadLetters
from driftgraph.stream.dead_letters.outgoing import KeptLetters, Outbox
from driftgraph.stream.dead_letters.topic import KafkaDeadLetters, TopicLetterBox
from driftgraph.stream.events import Decoded, Erasure, EventBatch, Rejected, Strings
from driftgraph.stream.formats.arrow_stream import ArrowStream
from driftgraph.stream.formats.canonical_json import CanonicalJson
from driftgraph.stream.formats.event_rules import Behaviors, EventRules, RowOrigin, Rows
from driftgraph.stream.ingest.erased_users import SLOTS_MIN, ErasedUsers, siphash
from driftgraph.stream.ingest.erasures import MemoryErasures, key_users
from driftgraph.stream.ingest.fit_schedule import FitSchedule
from driftgraph.stream.ingest.ingest import Ingest
from driftgraph.stream.kafka.causes import Property
from driftgraph.stream.time.clock import ManualClock, TimeRules
from driftgraph.stream.time.watermark import Watermark, WatermarkRules
from driftgraph.stream.window.adjacency import ITEM, USER
from driftgraph.stream.window.heterograph import Heterograph
from driftgraph.stream.window.writer import Relation
from tests.kafka_brokers import mock_kafka
from tests.services_redis import NAMESPACE, keys_by_scan, publish
from tests.stream.dead_letters.test_outgoing import Source
from tests.waits import until

START_MS = 1_700_000_000_000
RELATIONS = (Relation("click", 60_000, 1 << 10), Relation("buy", 60_000, 1 << 10))
RULES = WatermarkRules(
    out_of_orderness_ms=100, allowed_lateness_ms=60_000, idle_timeout_ms=None, future_skew_ms=None
)
KEY = bytes(range(16))
NO_LETTERS = (0, 0)


def users_with(**reach_ms: int) -> ErasedUsers:
    users = ErasedUsers(KEY)
    users.add(users.hashes(Strings.of(reach_ms)), np.array([(ms, ms) for ms in reach_ms.values()]))
    return users


# --- the hash and the table ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (0, "a3817f04ba25a8e66df67214c7550293"),
        (1, "da87c1d86b99af44347659119b22fc45"),
        (15, "5493e99933b0a8117e08ec0f97cfc3d9"),
    ],
)
def test_the_hash_is_that_of_the_authors_test_vectors(size: int, digest: str) -> None:
    low, high = np.frombuffer(KEY, "<u8")
    halves = siphash(np.arange(16, dtype=np.uint8), 0, size, low, high)
    assert b"".join(int(half).to_bytes(8, "little") for half in halves).hex() == digest


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), max_size=400))
def test_the_table_agrees_with_a_dict_while_it_grows(asked: list[tuple[int, int]]) -> None:
    users, plain = ErasedUsers(KEY), dict[str, int]()
    for number, reach_ms in asked:
        name = f"u{number}"
        assert users.times_ms(Strings.of([name])).tolist() == [[plain.get(name, 0) // 2, plain.get(name, 0)]]
        users.add(users.hashes(Strings.of([name])), np.array([[reach_ms // 2, reach_ms]]))
        plain[name] = max(plain.get(name, 0), reach_ms)
    names = [f"u{number}" for number in range(301)]
    assert users.reach_ms(Strings.of(names)).tolist() == [plain.get(name, 0) for name in names]
    assert len(users) == len(plain)


def test_it_outgrows_its_first_table() -> None:
    names = [f"u{n}" for n in range(3 * SLOTS_MIN)]
    users = users_with(**{name: n + 1 for n, name in enumerate(names)})
    assert users.reach_ms(Strings.of([*names, "x"])).tolist() == [*range(1, len(names) + 1), 0]


# --- ingestion -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """An event, or with ``asks`` a request to erase; ``time_ms`` 0 there is a request without a time."""

    user: int
    item: int
    time_ms: int
    event_id: str = ""
    asks: bool = False


ACTS = st.builds(
    Act,
    user=st.integers(0, 3),
    item=st.integers(0, 4),
    time_ms=st.integers(1, 40),
    event_id=st.sampled_from(["", "", "a", "b"]),
    asks=st.sampled_from([False, False, False, True]),
) | st.builds(Act, user=st.integers(0, 3), item=st.just(0), time_ms=st.just(0), asks=st.just(True))


def ingest_of(users: ErasedUsers | None = None) -> Ingest:
    graph = Heterograph.create(None, RELATIONS, user_rows=64, item_rows=64)
    watermark = Watermark(RULES, ManualClock(START_MS))
    return Ingest(graph, watermark, MemoryDeadLetters(), FitSchedule(1 << 62), erasures=MemoryErasures(users))


def decoded_of(acts: Sequence[Act]) -> Decoded:
    events = [act for act in acts if not act.asks]
    places = np.cumsum([0, *(not act.asks for act in acts)]).tolist()
    return Decoded(
        EventBatch(
            Strings.of(f"u{e.user}" for e in events),
            Strings.of(f"i{e.item}" for e in events),
            np.array([e.item % 2 for e in events], np.uint8),
            np.array([START_MS + e.time_ms for e in events], np.int64),
            np.zeros(len(events), np.int32),
            Strings.of(e.event_id for e in events),
        ),
        erased=tuple(
            Erasure(f"u{act.user}", place, START_MS + act.time_ms if act.time_ms else None)
            for act, place in zip(acts, places, strict=False)
            if act.asks
        ),
    )


def window_of(ingest: Ingest) -> list[tuple[str, str, int]]:
    moment = ingest.graph.moment()
    events = ingest.graph.window.events(moment.cut)
    users = ingest.graph.names(USER, events.user, moment)
    items = ingest.graph.names(ITEM, events.item, moment)
    assert None not in users
    return sorted(zip(map(str, users), map(str, items), events.time_ms.tolist(), strict=True))


def plainly(acts: Sequence[Act]) -> tuple[list[tuple[str, str, int]], dict[str, int]]:
    """One act after the other, in a list and a dict."""
    kept, reach, asked, seen, newest = list[Act](), dict[int, int](), dict[int, int](), set[str](), 0
    counts = {"applied": 0, "forgotten": 0, "duplicate": 0, "erased": 0}
    for act in acts:
        if act.asks:
            counts["erased"] += 1
            if asked.get(act.user, -2) < (time_ms := act.time_ms or newest or -1):
                gone = [one.time_ms for one in kept if one.user == act.user]
                kept = [one for one in kept if one.user != act.user]
                asked[act.user] = time_ms
                reach[act.user] = max([time_ms, *gone, reach.get(act.user, -2)])
            continue
        newest = max(newest, act.time_ms)
        repeated = act.event_id in seen
        seen |= {act.event_id} - {""}
        if act.time_ms <= reach.get(act.user, 0):
            counts["forgotten"] += 1
        elif repeated:
            counts["duplicate"] += 1
        else:
            counts["applied"] += 1
            kept.append(act)
    return sorted((f"u{e.user}", f"i{e.item}", START_MS + e.time_ms) for e in kept), counts


@example(acts=[Act(0, 1, 9), Act(0, 0, 0, asks=True), Act(0, 2, 9), Act(0, 3, 10)], sizes=[1])
@example(acts=[Act(0, 1, 30, "a"), Act(0, 0, 5, asks=True), Act(0, 2, 6, "a"), Act(0, 3, 6)], sizes=[2])
@given(st.lists(ACTS, max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_ingestion_with_erasures_agrees_with_the_plainest_way(acts: list[Act], sizes: list[int]) -> None:
    """However the stream is cut; and again with the list known from the start, as after a restart."""
    window, counts = plainly(acts)
    parts, at = list[list[Act]](), 0
    while at < len(acts):
        parts.append(acts[at : at + sizes[len(parts) % len(sizes)]])
        at += len(parts[-1])
    known: ErasedUsers | None = None
    for batches in ([acts], [[act] for act in acts], parts):
        ingest = ingest_of()
        for batch in batches:
            assert list(ingest.take(decoded_of(batch))) == []
        assert window_of(ingest) == window
        found = ingest.counts
        assert {name: getattr(found, name) for name in counts} == counts
        assert found.read == len(acts) == sum(counts.values())
        known = ingest.erasures.users  # type: ignore[attr-defined]
    again = ingest_of(known)
    for batch in parts:
        assert list(again.take(decoded_of(batch))) == []
    assert window_of(again) == window


def test_a_copy_of_a_request_takes_nothing_from_who_is_back() -> None:
    """It is in every partition, and read again after a crash."""
    ingest = ingest_of()
    asks = Act(0, 0, 9, asks=True)
    for acts in ([Act(0, 1, 5), asks], [Act(0, 2, 12), asks], [asks, Act(0, 3, 13), Act(0, 4, 9)]):
        assert list(ingest.take(decoded_of(acts))) == []
    assert window_of(ingest) == [("u0", "i2", START_MS + 12), ("u0", "i3", START_MS + 13)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("size", [1, 9])
def test_a_request_without_a_time_takes_that_of_its_partition_in_whatever_order_partitions_are_read(
    first: int, size: int
) -> None:
    """It stands in both. The user is back at 12 in the first; the second has it behind an event of 10."""
    parts = [
        [Act(0, 1, 5), Act(0, 0, 0, asks=True), Act(0, 2, 12)],
        [Act(1, 1, 10), Act(0, 0, 0, asks=True), Act(2, 1, 50)],
    ]
    ingest = ingest_of()
    for partition in (first, 1 - first):
        for at in range(0, 3, size):
            decoded = decoded_of(parts[partition][at : at + size])
            batch = replace(decoded.batch, partition=np.full(len(decoded.batch), partition, np.int32))
            erased = tuple(replace(one, partition=partition) for one in decoded.erased)
            assert list(ingest.take(replace(decoded, batch=batch, erased=erased))) == []
    names = [user for user, _, _ in window_of(ingest)]
    asked = ingest.erasures.users.times_ms(Strings.of(["u0"]))[0, 0]  # type: ignore[attr-defined]
    assert (names, asked) == (["u0", "u1", "u2"], START_MS + 10)
    assert reach_of(ingest.erasures.users, "u0") == [START_MS + 10]  # type: ignore[attr-defined]


def test_the_partition_of_a_request_comes_from_its_record() -> None:
    rules = EventRules(Behaviors(["click"]), TimeRules(ManualClock(START_MS)))
    rows = Rows(
        [b'{"user_id":"u","behavior":"$erase"}', None],
        lambda _: RowOrigin("t[7]@0", b"u", (), None),
        np.array([7, 9], np.int32),
    )
    for decoder in (CanonicalJson(rules), ArrowStream(rules)):
        assert [one.partition for one in decoder.decode(rows).erased][-1] == 9
    assert [one.partition for one in CanonicalJson(rules).decode(rows).erased] == [7, 9]


def test_a_request_reaches_what_it_erased_though_that_was_newer() -> None:
    """A clock of the site goes wrong; a crash must not bring back what was gone."""
    ingest = ingest_of()
    assert list(ingest.take(decoded_of([Act(0, 1, 30), Act(0, 0, 9, asks=True)]))) == []
    assert list(ingest.take(decoded_of([Act(0, 1, 30)]))) == []
    assert window_of(ingest) == []
    assert ingest.counts.forgotten == 1


def test_who_is_back_and_asks_again_is_erased_though_the_first_request_reached_further() -> None:
    ingest = ingest_of()
    acts = [Act(0, 1, 30), Act(0, 0, 9, asks=True), Act(0, 2, 35), Act(0, 0, 20, asks=True)]
    assert list(ingest.take(decoded_of(acts))) == []
    assert window_of(ingest) == []
    assert list(ingest.take(decoded_of([Act(0, 2, 35), Act(0, 3, 36)]))) == []
    assert window_of(ingest) == [("u0", "i3", START_MS + 36)]


def test_a_late_or_bad_event_of_an_erased_user_is_no_dead_letter() -> None:
    ingest = ingest_of(users_with(u1=START_MS + 100_000))
    ingest.watermark.observe(np.zeros(1, np.int32), np.array([START_MS + 200_000], np.int64))
    bad = Rejected("bad_id", "", b"", "t[0]@1", key=b"u1", timestamp_ms=START_MS + 100_000)
    new = replace(bad, timestamp_ms=START_MS + 100_001)
    decoded = decoded_of([Act(1, 1, 5), Act(2, 1, 5)])
    assert list(ingest.take(replace(decoded, rejected=(bad, new, replace(bad, key=b"u2"))))) == []
    letters = ingest.dead_letters
    assert isinstance(letters, MemoryDeadLetters)
    assert [(one.reason, one.key, one.timestamp_ms) for one in letters.letters] == [
        ("bad_id", b"u1", START_MS + 100_001),
        ("bad_id", b"u2", START_MS + 100_000),
        ("late", b"u2", START_MS + 5),
    ]
    counts = ingest.counts
    assert (counts.forgotten, counts.late, counts.rejected, counts.read) == (1, 1, 3, 5)


# --- the list on the disk ------------------------------------------------------------------------------


def listed(folder: Path, **reach_ms: int) -> None:
    """Append to the list of a folder."""
    file = ErasureList(folder)
    hashes = file.load().hashes(Strings.of(reach_ms))
    file.append(hashes, np.array([(ms, ms) for ms in reach_ms.values()]))


def reach_of(users: ErasedUsers, *names: str) -> list[int]:
    return [int(reach_ms) for reach_ms in users.reach_ms(Strings.of(names))]


def test_a_list_cut_off_anywhere_loses_only_the_entry_it_was_cut_in(tmp_path: Path) -> None:
    listed(tmp_path, ann=1, bob=2, cy=3)
    whole = (tmp_path / "list").read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / "list").write_bytes(whole[:cut])
        count = cut // ENTRY.itemsize
        wanted = [n + 1 if n < count else 0 for n in range(3)]
        read = ErasureList(tmp_path).read()
        assert read is not None
        assert reach_of(read, "ann", "bob", "cy") == wanted
        assert (tmp_path / "list").read_bytes() == whole[:cut], "a reader changed it"
        assert reach_of(ErasureList(tmp_path).load(), "ann", "bob", "cy") == wanted
        listed(tmp_path, dan=9)
        assert reach_of(ErasureList(tmp_path).load(), "dan") == [9], f"cut at {cut}"


def test_a_wrong_entry_with_good_ones_behind_it_stops_with_its_byte(tmp_path: Path) -> None:
    listed(tmp_path, ann=1, bob=2, cy=3)
    data = bytearray((tmp_path / "list").read_bytes())
    data[ENTRY.itemsize + 3] ^= 1
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(ErasureError, match=f"damaged at byte {ENTRY.itemsize}"):
        ErasureList(tmp_path).load()


def test_a_list_without_its_key_stops(tmp_path: Path) -> None:
    listed(tmp_path, ann=1)
    (tmp_path / "key").unlink()
    for act in (ErasureList(tmp_path).load, ErasureList(tmp_path).read):
        with pytest.raises(ErasureError, match="key is missing or damaged"):
            act()


def test_a_start_keeps_each_user_once_with_the_newest_time(tmp_path: Path) -> None:
    listed(tmp_path, ann=5, bob=1)
    listed(tmp_path, ann=3)
    listed(tmp_path, ann=9)
    assert reach_of(ErasureList(tmp_path).load(), "ann", "bob") == [9, 1]
    assert (tmp_path / "list").stat().st_size == 2 * ENTRY.itemsize
    assert reach_of(ErasureList(tmp_path).load(), "ann", "bob") == [9, 1]


# --- making requests safe ------------------------------------------------------------------------------


@contextmanager
def opened(folder: Path, letters: list[int] | None = None) -> Iterator[DurableErasures]:
    counts = letters or [0, 0]
    found = DurableErasures(folder, key_users, lambda: (counts[0], counts[1]))
    try:
        yield found
    finally:
        found.close()


def ask(erasures: DurableErasures, *users: str, time_ms: int = 50) -> list[bool]:
    """As ingestion does; which requests were known."""
    known = []
    for user in users:
        known.append(erasures.knows(user, time_ms))
        if not known[-1]:
            erasures.put(user, time_ms, time_ms)
    return known


def test_a_request_is_noted_handed_on_and_known_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as erasures:
        assert ask(erasures, "ann", "bob", "ann") == [False, False, True]
        until(lambda: erasures.queue.safe_count == 2)
        assert (erasures.queue.put_count, erasures.status()["users"]) == (2, 2)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    names = [users for _, users in PendingErasures(tmp_path).waiting(REDIS)]
    assert [user for batch in names for user in batch] == ["ann", "bob"]
    for path, _ in PendingErasures(tmp_path).waiting(REDIS):
        path.unlink()
    with opened(tmp_path) as erasures:
        assert ask(erasures, "ann") == [True]
        assert ask(erasures, "ann", time_ms=49) == [True], "it reaches no further"
        assert ask(erasures, "ann", time_ms=51) == [False]
        until(lambda: erasures.queue.safe_count == 1)
        assert reach_of(erasures.users, "ann") == [51]
        assert [users for _, users in PendingErasures(tmp_path).waiting(REDIS)] == [["ann"]]
    assert b"ann" not in (tmp_path / "list").read_bytes()


def test_letters_are_looked_for_once_those_of_before_the_request_are_in_their_place(tmp_path: Path) -> None:
    letters, pending = [7, 6], PendingErasures(tmp_path)
    with opened(tmp_path, letters) as erasures:
        ask(erasures, "ann")
        until(lambda: erasures.queue.safe_count == 1)
        time.sleep(0.2)
        assert pending.waiting(LETTERS) == []
        letters[1] = 7
        until(lambda: [users for _, users in pending.waiting(LETTERS)] == [["ann"]])
        letters[0] = 8
        ask(erasures, "bob")
        until(lambda: erasures.queue.safe_count == 2)
    assert len(list(tmp_path.glob(f"*{HELD}"))) == 1
    with opened(tmp_path):  # whose outbox is empty
        assert [users for _, users in pending.waiting(LETTERS)] == [["ann"], ["bob"]]


def test_letters_that_cannot_be_released_are_tried_again_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread lives on: the next request is noted, too."""
    refuses, release = [True], PendingErasures.release

    def refusing(self: PendingErasures, held: Path) -> None:
        if refuses[0]:
            raise OSError("read-only for a while")
        release(self, held)

    monkeypatch.setattr(PendingErasures, "release", refusing)
    with opened(tmp_path) as erasures:
        ask(erasures, "ann")
        until(lambda: erasures.status()["failure"] == "read-only for a while")
        ask(erasures, "bob")
        until(lambda: erasures.queue.safe_count == 2)
        refuses[0] = False
        until(lambda: len(PendingErasures(tmp_path).waiting(LETTERS)) == 2)
        until(lambda: erasures.status()["failure"] is None)


def test_a_part_of_an_entry_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    listed(tmp_path, ann=1)
    file = ErasureList(tmp_path)
    users = file.load()
    with (tmp_path / "list").open("ab") as broken:
        broken.write(b"half of one")
    file.append(users.hashes(Strings.of(["bob"])), np.array([[2, 2]]))
    assert reach_of(ErasureList(tmp_path).load(), "ann", "bob") == [1, 2]


def test_a_disk_that_refuses_holds_the_position_back_and_loses_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list cannot be written: nothing passes, ingestion goes on; a moment later it can."""
    monkeypatch.setattr(safe_queue, "RETRY_S", (0.02,))
    monkeypatch.setattr(erasures_module, "WAITING_MAX", 3)
    source = Source()
    place = FileDeadLetters(tmp_path / "letters")
    box = Outbox(place, KeptLetters(tmp_path / "letters"))
    with opened(tmp_path / "erasures") as erasures:
        backpressure = Backpressure(source, [box.queue, erasures.queue])
        (tmp_path / "erasures" / "list").mkdir()
        ask(erasures, "ann", "bob")
        until(lambda: erasures.queue.failure is not None)
        backpressure.apply()
        assert (source.told, erasures.queue.put_count, erasures.queue.safe_count) == ([], 2, 0)
        ask(erasures, "cy")
        backpressure.apply()
        assert source.told == ["pause"]
        until(lambda: not list((tmp_path / "erasures").glob(f"*{HELD}")))  # what could not be noted is gone
        (tmp_path / "erasures" / "list").rmdir()
        until(lambda: erasures.queue.safe_count == 3)
        backpressure.apply()
        assert source.told == ["pause", "resume"]
        assert erasures.queue.failure is None
    box.close()
    assert reach_of(ErasureList(tmp_path / "erasures").load(), "ann", "bob", "cy") == [50, 50, 50]


# --- dead letters --------------------------------------------------------------------------------------

SETTINGS = Settings.model_validate({"kafka": {"topic": "t"}, "events": {"columns": {"user": "visitor"}}})


@pytest.mark.parametrize(
    ("key", "payload", "users"),
    [
        (b"ann", b"", {"ann"}),
        (None, b'{"user_id": "ann", "item_id": "bob"}', {"ann"}),
        (None, b'{"visitor":42,"x":{"visitor":"a\\"b"}}', {"42", 'a"b'}),
        (None, b'[{"user_id":"ann"},{"user_id":"bob"}', {"ann", "bob"}),  # broken at its end
        (None, b'{"user_id":null,"about":"user_id"}', set()),
        (b"\xff", b"\x00\xff", {"�"}),
        (b'"ann"', b"", {"ann", '"ann"'}),
        (b'{"user_id": 42}', b"", {"42", '{"user_id": 42}'}),
        (b'{"visitor":"ann","item_id":"bob"}', b"", {"ann", '{"visitor":"ann","item_id":"bob"}'}),
        (b'{"schema":{},"payload":"ann"}', b"", {"ann", '{"schema":{},"payload":"ann"}'}),
    ],
)
def test_whose_a_letter_is(key: bytes | None, payload: bytes, users: set[str]) -> None:
    assert set(users_of(SETTINGS)(Rejected("bad_json", "", payload, "t[0]@1", key=key))) == users


def test_a_mapping_tells_whose_a_letter_is() -> None:
    settings = Settings.model_validate({"kafka": {"topic": "t"}, "events": {"format": "segment"}})
    message = {
        "type": "track",
        "event": "Product Viewed",
        "userId": "ann",
        "properties": {"product_id": "bob"},
    }
    letter = Rejected("missing_field", "no time", msgspec.json.encode(message), "t[0]@1")
    assert set(users_of(settings)(letter)) == {"ann"}
    assert users_of(settings)(replace(letter, payload=b"{")) == set()


def letters_of_three(origin: str = "t[0]@{}") -> list[Rejected]:
    return [
        Rejected("bad_id", "", b'{"user_id":"%b"}' % user.encode(), origin.format(n), timestamp_ms=START_MS)
        for n, user in enumerate(["ann", "bob", "ann", "cy"])
    ]


def test_letter_files_lose_a_user_and_keep_the_others_and_their_names(tmp_path: Path) -> None:
    place = FileDeadLetters(tmp_path)
    for letter in letters_of_three():
        place.put(letter)
    place.flush()
    box = FileLetterBox(tmp_path)
    box.mark_done(["1-3"])
    assert erase_letters(box, ["ann", "nobody"], users_of(SETTINGS)) == 2
    assert [(one.id, one.rejected.payload) for one in box.letters()] == [
        ("1-2", b'{"user_id":"bob"}'),
        ("1-4", b'{"user_id":"cy"}'),
    ]
    assert erase_letters(box, ["ann"], users_of(SETTINGS)) == 0


def test_letters_of_a_topic_are_marked_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mock broker deletes no records, so what a purge asks it for is looked at instead."""
    with mock_kafka() as address:
        client: dict[str, Property] = {"bootstrap.servers": address, "log_level": 0}
        place = KafkaDeadLetters(client, topic="letters")
        for letter in letters_of_three():
            place.put(replace(letter, key=b"same partition"))
        place.flush()
        box = TopicLetterBox(client, "letters")
        monkeypatch.setattr(TopicLetterBox, "purge", TopicLetterBox.mark_done)
        assert erase_letters(box, ["ann"], users_of(SETTINGS)) == 2
        assert [one.done for one in box.letters()] == [True, False, True, False]


# --- Redis ---------------------------------------------------------------------------------------------


def test_a_user_leaves_every_generation_also_one_that_is_being_built(
    store: GenerationStore, redis_client: redis.Redis
) -> None:
    publish(store, 1)
    publish(store, 2)
    redis_client.zadd("shop:emb:generations", {"3": 3})
    redis_client.hset("shop:emb:3:manifest", mapping={"status": "building", "token": "x"})
    redis_client.rpush("shop:emb:3:user-ids", "u1", "u7")
    redis_client.hset("shop:emb:3:user:u7", "gen", 3)
    store.erase(["u7", "nobody"], live_only=True)
    assert {key for key in keys_by_scan(redis_client) if key.endswith(":u7")} == {"shop:emb:3:user:u7"}
    store.erase(["u7", "nobody"])
    assert [key for key in keys_by_scan(redis_client) if key.endswith((":u7", ":nobody"))] == []
    for number in (1, 2, 3):
        assert b"u7" not in redis_client.lrange(f"shop:emb:{number}:user-ids", 0, -1)
    assert [g.manifest["users"] for g in store.generations()] == ["149", "149"]
    assert redis_client.exists("shop:emb:2:user:u8", "shop:emb:2:user:u77") == 2
    assert store.count_keys()["user"] == 2 * 149 + 1


def test_a_worker_that_was_replaced_erases_nothing(store: GenerationStore, redis_client: redis.Redis) -> None:
    publish(store, 1)
    GenerationStore(redis_client, namespace=NAMESPACE, epoch=2).clean_up()
    with pytest.raises(StaleWorkerError):
        store.erase(["u7"])
    assert redis_client.exists("shop:emb:1:user:u7") == 1
