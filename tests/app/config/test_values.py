"""Single values of the configuration: what is refused, in which words, and that none ends in a traceback."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel

from driftgraph.app.config.builders import file_options, trainer_options, watermark_rules, window_relations
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.config.tables.sections import Section
from driftgraph.app.config.text import shown, toml_of
from driftgraph.stream.addresses import fault_of
from driftgraph.stream.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(text: str) -> str:
    path = Path("driftgraph.toml")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "written",
    ['"2005"', "2005", "1104537600", '"1104537600"', "true", "2005-01-01", "2005-01-01T00:00:00", "00:00:00",
     '"2005-01-01"', '"2005-01-01T00:00:00"', '"yesterday"', '""', "[]", "1e9"],
)  # fmt: skip
def test_a_floor_is_a_moment_and_no_number(written: str) -> None:
    sentence = refusal(f"[time]\nfloor = {written}")
    assert sentence.startswith("driftgraph.toml: time.floor = ")
    assert 'should be a date and time with a zone, such as "2005-01-01T00:00:00Z"' in sentence


@pytest.mark.parametrize("written", ['"1970-01-02T00:00:00Z"', '"0001-01-01T00:00:00+23:59"'])
def test_a_floor_below_which_units_cannot_be_told_apart_is_refused(written: str) -> None:
    assert "should be 1973-03-03T09:46:40+00:00 or later" in refusal(f"[time]\nfloor = {written}")


@pytest.mark.parametrize(
    "written", ['"2005-01-01T01:00:00+01:00"', "2005-01-01T00:00:00Z", '"20050101T000000Z"']
)
def test_a_floor_may_be_text_or_a_time_of_toml(written: str) -> None:
    Path("driftgraph.toml").write_text(f"[time]\nfloor = {written}", encoding="utf-8")
    settings = load()
    assert settings.time.floor == datetime(2005, 1, 1, tzinfo=UTC)
    assert file_options(settings).times.floor_ms == 1_104_537_600_000


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("host:abc", "should be host:port,host:port: has a port that is no number from 1 to 65535"),
        ("a:1,b:99999", "part 2 of 2, 'b:99999', has a port that is no number"),
        ("a:1,b:0", "part 2 of 2, 'b:0', has a port"),
        ("a:1,:9092", "part 2 of 2, ':9092', has no host"),
        ("a:1,,b:1", "part 2 of 3, '', is empty"),
        ("a:1,", "part 2 of 2, '', is empty"),
        ("a:1;b:1", "has several colons: put a comma between brokers"),
        ("a:1 b:1", "has several colons: put a comma between brokers"),
        ("9092", "has no host"),
        ("my host:1", "has a host that is no name"),
        ("::1:9092", "an IPv6 address in brackets as [::1]:9092"),
        ("a:", "has a port"),
        ("a:٩", "has a port"),
        (" ", "is empty"),
    ],
)
def test_brokers_are_hosts_and_ports_and_the_wrong_part_is_named(written: str, says: str) -> None:
    sentence = refusal(f'[kafka]\nbootstrap_servers = "{written}"')
    assert sentence.startswith("driftgraph.toml: kafka.bootstrap_servers = ")
    assert says in sentence


@pytest.mark.parametrize(
    "written",
    ["localhost:9092", "a-b.c_d:1,10.0.0.1:65535", "kafka", "[::1]:9092", "[fe80::1%eth0]:1, b:2", "a.:1"],
)
def test_brokers_that_are_right_are_taken(written: str) -> None:
    assert load(options={"kafka": {"bootstrap_servers": written}}).kafka.bootstrap_servers == written


@pytest.mark.parametrize("table", ["options", "secrets"])
@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ('security.protocol = "h5sh"', "security.protocol"),
        ('sasl.oauthbearer.method = "h5sh"', "sasl.oauthbearer.method"),
        ('sasl = { password = "h5sh" }', "sasl.password"),
    ],
)
def test_a_property_whose_dots_are_not_quoted_is_to_be_quoted(table: str, written: str, whole: str) -> None:
    sentence = refusal(f"[kafka.{table}]\n{written}")
    assert f'a name with a dot stands in quotes: write "{whole}" = …' in sentence
    assert "h5sh" not in sentence


def test_a_relation_whose_dots_are_not_quoted_is_to_be_quoted() -> None:
    assert 'quote it as [relations."add.to.cart"]' in refusal("[relations.add.to.cart]")
    assert 'quote it as [relations."add.cart"]' in refusal('[relations.add.cart]\nspan = "3d"')


@pytest.mark.parametrize("key", ["data_dir", "window.dir", "events.registry.ca_file"])
@pytest.mark.parametrize("path", ["s3://k:h5sh@b/x", "s3:/k:h5sh@b", "file:///tmp/h5sh@", "HTTP://h/?h5sh"])
def test_a_folder_that_is_an_address_is_refused_and_not_shown(key: str, path: str) -> None:
    sentence = refusal(f'{key} = "{path}"')
    assert f"driftgraph.toml: {key} = " in sentence
    assert "is an address and no folder of this machine" in sentence
    assert "h5sh" not in sentence


def test_a_folder_as_an_option_is_refused_the_same_way() -> None:
    with pytest.raises(ConfigError) as caught:
        load(options={"data_dir": Path("s3://k:h5sh@b")})
    assert "is an address" in str(caught.value)
    assert "h5sh" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "says"), [("", "is empty"), ("  ", "is empty"), ("a\\u0000b", "a zero byte")]
)
def test_a_folder_that_cannot_be_one_is_refused(path: str, says: str) -> None:
    assert says in refusal(f'data_dir = "{path}"')


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://host:abc/0", "has a port that is no number from 1 to 65535"),
        ("redis://host:6379x", "has a port that is no number"),
        ("redis://host:99999/0", "has a port that is no number"),
        ("redis://host:0/0", "has a port that is no number"),
        ("redis://me:pw@host:abc", "has a port that is no number"),
        ("redis://[::1]:x/0", "has a port that is no number"),
        ("redis://::1:6379/0", "put an IPv6 address in brackets"),
    ],
)
def test_a_port_that_is_none_is_told_as_such(url: str, says: str) -> None:
    fault = fault_of(url, ("redis",))
    assert fault is not None
    assert says in fault
    assert "%2F" not in fault


@pytest.mark.parametrize("url", ["redis://me:pa/ss@host", "redis://me:pa#ss@host", "redis://me:pa?s@host:1"])
def test_a_password_that_cuts_an_address_is_told_as_such(url: str) -> None:
    assert "%2F for /" in (fault_of(url, ("redis",)) or "")


# --- whatever is written -----------------------------------------------------------------------------


def text_keys() -> list[tuple[str, ...]]:
    """Every key whose value may be written as text."""
    found: list[tuple[str, ...]] = []

    def walk(model: type[BaseModel], path: tuple[str, ...]) -> None:
        for key, field in model.model_fields.items():
            below = field.annotation
            if isinstance(below, type) and issubclass(below, Section):
                walk(below, (*path, key))
            else:
                found.append((*path, key))

    walk(Settings, ())
    return [*found, ("relations", "click", "span")]


HARD = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "2005",
            "0",
            "-1",
            "1e999",
            "nan",
            "9" * 400,
            "9" * 400 + "d",
            "\0",
            "\ud800",
            "http://[",
            "a:b:c",
            "[",
            "%",
        ]
    ),
    st.text(alphabet="0123456789:/@.[]#?-,dhTZ ", max_size=20),
)


@pytest.mark.parametrize("tree", [{"redis": {"username": "\ud800"}}, {"events": {"ignore": ["a", "\udcff"]}}])
def test_text_that_is_no_utf8_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"the command line: \w+\.\w+: is not UTF-8 text"):
        load(options={"relations": {"click": {}}, **tree})


@given(st.sampled_from(text_keys()), HARD)
@hypothesis_settings(
    max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_no_text_ends_in_anything_but_a_sentence(key: tuple[str, ...], text: str) -> None:
    """A value is refused with a ConfigError, or everything that is built from it can be built."""
    tree: Any = text
    for part in reversed(key):
        tree = {part: tree}
    try:
        settings = load(options={"relations": {"click": {}}, **tree})
        window_relations(settings)
        watermark_rules(settings)
    except ConfigError:
        return
    file_options(settings)
    trainer_options(settings, device="cpu")
    settings.redis.address()
    toml_of(shown(settings))
