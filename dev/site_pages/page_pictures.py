"""Takes the pictures of the page that README.md shows, from a ``driftgraph run`` on the made-up shop of the demo.

Shop ──► EmbeddedKafka ──► driftgraph run ──► its page ──► Chromium ──► docs/page-light.png, docs/page-dark.png

``PYTHONPATH=dev python -m site_pages.page_pictures`` takes ten minutes, since customers change their taste
meanwhile and a fit needs its events. Look at both pictures before you commit them.
"""

from __future__ import annotations

import io
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from driftgraph.app.commands.embedded import EmbeddedKafka, EmbeddedRedis
from driftgraph.app.console.status_files import told
from driftgraph.app.demo.shop import BEHAVIORS, Shop, ShopOptions, open_shop
from driftgraph.stream.kafka.producer import EventProducer

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
CHROMIUM: Final = "/usr/bin/chromium"
WIDTH, DARK_HEIGHT, MARGIN = 1_200, 765, 16  # pixels
COLORS: Final = 256  # a third of the bytes, and nobody sees it
CODE: Final = "from driftgraph.app.cli.main import main; main()"
TOPIC: Final = "events"
EVENTS: Final = 60_000
HISTORY: Final = 24_000  # events that are on the topic before the start: to shortly before the drift
RATE: Final = 60  # events a second behind them
LIVE_S: Final = 540  # until the pictures are taken
FIT_EVENTS: Final = 2_000
CONFIG: Final = """
data_dir = "{folder}"
[kafka]
bootstrap_servers = "{kafka}"
topic = "{topic}"
start = "earliest"  # the embedded broker finds no offset by a time
[fit]
events = {fit_events}
[redis]
url = "{redis}"
[web]
listen = "127.0.0.1:0"
token = "{token}"
{relations}
"""


class Customers(threading.Thread):
    """Sends the shop's events: the history with its own spacing up to now, the rest as they happen."""

    def __init__(self, shop: Shop, kafka: str) -> None:
        super().__init__(name="customers", daemon=True)
        self.newest: list[str] = []  # users, of the events since the start
        self._shop, self._began_ms = shop, round(time.time() * 1_000)
        self._producer = EventProducer({"bootstrap.servers": kafka}, TOPIC)

    def run(self) -> None:
        """Until the pictures are taken, or the shop has no more events."""
        shift_ms = self._began_ms - int(self._shop.time_ms[HISTORY])
        for number, (key, value) in enumerate(self._shop.payloads()):
            event = json.loads(value)
            if number < HISTORY:
                event["ts"] += shift_ms
            else:
                due_s = self._began_ms / 1_000 + (number - HISTORY) / RATE
                time.sleep(max(0.0, due_s - time.time()))
                event["ts"] = round(time.time() * 1_000)
                self.newest.append(event["user_id"])
            self._producer.send(key=key, value=json.dumps(event).encode(), timestamp_ms=event["ts"])


def main() -> None:
    """Run the shop, and take both pictures."""
    with ExitStack() as stack:
        kafka, redis = stack.enter_context(EmbeddedKafka()), stack.enter_context(EmbeddedRedis())
        kafka.create_topic(TOPIC)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftgraph-pictures-")))
        token, config = secrets.token_urlsafe(6), folder / "driftgraph.toml"
        config.write_text(
            CONFIG.format(
                folder=folder / "var", kafka=kafka.bootstrap_servers, topic=TOPIC, fit_events=FIT_EVENTS,
                redis=redis.url, token=token, relations="\n".join(f"[relations.{one}]" for one in BEHAVIORS),
            ),
            encoding="utf-8",
        )  # fmt: skip
        customers = Customers(open_shop(ShopOptions(event_count=EVENTS)), kafka.bootstrap_servers)
        customers.start()
        while not customers.newest:  # a start fills its window with the history
            time.sleep(0.1)
        command = [sys.executable, "-c", CODE, "run", "-c", str(config)]
        run = stack.enter_context(subprocess.Popen(command, cwd=folder))
        stack.callback(run.send_signal, signal.SIGTERM)
        time.sleep(LIVE_S)
        found = told(folder / "var", "web") or {}
        [(user, _)] = Counter(customers.newest[-10 * FIT_EVENTS :]).most_common(1)
        print(f"the page is http://127.0.0.1:{found['port']}/, its token {token}; shown is the user {user}")
        take(f"http://127.0.0.1:{found['port']}/", token, user)


def take(address: str, token: str, user: str) -> None:
    """Write both pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        _take_overview(browser, address)
        _take_user(browser, address, token, user)
        browser.close()


def _take_overview(browser: Browser, address: str) -> None:
    """From the top of the page to the end of the quality over the generations."""
    page = _opened(browser, address, "light")
    page.locator("#chart-quality canvas").wait_for()
    _write(page, "page-light.png", 0, _end_of(page, "#quality"))


def _take_user(browser: Browser, address: str, token: str, user: str) -> None:
    """What a user did beside what is recommended and why."""
    page = _opened(browser, address, "dark")
    page.locator("#person-id").fill(user)
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("What is recommended", exact=True).wait_for()
    top = _end_of(page, "#rejected")
    _write(page, "page-dark.png", top, top + DARK_HEIGHT)


def _end_of(page: Page, place: str) -> float:
    """Where a section ends, from the top of the whole page."""
    script = "place => document.querySelector(place).getBoundingClientRect().bottom + window.scrollY"
    return float(page.evaluate(script, place)) + MARGIN


def _write(page: Page, name: str, top: float, bottom: float) -> None:
    page.evaluate("window.scrollTo(0, 0)")
    picture = page.screenshot(
        clip={"x": 0, "y": top, "width": WIDTH, "height": bottom - top}, full_page=True
    )
    taken = Image.open(io.BytesIO(picture))
    taken.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)


def _opened(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> Page:
    page = browser.new_page(
        color_scheme=scheme, viewport={"width": WIDTH, "height": 900}, reduced_motion="reduce"
    )
    page.goto(address)
    page.locator("#tiles").get_by_text("Generation").wait_for()
    page.wait_for_timeout(3_000)  # charts are drawn with the next words of the feed
    return page


if __name__ == "__main__":
    main()
