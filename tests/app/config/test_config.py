"""Configuration: what wins, what is refused, and that the file, the descriptions and the trainer agree."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from driftgraph.app.config.builders import (
    auto_interval,
    file_options,
    fit_schedule,
    trainer_options,
    window_relations,
)
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.config.tables.model import ModelSettings
from driftgraph.app.config.tables.sections import Section
from driftgraph.app.config.text import STARTER_RELATIONS, shown, starter_file, toml_of
from driftgraph.model.options import TrainerOptions
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.ingest.fit_schedule import Auto
from driftgraph.stream.time.durations import Duration


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the driftgraph.toml or the variables of whoever runs it."""
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "driftgraph.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(text))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n".join(f"[relations.r{n}]" for n in range(33)), "33 relations, and a window has 32 at most"),
        (
            "[window]\ncapacity = 2_147_483_648\n[relations.a]\n[relations.b]",
            "add up to 4,294,967,296 events, and a window holds 4,294,967,294 at most",
        ),
        (
            "[model]\nnegatives = { buy = 10, fav = 5 }\n[relations.buy]\n[relations.click]",
            "model.negatives names 'fav', which is no relation; the relations are buy, click",
        ),
    ],
)
def test_relations_that_no_window_holds_are_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        window_relations(load(written(text)))


# --- what wins -----------------------------------------------------


def test_command_line_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    file = written('seed = 1\n[kafka]\ntopic = "file"\nbootstrap_servers = "file:1"\n[fit]\nevery = "1h"')
    monkeypatch.setenv("DRIFTGRAPH__KAFKA__TOPIC", "environment")
    monkeypatch.setenv("DRIFTGRAPH__FIT__EVERY", "2h")
    settings = load(file, {"fit": {"every": "3h"}})
    assert settings.fit.every == Duration.parse("3h")
    assert settings.kafka.topic == "environment"
    assert settings.kafka.bootstrap_servers == "file:1"
    assert settings.seed == 1
    assert settings.kafka.shard == "0/1"


def test_the_interval_of_fits_follows_from_the_events_unless_it_is_set() -> None:
    for text in ("", '[fit]\nevery = "auto"'):
        settings = load(written(text))
        assert settings.fit.every == "auto"
        assert shown(settings)["fit"]["every"] == "auto"
        assert auto_interval(settings, window_relations(settings)).events_max == settings.fit.examples_max
        assert isinstance(fit_schedule(settings, window_relations(settings)).every, Auto)
    settings = load(written('[fit]\nevery = "6h"'))
    assert fit_schedule(settings, window_relations(settings)).every == Duration.parse("6h").ms
    assert shown(settings)["fit"]["every"] == "6h"


def test_the_file_here_is_read_without_being_named_and_may_be_missing() -> None:
    assert load() == Settings()
    written("seed = 7")
    assert load().seed == 7


def test_the_environment_can_set_relations_lists_and_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTGRAPH__RELATIONS__CLICK__SPAN", "3d")
    monkeypatch.setenv("DRIFTGRAPH__EVENTS__IGNORE", '["impression", "hover"]')
    monkeypatch.setenv("DRIFTGRAPH__KAFKA__OPTIONS", '{"security.protocol": "SSL"}')
    settings = load()
    assert settings.relations["click"].span == Duration.parse("3d")
    assert settings.events.ignore == ("impression", "hover")
    assert settings.kafka.options == {"security.protocol": "SSL"}


@pytest.mark.parametrize(
    ("file", "variable", "relations"),
    [
        ("[relations.addToCart]", "DRIFTGRAPH__RELATIONS__ADDTOCART__SPAN", ["addToCart"]),
        ("[relations.addToCart]", "driftgraph__relations__addtocart__span", ["addToCart"]),
        ("[relations.click]", "DRIFTGRAPH__RELATIONS__addToCart__SPAN", ["click", "addToCart"]),
        ("[relations.click]", "DRIFTGRAPH__RELATIONS__VIEW__SPAN", ["click", "view"]),
        ("[relations.click]", "DRIFTGRAPH__RELATIONS__CLICK__SPAN", ["click"]),
        ("[relations.A]\n[relations.a]", "DRIFTGRAPH__RELATIONS__A__SPAN", ["A", "a"]),
    ],
)
def test_a_variable_is_about_the_relation_of_the_file_whatever_its_case(
    monkeypatch: pytest.MonkeyPatch, file: str, variable: str, relations: list[str]
) -> None:
    """Else it would add a relation that no event has."""
    path = written(file)
    monkeypatch.setenv(variable, "3h")
    settings = load(path)
    assert sorted(settings.relations) == sorted(relations)
    spans = {name: str(one.span) for name, one in settings.relations.items()}
    assert spans[relations[-1]] == "3h"


def test_variables_that_others_set_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets such ones for its Services."""
    for name in ("DRIFTGRAPH_SERVICE_HOST", "DRIFTGRAPH_PORT", "DRIFTGRAPH_REDIS_PORT"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert load().redis.url == "redis://localhost:6379/0"


# --- what is refused -----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[kafka]\nbootstrap_server = "a:1"',
            "unknown key kafka.bootstrap_server, did you mean bootstrap_servers?",
        ),
        ("sead = 1", "unknown key sead, did you mean seed?"),
        ('[relations.click]\nspam = "3d"', "unknown key relations.click.spam, did you mean span?"),
        ('[fit]\nevery = "6"', 'fit.every = "6": should be a number and a unit'),
        ("[fit]\nevery = 6", "fit.every = 6: should be text with a unit"),
        ('[fit]\nevery = "often"', 'such as "90s", "15m", "6h" or "3d", or "auto"'),
        ('[fit]\nevery = "0s"', "should be longer than zero"),
        ('[fit]\nevery = "2000000d"', "should be at most 1000 years"),
        ('[events]\nformat = "xml"', "should be 'json', 'mapping', 'cloudevents'"),
        (
            '[events]\nmapping.user = "u"',
            "[events]: mapping is for the formats mapping, registry, cloudevents",
        ),
        ('[events]\nformat = "mapping"\nmapping.user = "a..b"', 'events.mapping.user = "a..b": a path is'),
        (
            '[events]\nformat = "mapping"\nmapping.usr = "a"',
            "unknown key events.mapping.usr, did you mean user?",
        ),
        ('[events]\nformat = "mapping"\nmapping.user = "a"', "[events]: mapping.item is missing"),
        (
            '[events]\nformat = "ga4"\nmapping.when = "x ~ 1"',
            'events.mapping.when = "x ~ 1": a condition reads',
        ),
        (
            '[events]\nformat = "ga4"\nmapping.behaviors.rate = [{ relation = "like", when = "stars" }]',
            "[events.mapping]: behaviors.rate a condition reads like",
        ),
        (
            '[events]\nformat = "ga4"\nmapping.ts = "visits[*].at"',
            "mapping.ts visits[*].at and items[*].item_id of item loop over different lists",
        ),
        (
            '[relations.click]\n[events]\nformat = "ga4"\nmapping.behaviors.view_item = "clik"',
            'events.mapping.behaviors.view_item: "clik" is no relation; add a table [relations.clik]',
        ),
        (
            '[relations.like]\n[events]\nformat = "snowplow"',
            "events.format = snowplow gives view, click, cart, purchase, and none of them is a relation",
        ),
        ('[events]\nformat = "registry"', "[events]: the format registry needs registry.url"),
        ('[events]\nregistry.url = "localhost:8081"', "should begin with http:// or https://"),
        ('[events]\nregistry.url = "http://ann:hush@localhost"', "the user goes into username"),
        ('[events]\nerase = "impression"', "erase and ignore both have impression"),
        ('[relations.gone]\n[events]\nerase = "gone"', "events.erase = gone is a relation too"),
        (
            '[relations.click]\n[events]\nimpressions = ["seen", "click"]',
            "events.impressions has click, which is a relation too: an impression makes no edge",
        ),
        (
            '[relations.click]\n[events]\nimpressions = ["seen", "seen"]',
            "events.impressions names a behavior twice",
        ),
        (
            '[relations.click]\n[events]\nimpressions = ["$erase"]',
            "erase and impressions both have $erase",
        ),
        (
            '[relations.click]\n[events]\nimpressions = ["seen"]\nattribution = "4d"\n[window]\nspan = "7d"',
            "events.attribution = 4d is more than half of window.span = 7d",
        ),
        (
            '[relations.click]\n[events]\nimpressions = ["seen"]\n[fit]\nevery = "45m"',
            "fit.every = 45m is less than twice events.attribution = 30m",
        ),
        ("[model]\ndim = 66", "[model]: dim 66 should be a multiple of heads 4"),
        ("[model]\nlayers = 4", "model.layers = 4: should be less than or equal to 3"),
        ('[model]\ndevice = "gpu"', 'model.device = "gpu"'),
        (
            '[model]\nnegatives = "hard"',
            'model.negatives = "hard": should be softmax or lists, or a table of numbers by relation',
        ),
        ("[model]\nnegatives = { buy = 0 }", "buy should have from 1 to 1000 negatives, got 0"),
        ('[kafka]\nshard = "2/2"', 'should be "i/n" with i from 0 to n - 1'),
        ('[kafka]\nstart = "soon"', 'should be "last span", "earliest", "latest" or a duration'),
        ('[kafka.options]\n"enable.auto.commit" = true', "enable.auto.commit belongs to driftgraph"),
        ('[kafka.options]\n"sasl.password" = "hush"', "sasl.password is a secret: move it"),
        ('[redis]\nurl = "http://localhost"', "should begin with redis://"),
        ('[redis]\nnamespace = "a b"', 'redis.namespace = "a b"'),
        ("[redis]\nkeep = 1", "redis.keep = 1: should be greater than or equal to 2"),
        ('[time]\nfloor = "2005-01-01"', "time.floor"),
        ("kafka = 3", "kafka = 3: should be a table of keys and values"),
        ("[relations]\nclick = 3", "relations.click = 3"),
        ("seed = ", "is not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_value_and_what_to_do(text: str, says: str) -> None:
    sentence = refusal(text)
    assert sentence.startswith("driftgraph.toml: ")
    assert says in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[publish]\nfeast = "my shop"', "letters, digits, '-' and '_', such as shop"),
        (
            '[publish]\nfeast = "shop"\nvectors = "int8"',
            'needs vectors = "float32", which is all that Feast reads',
        ),
        (
            '[publish]\nfeast = "shop"\n[redis]\nnamespace = "{shop}"',
            'publish.feast = "shop" needs a redis.namespace without braces, not "{shop}"',
        ),
    ],
)
def test_what_feast_cannot_read_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


def test_several_faults_are_counted_and_the_first_is_named() -> None:
    assert refusal('seed = -1\n[fit]\nevery = "x"\nevents = 0').endswith("(and 2 more)")


def test_a_secret_in_a_wrong_place_is_not_repeated() -> None:
    assert "12345" not in refusal("[redis]\npassword = 12345")
    assert "hush" not in refusal('[kafka.options]\n"sasl.password" = "hush"')
    assert "hush" not in refusal("[events.registry]\npassword = ['hush']")


def test_a_value_is_blamed_on_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    file = written("seed = 1")
    with pytest.raises(ConfigError, match=r"^the command line: fit\.every = \"x\""):
        load(file, {"fit": {"every": "x"}})
    monkeypatch.setenv("DRIFTGRAPH__SEED", "x")
    with pytest.raises(ConfigError, match=r"^the environment: seed = \"x\""):
        load(file)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "DRIFTGRAPH__KAKFA__TOPIC",
            "x",
            "DRIFTGRAPH__KAKFA__TOPIC sets an unknown key, did you mean kafka?",
        ),
        ("DRIFTGRAPH__KAFKA__TOPIK", "x", "unknown key kafka.topik, did you mean topic?"),
        (
            "DRIFTGRAPH__EVENTS__IGNORE",
            "hover",
            'events.ignore = "hover": should be a list, such as ["a", "b"]',
        ),
        ("DRIFTGRAPH__EVENTS__IGNORE", '["hover"', "DRIFTGRAPH__EVENTS__IGNORE is not valid JSON"),
        (
            "DRIFTGRAPH_REDIS_URL",
            "x",
            "DRIFTGRAPH_REDIS_URL sets nothing, did you mean DRIFTGRAPH__REDIS__URL?",
        ),
        ("DRIFTGRAPH_DATA_DIR", "x", "sets nothing, did you mean DRIFTGRAPH__DATA_DIR?"),
        ("DRIFTGRAPH__MODEL__DIM", "x", 'model.dim = "x": should be a whole number'),
        ("DRIFTGRAPH__WEB__TOKEN", " ", "is empty, and would let everybody in"),
        ("DRIFTGRAPH__REDIS__NAMESPACE", "a b", "should be 1 to 64 letters, digits"),
    ],
)
def test_a_bad_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert says in str(caught.value)


def test_a_file_that_is_missing_a_folder_or_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^other\.toml: no such file; make one with: driftgraph init"):
        load(Path("other.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path())
    Path("latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(Path("latin.toml"))


# --- one source of truth -----------------------------------------------------


def test_the_starter_file_sets_the_starter_relations_and_nothing_else() -> None:
    settings = load(written(starter_file()))
    spans = {name: str(one.span) for name, one in settings.relations.items()}
    assert spans == STARTER_RELATIONS
    assert settings.model_copy(update={"relations": {}}) == Settings()


@pytest.mark.parametrize("other", ["topic", "file"])  # attributes are in a file or in a topic, never in both
def test_every_commented_key_of_the_starter_file_is_right_and_every_key_is_there(other: str) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", starter_file(), flags=re.MULTILINE)
    text = re.sub(rf"^(item|user)_{other} = .*$", "", text, flags=re.MULTILINE)
    settings = load(written(text))
    unset = {path for path, value in leaves(shown(settings)) if value is None}
    left_out = {f"events.attributes.{side}_{other}" for side in ("item", "user")}
    assert {path for path in unset if not path.startswith("relations.")} == left_out
    defaults = dict(leaves(shown(Settings())))
    changed = {p for p, v in leaves(shown(settings)) if p in defaults and v != defaults[p]}
    assert all(not defaults[p] for p in changed), "an uncommented key must be the default where there is one"


def leaves(tree: object, path: str = "") -> list[tuple[str, object]]:
    if not isinstance(tree, dict) or not tree:
        return [(path, tree)]
    return [leaf for key, below in tree.items() for leaf in leaves(below, f"{path}.{key}" if path else key)]


def test_every_key_has_a_description() -> None:
    sections: list[type[BaseModel]] = [Settings, *Section.__subclasses__()]
    named = [(s.__name__, key, field) for s in sections for key, field in s.model_fields.items()]
    assert [(s, key) for s, key, field in named if not (field.description or "").endswith((".", "."))] == []


def test_the_model_section_and_the_trainer_have_the_same_defaults() -> None:
    trainer = {f.name: f.default for f in dataclasses.fields(TrainerOptions)}
    for key, field in ModelSettings.model_fields.items():
        if key != "device":  # "auto" is resolved on the machine
            assert trainer[key] == field.default, key
    built = trainer_options(Settings(), device="cpu")
    assert built == TrainerOptions()


def test_what_is_set_reaches_the_window_the_trainer_and_the_file_source() -> None:
    text = """
        seed = 3
        [events]
        format = "csv"
        header = false
        columns = { user = "0", ts = "4" }
        [window]
        span = "10d"
        capacity = 1000
        [relations.buy]
        span = "2d"
        weight = 5
        [relations.cart]
        capacity = 10
        [model]
        dim = 32
        negatives = { buy = 10 }
        contrastive_weight = 0.05
        [fit]
        examples_max = 77
    """
    settings = load(written(text))
    buy, cart = window_relations(settings)
    assert (buy.name, buy.span_ms, buy.capacity) == ("buy", 2 * 86_400_000, 1000)
    assert (cart.name, cart.span_ms, cart.capacity) == ("cart", 10 * 86_400_000, 10)
    assert [r.name for r in window_relations(settings, ["fav", "buy"])] == ["fav", "buy"]
    assert settings.with_relations(["buy", "new"]).relations["buy"].weight == 5
    options = trainer_options(settings, device="cpu")
    assert (options.dim, options.seed, options.examples_max) == (32, 3, 77)
    assert options.behavior_weights == {"buy": 5.0, "cart": 1.0}
    assert (options.negatives, options.contrastive_weight) == ({"buy": 10}, 0.05)
    file = file_options(settings)
    assert (file.format, file.no_header, file.columns) == ("csv", True, {"user": "0", "ts": "4"})
    assert file.relations == ("buy", "cart")
    assert file_options(Settings()).relations is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 1


# --- secrets, addresses, times -----------------------------------------------------


def test_nothing_secret_is_shown() -> None:
    text = (
        '[kafka.secrets]\n"sasl.password" = "hush"\n'
        '[redis]\nurl = "redis://me:hush@cache:6379/1"\npassword = "hush"'
    )
    settings = load(written(text))
    assert settings.kafka.librdkafka()["sasl.password"] == "hush"
    for public in (str(shown(settings)), toml_of(shown(settings)), repr(settings.kafka)):
        assert "hush" not in public
    assert settings.redis.public_url() == "redis://cache:6379/1"


def test_the_redis_password_goes_into_the_address_escaped() -> None:
    text = '[redis]\nurl = "redis://cache:6379/1"\nusername = "me"\npassword = "a/b@c"'
    assert load(written(text)).redis.address() == "redis://me:a%2Fb%40c@cache:6379/1"


@pytest.mark.parametrize(
    ("start", "expected"),
    [("last span", 1_000_000), ("earliest", "earliest"), ("latest", "latest"), ("1s", 1_999_000), ("1d", 0)],
)
def test_where_the_first_start_reads_from(start: str, expected: int | str) -> None:
    settings = load(written(f'[kafka]\nstart = "{start}"'))
    assert settings.kafka.start_from(now_ms=2_000_000, longest_span_ms=1_000_000) == expected


def test_a_shard_is_two_numbers() -> None:
    assert load(written('[kafka]\nshard = "1/3"')).kafka.shard_of() == (1, 3)


def test_shown_settings_are_a_file_that_reads_back() -> None:
    settings = load(written(starter_file()))
    assert load(written(toml_of(shown(settings)), "shown.toml")) == settings
    assert tomllib.loads(toml_of({"a": {"odd key": {"x": 1}}, "b": "ü"})) == {
        "a": {"odd key": {"x": 1}},
        "b": "ü",
    }


@given(st.integers(0, 10**13))
def test_a_duration_written_and_read_is_the_same(ms: int) -> None:
    assert Duration.parse(str(Duration(ms))) == Duration(ms)


def test_the_example_is_what_init_writes() -> None:
    example = Path(__file__).resolve().parents[3] / "examples" / "driftgraph.toml"
    assert example.read_text(encoding="utf-8") == starter_file()


def test_a_timezone_is_one_of_the_iana_database_and_reaches_files() -> None:
    settings = Settings.model_validate({"events": {"timezone": "Asia/Shanghai"}})
    assert str(file_options(settings).times.zone) == "Asia/Shanghai"
    assert file_options(Settings.model_validate({})).times.zone is None
    for wrong in ("Asia/Shangai", "", "CST", "+08:00", "../etc/passwd", "America"):
        with pytest.raises(ConfigError, match="should be the name of a zone in the IANA database"):
            load(options={"events": {"timezone": wrong}})


@pytest.mark.parametrize("taken", ["kafka.topic", "a topic of events.attributes"])
def test_delisted_items_need_a_topic_of_their_own(taken: str) -> None:
    attributes = {"item": {"sort": "category"}, "item_topic": "items"}
    own = {"delisted_topic": "events" if taken == "kafka.topic" else "items", "attributes": attributes}
    with pytest.raises(ConfigError, match=f"events.delisted_topic and {taken} are both"):
        load(options={"kafka": {"topic": "events"}, "events": own})
