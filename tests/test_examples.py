"""Each example is whole: every event of it is decoded, and a replay of it gives recommendations."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from tests.app.cli.test_cli import Shell

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUNNING = {
    "running-shoes", "running-socks", "sports-watch", "drinking-belt", "rain-jacket", "head-lamp", "cap",
    "gloves", "gels", "foam-roller", "tights", "shirt",
}  # fmt: skip
COOKING = {
    "v-sourdough", "v-ramen", "v-pasta", "v-curry", "v-dumplings", "v-kimchi", "v-tacos", "v-tempura",
    "v-bagels", "v-risotto", "v-pho", "v-waffles",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A file of events and its configuration; ``becomes`` are events by what they become."""

    events: str
    configuration: str
    becomes: dict[str, int]
    user: str
    taste: set[str]

    def __str__(self) -> str:
        return self.events


SHOP = Example(
    "shop/events.jsonl", "shop/driftgraph.toml",
    {"click": 136, "favorite": 32, "purchase": 16}, "ben", RUNNING,
)  # fmt: skip
VIDEO = Example(
    "video/events.jsonl", "video/driftgraph.toml", {"watch": 94, "like": 48, "shown": 268}, "ben", COOKING
)
SEGMENT = Example(
    "segment/events.jsonl",
    "segment/driftgraph.toml",
    {"view": 136, "cart": 52, "purchase": 31},
    "ben",
    RUNNING,
)
GA4 = Example(
    "ga4/events.jsonl", "ga4/driftgraph.toml", {"view": 135, "cart": 62, "purchase": 41}, "ben", RUNNING
)
MEASUREMENT = Example(
    "ga4/measurement.jsonl", "ga4/measurement.toml", {"view": 135, "cart": 62, "purchase": 41},
    "19578.1759600977", RUNNING,
)  # fmt: skip
ALL = [SHOP, VIDEO, SEGMENT, GA4, MEASUREMENT]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """A folder with a copy of the examples, as a reader has them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    return Shell(capsys, monkeypatch)


def test_each_folder_has_a_test_and_a_readme_that_names_its_files() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/driftgraph.toml")}
    assert folders == {example.events.split("/")[0] for example in ALL}
    for folder in folders:
        readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
        files = {path.name for path in (EXAMPLES / folder).iterdir()} - {"README.md"}
        assert {name for name in files if name not in readme} == set()


@pytest.mark.parametrize("example", ALL, ids=str)
def test_every_event_of_an_example_becomes_what_it_should(shell: Shell, example: Example) -> None:
    done = shell(
        "validate", f"examples/{example.events}", "-c", f"examples/{example.configuration}", "--json"
    )
    assert done.code == 0, done.out + done.err
    told = done.json()
    assert (told["events"]["rejected"], told["rejected"]) == (0, [])
    assert told["relations"] | told["impressions"] == example.becomes


@pytest.mark.parametrize("example", ALL, ids=str)
def test_a_replay_of_an_example_recommends_what_the_user_likes(
    shell: Shell, redis_server: EmbeddedRedis, redis_client: redis.Redis, example: Example
) -> None:
    options = ("-c", f"examples/{example.configuration}", "--redis", redis_server.url, "--json")
    done = shell("replay", f"examples/{example.events}", *options, "--data-dir", "var")
    assert done.code == 0, done.err
    assert done.json()["events_rejected"] == 0
    answer = shell("recommend", example.user, "--top", "5", *options).json()
    assert answer["source"] == "list"
    best = [one["item"] for one in answer["items"]]
    assert len(best) == 5
    assert best[0] in example.taste
    assert len(example.taste.intersection(best)) >= 3, best


def test_the_video_site_learns_how_probable_a_watch_is(
    shell: Shell, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    options = ("-c", "examples/video/driftgraph.toml", "--redis", redis_server.url, "--json")
    assert shell("replay", "examples/video/events.jsonl", *options, "--data-dir", "var").code == 0
    told = shell("scores", "ben", "v-ramen", "v-otters", *options).json()
    assert [one["item"] for one in told["items"]] == ["v-ramen", "v-otters"]
    for one in told["items"]:
        assert set(one["probability"]) == {"watch", "like"}
        assert all(0 < chance < 1 for chance in one["probability"].values())
