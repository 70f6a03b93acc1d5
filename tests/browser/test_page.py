"""The page in a real browser, over a real HTTP process and a real Redis: what a person sees and can do."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import redis as redis_py
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.letter_place import letters_folder
from driftgraph.app.console.troubles import CODES
from driftgraph.snapshots.generations.keys import connect
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.stream.dead_letters.files import FileDeadLetters
from driftgraph.stream.events import Rejected
from tests.app.web.serving import TOKEN, Port, served, settings_of
from tests.app.web.troubled import BROKEN
from tests.browser.shown import ToldRun, publish_measured, recorded
from tests.browsers import OpenPage
from tests.kafka_brokers import mock_kafka, produce
from tests.services_redis import NAMESPACE
from tests.waits import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

PHONE = 360
OF_REDIS = ("redis_away", "no_generation")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ToldRun]:
    with ToldRun(tmp_path) as found:
        yield found


@pytest.fixture
def port(
    tmp_path: Path, run: ToldRun, redis_server: EmbeddedRedis, redis_client: redis_py.Redis
) -> Iterator[Port]:
    """With an empty Redis, a token, and the status files of a real run."""
    assert redis_client.ping()
    with served(settings_of(tmp_path, redis_server.url, token=TOKEN)) as found:
        yield found


def verdict(page: Page) -> str:
    return page.locator(".verdict").inner_text()


def sees(page: Page, text: str, *, within: str = "body") -> None:
    """Wait until a person can read the text; on failure the assertion has what there is instead."""
    place = page.locator(within)
    until(lambda: text in place.inner_text(), 20)


def gives_token(page: Page, token: str) -> None:
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Go on").click()


def test_it_says_that_all_is_well_and_draws_every_picture(
    port: Port, store: GenerationStore, open_page: OpenPage
) -> None:
    for number, recall in ((1, 0.04), (2, 0.05)):
        publish_measured(store, number, recall=recall)
    noted = list[str]()
    page = open_page(port.address)
    page.on("console", lambda message: noted.append(message.text))
    sees(page, "All is well", within="#health-said")
    updater = recorded("updater")
    sees(page, f"{sum(updater['window'].values()):,}", within="#tiles")
    sees(page, "0.0500", within="#chart-quality")
    for name in ("rate", "lag", "fresh", "window", "quality"):
        until(partial(_is_drawn, page, f"#chart-{name}"))
        assert page.locator(f"#chart-{name} figcaption span").inner_text(), "a chart says its unit"
    sees(page, "vectors", within="#shares")
    sees(page, "model version 2", within="#generations-table")
    sees(page, "i0", within="#drift-shown")
    sees(page, "missing field", within="#rejected-shown")
    assert "u7" not in page.content(), "who moved is shown with the token only"
    assert noted == []


def _is_drawn(page: Page, place: str) -> bool:
    """Whether a canvas has a line: pixels in more than the colors of axes and grid."""
    script = """place => {
      const canvas = document.querySelector(place + ' canvas');
      if (!canvas) return 0;
      const copy = document.createElement('canvas');
      [copy.width, copy.height] = [canvas.width, canvas.height];
      const context = copy.getContext('2d', { willReadFrequently: true });
      context.drawImage(canvas, 0, 0);
      const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
      let colored = 0;
      for (let n = 0; n < pixels.length; n += 4) {
        const [r, g, b] = [pixels[n], pixels[n + 1], pixels[n + 2]];
        if (pixels[n + 3] > 200 && Math.max(r, g, b) - Math.min(r, g, b) > 40) colored += 1;
      }
      return colored;
    }"""
    return bool(page.evaluate(script, place) > 20)


def test_what_happens_is_seen_at_once_and_a_reload_shows_the_past(
    port: Port, store: GenerationStore, open_page: OpenPage, run: ToldRun
) -> None:
    publish_measured(store, 1)
    page = open_page(port.address)
    sees(page, "All is well", within="#health-said")
    run.says(lag={"events[0]": 4_321}, reasons={"bad_json": 987_654})
    sees(page, "4,321", within="#tiles")
    sees(page, "987,654", within="#rejected-shown")
    publish_measured(store, 2)
    sees(page, "2 served", within="#generations-table")
    until(lambda: _points(page) >= 4, 20)
    before = _points(page)
    page.reload()
    sees(page, "4,321", within="#tiles")
    assert _points(page) >= before


def _points(page: Page) -> int:
    """How many rows the table below the chart of the lag has; it has each sample until there are 12."""
    page.evaluate("document.querySelector('#chart-lag details').open = true")
    return page.locator("#chart-lag tbody tr").count()


def test_a_rollback_is_confirmed_and_undone(port: Port, store: GenerationStore, open_page: OpenPage) -> None:
    publish_measured(store, 1)
    publish_measured(store, 2)
    page = open_page(port.address)
    button = page.get_by_role("button", name="Roll back")
    button.click()
    page.get_by_role("button", name="Cancel").click()
    assert store.choices.newest().served == 2, "nothing was confirmed"
    button.click()
    sees(page, "Readers get generation 1 instead of 2", within="dialog")
    page.locator("dialog").get_by_role("button", name="Roll back").click()
    gives_token(page, "not the token")
    sees(page, "That is not the token", within="dialog")
    assert store.choices.newest().served == 2
    gives_token(page, TOKEN)
    sees(page, "Generation 1 is served now instead of 2", within="#undo")
    assert store.choices.newest().served == 1
    sees(page, "1 served", within="#generations-table")
    page.get_by_role("button", name="Undo").click()
    sees(page, "Generation 2 is served now", within="#undo")
    assert store.choices.newest().served == 2
    assert TOKEN not in page.url


def test_a_held_generation_is_promoted_held_and_let_go(
    port: Port, store: GenerationStore, open_page: OpenPage
) -> None:
    for number in (1, 2, 3):
        publish_measured(store, number)
    page = open_page(port.address)
    page.get_by_role("button", name="Roll back to generation 1").click()
    page.get_by_label("Hold it").check()
    page.locator("dialog").get_by_role("button", name="Roll back").click()
    gives_token(page, TOKEN)
    sees(page, "Generation 1 is served now instead of 3, and held", within="#undo")
    assert store.choices.newest().is_held
    sees(page, "served, held", within="#generations-table")
    page.get_by_role("button", name="End the hold").click()
    page.locator("dialog").get_by_role("button", name="End the hold").click()
    until(lambda: not store.choices.newest().is_held)
    assert store.choices.newest().served == 1
    sees(page, "Generation 1 is served now.", within="#undo")
    late = "import('/page/generations.js').then(one => one.showHeld({ at_ms: 1, held: true }))"
    page.evaluate(late)
    assert "held" not in page.locator("#generations-table").inner_text(), "the feed may be behind an act"
    page.get_by_role("button", name="Promote generation 2").click()
    page.locator("dialog").get_by_role("button", name="Promote").click()
    sees(page, "Generation 2 is served now instead of 1", within="#undo")
    assert (store.choices.newest().served, store.choices.newest().is_held) == (2, False)


def test_what_redis_refuses_is_said_and_changes_nothing(
    port: Port, store: GenerationStore, redis_client: redis_py.Redis, open_page: OpenPage
) -> None:
    publish_measured(store, 1)
    publish_measured(store, 2)
    page = open_page(port.address)
    button = page.get_by_role("button", name="Roll back to generation 1")
    button.wait_for()
    redis_client.delete(f"{NAMESPACE}:emb:1:user:u3")
    button.click()
    page.locator("dialog").get_by_role("button", name="Roll back").click()
    gives_token(page, TOKEN)
    sees(page, "Nothing was changed: generation 1 has lost 1 keys", within="#undo")
    assert store.choices.newest().served == 2


def test_each_trouble_is_said_with_what_to_do_and_clears(
    port: Port, store: GenerationStore, open_page: OpenPage, run: ToldRun
) -> None:
    publish_measured(store, 1)
    page = open_page(port.address)
    sees(page, "All is well", within="#health-said")
    for code in (code for code in CODES if code not in (*OF_REDIS, "disk_full")):
        broken = dict(BROKEN[code])
        if broken.get("updater", {}) is None:
            run.says_nothing(broken.get("start"))
        else:
            run.says(worker_file=broken.get("worker"), **broken.get("updater", {}))
        until(partial(_is_alone, port, code), 10)
        said = port.ask("/readyz")[1]["troubles"][0]
        sees(page, said["remedy"], within="#health-said")
        start = re.split(r"\d", said["said"])[0]  # numbers grow meanwhile
        sees(page, start[1:], within="#health-said")
        assert verdict(page) != "All is well", code
    run.says()
    sees(page, "All is well", within="#health-said")


def test_a_standby_is_no_trouble_and_says_what_it_waits_for(
    port: Port, store: GenerationStore, open_page: OpenPage, run: ToldRun
) -> None:
    publish_measured(store, 1)
    run.says_nothing(standby={"state": "standby", "why": "waits as a standby: pid 41 has the lease"})
    page = open_page(port.address)
    sees(page, "This updater is a standby and waits", within="#health-said")
    sees(page, "Waits as a standby: pid 41 has the lease.", within="#health-said")
    until(lambda: page.locator("#health-said").get_attribute("data-state") == "good")
    assert port.ask("/readyz")[0] == 200
    run.says()
    sees(page, "All is well", within="#health-said")


def test_rejected_events_are_shown_and_sent_again(
    run: ToldRun, redis_server: EmbeddedRedis, store: GenerationStore, open_page: OpenPage, tmp_path: Path
) -> None:
    publish_measured(store, 1)
    settings = settings_of(tmp_path, redis_server.url, token=TOKEN)
    with mock_kafka() as brokers:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": brokers, "topic": "events"})
        settings = settings.model_copy(update={"kafka": kafka})
        events = [b'{"user_id": "u1", "item_id": null}', b'{"user_id": "u2", "item_id": null}']
        produce(brokers, "events", [{"value": b"{}", "partition": 0}])
        letters = FileDeadLetters(letters_folder(settings))
        for offset, payload in enumerate(events, start=7):
            letters.put(Rejected("missing_field", "item_id is missing", payload, f"events[0]@{offset}"))
        letters.flush()
        letters.close()
        with served(settings) as port:
            page = open_page(port.address)
            page.get_by_role("button", name="Show examples").click()
            gives_token(page, TOKEN)
            sees(page, "item_id is missing", within="#rejected-shown")
            sees(page, '"user_id": "u2"', within="#rejected-shown")
            send = page.get_by_role("button", name="Send them again")
            send.click()
            page.get_by_role("button", name="Cancel").click()
            assert _values(brokers) == [b"{}"], "nothing was confirmed"
            send.click()
            page.locator("dialog").get_by_role("button", name="Send").click()
            sees(page, "2 events were sent again", within="#rejected-shown")
            sees(page, "No dead letter is open", within="#rejected-shown")
            assert _values(brokers) == sorted([b"{}", *events])


def _values(brokers: str) -> list[bytes]:
    """What the topic ``events`` has, sorted."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "looks", "log_level": 0})
    try:
        found = consumer.list_topics("events", timeout=10).topics["events"].partitions
        consumer.assign([TopicPartition("events", number, OFFSET_BEGINNING) for number in found])
        values = list[bytes]()
        while messages := consumer.consume(100, timeout=2):
            values += [message.value() or b"" for message in messages if message.error() is None]
        return sorted(values)
    finally:
        consumer.close()


def _is_alone(port: Port, code: str) -> bool:
    return [one["code"] for one in port.ask("/readyz")[1]["troubles"]] == [code]


def test_with_nothing_yet_every_part_says_so(
    redis_server: EmbeddedRedis, redis_client: redis_py.Redis, open_page: OpenPage, tmp_path: Path
) -> None:
    assert redis_client.ping()
    with served(settings_of(tmp_path, redis_server.url)) as port:
        page = open_page(port.address)
        sees(page, "start driftgraph run", within="#health-said")
        until(lambda: verdict(page) == "Nothing is served yet", 10)
        assert page.locator("#rejected-shown .card:visible").count() == 1, "no empty card beside it"
        for name in ("rate", "quality"):
            assert not page.locator(f"#chart-{name} canvas").is_visible(), "no axes under the sentence"
        sees(page, "There is no generation yet", within="#generations-table")
        for place in ("rate", "lag", "fresh", "quality"):
            sees(page, "Nothing yet", within=f"#chart-{place}")
        sees(page, "The window is empty", within="#chart-window")
        sees(page, "Nothing to show", within="#drift-shown")
        sees(page, "Nothing yet", within="#rejected-shown")
        page.get_by_label("The user's id").fill("u1")
        page.get_by_role("button", name="Show", exact=True).click()
        gives_token(page, "any")
        sees(page, "set web.token", within="#person-said")


def test_an_empty_window_is_said(port: Port, open_page: OpenPage, run: ToldRun) -> None:
    page = open_page(port.address)
    sees(page, "Nothing is served yet", within="#health-said")
    run.says(window={}, ids={"user": 0, "item": 0}, reasons={}, events={"read": 0})
    sees(page, "None of 0 events was rejected", within="#rejected-shown")
    sees(page, "0 users, 0 items", within="#tiles")
    page.reload()
    sees(page, "0 users, 0 items", within="#tiles")


def test_a_redis_that_goes_away_is_said_and_over_again(
    open_page: OpenPage, run: ToldRun, tmp_path: Path
) -> None:
    with EmbeddedRedis() as server, contextlib.closing(connect(server.url)) as client:
        publish_measured(GenerationStore(client, namespace=NAMESPACE, epoch=1), 1)
        with served(settings_of(tmp_path, server.url, token=TOKEN)) as port:
            page = open_page(port.address)
            sees(page, "All is well", within="#health-said")
            server.stop()
            sees(page, "look at the Redis", within="#health-said")
            sees(page, "The generations cannot be read", within="#generations-table")
            assert f"{recorded('updater')['ids']['user']:,} users" in page.locator("#tiles").inner_text()


def test_a_page_without_word_says_since_when_and_comes_back(
    run: ToldRun, redis_server: EmbeddedRedis, store: GenerationStore, open_page: OpenPage, tmp_path: Path
) -> None:
    publish_measured(store, 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    settings = settings_of(tmp_path, redis_server.url, token=TOKEN, listen=listen)
    with served(settings) as port:
        page = open_page(port.address)
        sees(page, "All is well", within="#health-said")
    sees(page, "No word from driftgraph since", within="#health-said")
    assert page.locator("#link").get_attribute("data-state") == "lost"
    assert "missing field" in page.locator("#rejected-shown").inner_text(), "what was known stays"
    (tmp_path / "status" / "web.json").unlink()
    with served(settings):
        sees(page, "All is well", within="#health-said")
        assert page.locator("#link").get_attribute("data-state") == "live"


def test_a_user_is_shown_beside_what_is_recommended(
    port: Port, store: GenerationStore, open_page: OpenPage
) -> None:
    publish_measured(store, 1)
    page = open_page(port.address)
    page.get_by_label("The user's id").fill("u3")
    page.keyboard.press("Enter")
    gives_token(page, TOKEN)
    expected = port.ask("/api/recommend/u3?top=10", token=TOKEN)[1]["items"]
    sees(page, f"{len(expected)} items for u3", within="#person-said")
    shown = page.locator("#person-shown .card").last.locator("li .id").all_inner_texts()
    assert shown == [one["item"] for one in expected]
    page.get_by_role("button", name="Show who moved").click()
    sees(page, "u7", within="#drift-shown")
    stored = page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])")
    assert json.loads(stored) == [{"driftgraph-token": TOKEN}, {}, ""], "for this tab alone"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_nothing_is_against_the_rules_of_accessibility(
    port: Port,
    store: GenerationStore,
    open_page: OpenPage,
    run: ToldRun,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    publish_measured(store, 1)
    publish_measured(store, 2)
    page = open_page(port.address, scheme=scheme, width=width)
    sees(page, "2 served", within="#generations-table")
    assert violations(page) == []
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.get_by_role("button", name="Roll back").click()
    assert violations(page) == []
    page.locator("dialog").get_by_role("button", name="Roll back").click()
    gives_token(page, "wrong")
    sees(page, "That is not the token", within="dialog")
    assert violations(page) == []
    page.keyboard.press("Escape")
    run.says(kafka_away=True, lost={"events[0]": 7})
    sees(page, "Kafka does not answer", within="#health-said")
    assert violations(page) == []
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], "nothing is wider than the screen"


def violations(page: Page) -> list[Any]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["help"], [node["target"] for node in one["nodes"]]) for one in found]


def test_everything_is_done_by_keyboard(
    port: Port, store: GenerationStore, open_page: OpenPage, run: ToldRun
) -> None:
    publish_measured(store, 1)
    publish_measured(store, 2)
    page = open_page(port.address)
    sees(page, "2 served", within="#generations-table")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Roll back":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is seen"
    page.keyboard.press("Enter")
    sees(page, "Readers get generation 1", within="dialog")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Roll back", "focus goes back"
    assert page.locator("dialog").count() == 0
    for name in ("Roll back", "Show examples", "Show who moved"):
        button = page.get_by_role("button", name=name)
        button.focus()
        count = 1_000 + len(name)
        run.says(reasons={"bad_json": count})
        sees(page, f"{count:,}", within="#rejected-shown")
        assert button.evaluate("button => button === document.activeElement"), "what is new takes no focus"
