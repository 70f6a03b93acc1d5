"""Secrets: whatever is set, wherever it stands, no command prints it and no file has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from driftgraph.app.cli import serving
from driftgraph.app.cli.main import app, main
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import load
from driftgraph.app.config.text import secrets_of, shown
from driftgraph.snapshots.generations.keys import StoreError, connect
from driftgraph.stream.addresses import fault_of, public_url, without_addresses
from driftgraph.stream.errors import ConfigError

HUSH = "h5sh"  # begins every secret here
NOWHERE = "127.0.0.1:1"
EVENT = '{"user_id": "u1", "item_id": "i1", "behavior": "click", "ts": 1783000000}\n'


# --- addresses ---------------------------------------------------------------------------------------

HARD = st.text(alphabet="aB7/?#@:%[]\\&= ;+|", max_size=8)


@example("/", "", "0", "redis")
@example("", "/top", "0", "redis")
@example("12?34", "", "0", "redis")
@example("12#34", "", "", "rediss")
@example("a[", "b", "0", "redis")
@example("℀", "", "0", "redis")  # which urlsplit repeats in its error
@given(HARD, HARD, st.sampled_from(["", "0", "15"]), st.sampled_from(["redis", "rediss", "http"]))
def test_a_password_as_it_is_typed_is_used_whole_or_refused_and_never_shown(
    before: str, after: str, path: str, scheme: str
) -> None:
    password = f"{before}{HUSH}{after}"
    url = f"{scheme}://shop:{password}@host:6379/{path}"
    fault = fault_of(url, (scheme,))
    assert HUSH not in public_url(url)
    assert HUSH not in (fault or "")
    if fault is None:
        parts = urlsplit(url)
        assert (parts.hostname, parts.port, unquote(parts.password or "")) == (
            "host",
            6379,
            unquote(password),
        )
        assert public_url(url) == f"{scheme}://host:6379/{path}"
    else:
        assert "%2F for /" in fault


@given(HARD, HARD)
def test_a_password_that_is_encoded_reaches_redis_as_it_is(before: str, after: str) -> None:
    password = f"{before}{HUSH}{after}"
    client = connect(f"redis://{quote(password, safe='')}:{quote(password, safe='')}@host:6379/3")
    assert client.connection_pool.connection_kwargs["password"] == password
    assert client.connection_pool.connection_kwargs["username"] == password


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("redis://h/0?username=h5sh&password=h5sh", "redis://h/0?…"),
        ("redis://:h5sh@h:6380", "redis://h:6380"),
        ("redis://h5sh@h", "redis://h"),
        ("unix://shop:h5sh@/run/redis.sock?db=1", "unix:///run/redis.sock?…"),
        ("unix:///run/me@home.sock", "unix:///run/me@home.sock"),
        ("redis://a:h5sh@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://shop:top/h5sh@h", "redis://…"),
        ("redis://shop:h5sh", "redis://…"),
        ("unix://us:p/h5sh@/sock", "unix://…"),
        ("h5sh", "…"),
        ("shop:h5sh@h:6379", "…"),
        ("redis:h5sh", "…"),
    ],
)
def test_an_address_is_shown_without_user_password_and_query(url: str, public: str) -> None:
    assert public_url(url) == public
    assert HUSH not in without_addresses(f"ValueError({url!r}): {url}, {url}.") or "://" not in url


@pytest.mark.parametrize(
    "url",
    [
        "redis://shop:top/h5sh@h", "redis://shop:1?h5sh@h", "redis://shop:1#h5sh@h/0", "redis://h:h5sh/0",
        "redis://h/h5sh", "redis://shop:h5sh@/0", "redis://shop:h5sh@", "unix://a:b/h5sh@/sock",
        "redis://a:b[h5sh@h", "redis://a:℀h5sh@h", "shop:h5sh@h", "http://a:h5sh@h", "redis://h/0#h5sh",
        "redis://h:99999/0?password=h5sh", "redis://a:h5\nsh@h/h5sh",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_in_a_sentence_without_it(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(options={"redis": {"url": url}})
    assert "redis.url" in str(refused.value)
    assert HUSH not in str(refused.value)
    if url == "redis://h/h5sh":
        return  # a registry may have a path
    with pytest.raises(ConfigError) as refused:
        load(options={"events": {"format": "registry", "registry": {"url": url.replace("redis:", "http:")}}})
    assert "registry.url" in str(refused.value)
    assert HUSH not in str(refused.value)


@pytest.mark.parametrize("query", ["h5sh=1", "password=x&db=h5sh", "socket_timeout=h5sh", "ssl=h5sh"])
def test_an_option_that_redis_does_not_know_is_a_sentence_without_it(query: str) -> None:
    with pytest.raises(ConfigError, match="something behind its \\?") as refused:
        connect(f"redis://h/0?{query}")
    assert HUSH not in str(refused.value)
    assert refused.value.__cause__ is None


# --- settings ----------------------------------------------------------------------------------------

WRONG_PLACES = [
    '[kafka]\nbootstrap_servers = "SASL_SSL://shop:h5sh@h:9092"',
    '[kafka]\nbootstrap_servers = "shop:h5sh@h:9092"',
    '[kafka]\noptions = "sasl.password=h5sh"',
    '[kafka]\nsecrets = "sasl.password=h5sh"',
    '[kafka]\nsecrets = ["h5sh"]',
    '[kafka]\npassword = "h5sh"',
    '[kafka.options]\n"sasl.password" = ["h5sh"]',
    '[kafka.secrets]\n"sasl.password" = ["h5sh"]',
    'kafka = "sasl.password=h5sh"',
    'redis = "redis://shop:h5sh@h"',
    'redis = ["redis://shop:h5sh@h"]',
    '[redis]\nurl = ["redis://shop:h5sh@h"]',
    '[redis]\nurl = { password = "h5sh" }',
    '[redis]\npasword = "h5sh"',
    '[redis]\npassword = ["h5sh"]',
    '[redis]\nnamespace = "redis://shop:h5sh@h"',
    '[redis]\nusername = ["h5sh"]',
    '[events.registry]\nurl = "http://h:8081?token=h5sh"',
    '[events.registry]\nurl = "http://h5sh@h:8081"',
    '[events.registry]\npassword = 5\nuser = "h5sh"',
    '[redis]\npassword = "h5sh',
]
SECRET_OPTIONS = [
    "sasl.password", "SASL.PASSWORD", "ssl.key.password", "ssl.keystore.password", "ssl.truststore.password",
    "ssl.key.pem", "ssl_key", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "sasl.jaas.config",
    "sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem", "basic.auth.user.info",
    "schema.registry.basic.auth.user.info", "schema.registry.basic.auth.credentials", "api.key", "sasl.token",
]  # fmt: skip
OPEN_OPTIONS = [
    "security.protocol", "sasl.mechanism", "sasl.username", "ssl.ca.location", "ssl.key.location",
    "ssl.certificate.location", "sasl.oauthbearer.method", "sasl.oauthbearer.token.endpoint.url",
    "sasl.oauthbearer.client.id", "client.id", "enable.sasl.oauthbearer.unsecure.jwt", "message.max.bytes",
    "sasl.oauthbearer.assertion.private.key.file", "sasl.kerberos.keytab",
    "sasl.login.callback.handler.class",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG_PLACES)
def test_a_secret_in_a_wrong_place_is_not_repeated(text: str, tmp_path: Path) -> None:
    path = tmp_path / "driftgraph.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert HUSH not in str(refused.value)


@pytest.mark.parametrize("option", SECRET_OPTIONS)
def test_a_kafka_property_that_is_a_secret_goes_into_secrets(option: str) -> None:
    with pytest.raises(
        ConfigError, match=f"{option} is a secret: move it from options to secrets"
    ) as refused:
        load(options={"kafka": {"options": {option: HUSH}}})
    assert HUSH not in str(refused.value)
    settings = load(options={"kafka": {"secrets": {option: HUSH}}})
    assert HUSH not in str(shown(settings)) + repr(settings)
    assert settings.kafka.librdkafka()[option] == HUSH


@pytest.mark.parametrize("option", OPEN_OPTIONS)
def test_a_kafka_property_that_is_none_stays_readable(option: str) -> None:
    assert load(options={"kafka": {"options": {option: "x"}}}).kafka.options == {option: "x"}


def test_the_secrets_of_a_configuration_are_known(tmp_path: Path) -> None:
    assert secrets_of(load(configured(tmp_path, NOWHERE))) == {
        f"{HUSH}-{n}" for n in ("url", "redis", "kafka", "registry", "proxy", "a/b", "a%2Fb")
    }


# --- commands ----------------------------------------------------------------------------------------


def configured(folder: Path, redis_at: str, login: str = f"{HUSH}-user:{HUSH}-a%2Fb@") -> Path:
    """A configuration with a secret in every place where one can stand."""
    path = folder / "driftgraph.toml"
    path.write_text(
        f"""
        data_dir = "{folder / "var"}"
        [kafka]
        bootstrap_servers = "{NOWHERE}"
        [kafka.options]
        "security.protocol" = "SASL_PLAINTEXT"
        "sasl.mechanism" = "PLAIN"
        "sasl.username" = "shop"
        "sasl.oauthbearer.token.endpoint.url" = "https://a:{HUSH}-proxy@idp/token?x={HUSH}-proxy"
        [kafka.secrets]
        "sasl.password" = "{HUSH}-kafka"
        [events]
        format = "registry"
        [events.registry]
        url = "http://{NOWHERE}"
        username = "shop"
        password = "{HUSH}-registry"
        [relations.click]
        [redis]
        url = "redis://{login}{redis_at}/0?client_name={HUSH}-url"
        password = "{HUSH}-redis"
        """,
        encoding="utf-8",
    )
    return path


COMMANDS = [
    ["config", "show"],
    ["config", "show", "--json"],
    ["config", "check"],
    ["config", "check", "--json"],
    ["status"],
    ["status", "--json"],
    ["doctor", "--json"],
    ["recommend", "u1"],
    ["generations"],
    ["rollback"],
    ["promote"],
    ["validate", "events.jsonl"],
    ["validate", "kafka:events"],
    ["produce", "events.jsonl"],
    ["replay", "events.jsonl"],
    ["erase", "u1"],
    ["dlq", "ls"],
    ["run"],
]


def ran(config: Path, *argv: str) -> str:
    """All that a command printed, and all that it wrote."""
    folder = config.parent
    (folder / "events.jsonl").write_text(EVENT, encoding="utf-8")
    code = "from driftgraph.app.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv, "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    written = [p.read_bytes() for p in folder.rglob("*") if p.is_file() and p != config]
    return done.stdout + done.stderr + b"\n".join(written).decode(errors="replace")


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_no_command_prints_or_writes_a_secret(
    argv: list[str], tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    """Kafka and the registry are away, and Redis does not accept the login, so each ends with an error."""
    assert redis_client.ping()
    config = configured(tmp_path, urlsplit(redis_server.url).netloc)
    told = ran(config, *argv)
    assert HUSH not in told, told
    assert told.strip()


@pytest.mark.parametrize(
    "argv", [["status"], ["recommend", "u1"], ["config", "show"], ["doctor"]], ids=" ".join
)
def test_none_is_printed_where_redis_accepts_the_login(
    argv: list[str], tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    redis_client.execute_command(
        "ACL", "SETUSER", f"{HUSH}-user", "on", f">{HUSH}-a/b", "~*", "+@all", "-zadd"
    )  # type: ignore[no-untyped-call]
    try:
        told = ran(configured(tmp_path, urlsplit(redis_server.url).netloc), *argv)
    finally:
        redis_client.execute_command("ACL", "DELUSER", f"{HUSH}-user")  # type: ignore[no-untyped-call]
    assert HUSH not in told, told
    assert "zadd" in told or argv != ["doctor"]


def test_a_traceback_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever fails unexpectedly, with whatever in its words."""
    config = configured(tmp_path, NOWHERE)

    def fails(*_: object) -> None:
        raise KeyError(f"{HUSH}-kafka {HUSH}-a/b {HUSH}-registry redis://x:{HUSH}@h/{HUSH} {HUSH}-redis")

    monkeypatch.setattr(serving, "store_of", fails)
    monkeypatch.setattr(sys, "argv", ["driftgraph", "status", "-c", str(config)])
    with pytest.raises(SystemExit):
        main()
    [kept] = (tmp_path / "var/errors").iterdir()
    said = capsys.readouterr().err
    assert "unexpected KeyError" in said
    assert "KeyError" in kept.read_text(encoding="utf-8")
    assert HUSH not in said + kept.read_text(encoding="utf-8")


def test_a_malformed_address_on_the_command_line_is_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["status", "-c", str(configured(tmp_path, NOWHERE)), "--redis", "redis://shop:top/h5sh@h"]
    )
    assert isinstance(done.exception, ConfigError)
    said = str(done.exception)
    assert said.startswith('the command line: redis.url = "redis://…": is no address')
    assert "%2F for /" in said


def test_an_error_of_redis_names_neither_its_user_nor_vectors(user_url: Callable[[str], str]) -> None:
    from driftgraph.snapshots.generations.store import GenerationStore
    from tests.services_redis import publish

    client = connect(user_url("~shop:* +@all -rpush"))
    with pytest.raises(StoreError) as refused:
        publish(GenerationStore(client, namespace="shop", epoch=1), 1)
    client.close()
    assert "its user has no permissions to run the 'rpush' command" in str(refused.value)
    assert "user0" not in str(refused.value)
    assert "EVALSHA" not in str(refused.value)


# --- a folder of secrets ------------------------------------------------------------------------------


def secrets_in_files(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """As Kubernetes mounts a Secret: names that are links into a hidden folder."""
    hidden = folder / "..data"
    hidden.mkdir()
    for name, text in files.items():
        (hidden / name).write_text(text, encoding="utf-8")
        (folder / name).symlink_to(hidden / name)
    monkeypatch.setenv("DRIFTGRAPH_SECRETS_DIR", str(folder))


def test_files_of_a_folder_set_secrets_behind_the_environment_and_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "driftgraph.toml"
    config.write_text('[web]\ntoken = "of the file"\n[redis]\npassword = "of the file"\n', encoding="utf-8")
    (folder := tmp_path / "secrets").mkdir()
    secrets_in_files(
        folder,
        monkeypatch,
        DRIFTGRAPH__WEB__TOKEN=f"{HUSH}-token\n",
        DRIFTGRAPH__REDIS__PASSWORD=f"{HUSH}-redis",
        DRIFTGRAPH__KAFKA__SECRETS=f'{{"sasl.password": "{HUSH}-kafka"}}',
    )
    monkeypatch.setenv("DRIFTGRAPH__REDIS__PASSWORD", f"{HUSH}-environment")
    settings = load(config)
    assert secrets_of(settings) == {f"{HUSH}-token", f"{HUSH}-environment", f"{HUSH}-kafka"}
    assert HUSH not in str(shown(settings))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("token", "x", "no setting has this name"),
        ("DRIFTGRAPH__WEBB__TOKEN", "x", "unknown key, did you mean web?"),
        ("DRIFTGRAPH__KAFKA__SECRETS", "{", "DRIFTGRAPH__KAFKA__SECRETS is not valid JSON"),
        ("DRIFTGRAPH__WEB__TOKN", HUSH, "unknown key web.tokn, did you mean token?"),
    ],
)
def test_a_file_that_sets_nothing_is_refused_without_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str
) -> None:
    secrets_in_files(tmp_path, monkeypatch, **{name: text})
    with pytest.raises(ConfigError) as refused:
        load(None)
    assert str(tmp_path) in str(refused.value)
    assert said in str(refused.value).replace("an unknown", "unknown")
    assert HUSH not in str(refused.value)


def test_a_folder_of_secrets_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTGRAPH_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"none: cannot be read .* correct DRIFTGRAPH_SECRETS_DIR"):
        load(None)
