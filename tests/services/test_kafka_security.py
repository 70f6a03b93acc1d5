"""SASL and TLS on a real broker: what is passed on works, and what is wrong is one sentence."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from driftgraph.app.commands.doctor import checks as doctor_module
from driftgraph.app.commands.doctor.checks import examine
from driftgraph.app.commands.doctor.findings import State
from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.app.config.settings import Settings, load
from driftgraph.app.live import run as live_module
from driftgraph.stream.errors import DriftgraphError, SourceError
from driftgraph.stream.kafka.producer import EventProducer
from driftgraph.stream.kafka.source import KafkaSource
from driftgraph.stream.kafka.topics import ensure_topic
from driftgraph.stream.time.clock import SystemClock
from tests.app.cli.test_cli import Shell
from tests.app.cli.test_cli import shell as shell  # noqa: PLC0414  a fixture
from tests.kafka_brokers import DECODER, event, read_count
from tests.services.conftest import RealKafka, free_port
from tests.services.updaters import configured, run_to_its_end

pytestmark = pytest.mark.services

LOGIN = "org.apache.kafka.common.security"
UNSECURED = f"{LOGIN}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"


@dataclass(frozen=True)
class Secured:
    """A broker that lets nobody in without a login; by TLS at a second address, by certificate at a third."""

    sasl: str
    tls: str
    mutual: str  # knows a client by its certificate
    authority: Path  # the certificate that signed the broker's
    other_authority: Path
    folder: Path  # has the certificates of clients: right-client, other-client, expired-client
    token_url: str


def made_certificates(folder: Path, name: str) -> tuple[Path, Path]:
    """An authority, and a key with a certificate for 127.0.0.1 that it signed, both in one file."""

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    ca, own = f"{name}-ca", f"{name}-own"
    openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={name}")
    openssl(
        *("req", "-x509", *key, "-keyout", f"{own}.key", "-out", f"{own}.pem", "-subj", "/CN=127.0.0.1"),
        *("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-addext", "subjectAltName=IP:127.0.0.1"),
    )
    openssl("req", *key[:-2], "-keyout", f"{name}-client.key", "-out", "client.csr", "-subj", "/CN=ann")
    signed = ("x509", "-req", "-in", "client.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key")
    openssl(*signed, "-days", "2", "-out", f"{name}-client.pem")
    openssl(*signed, "-days", "-1", "-out", f"{name}-expired.pem")
    both = folder / f"{name}-key-and-certificate.pem"
    both.write_bytes((folder / f"{own}.key").read_bytes() + (folder / f"{own}.pem").read_bytes())
    return folder / f"{ca}.pem", both


def unsigned_token() -> str:
    """A token for ann that is good for an hour, as the broker's validator for tests takes it."""

    def part(value: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now = int(time.time())
    return f"{part({'alg': 'none'})}.{part({'sub': 'ann', 'iat': now, 'exp': now + 3_600})}."


class TokenEndpoint(BaseHTTPRequestHandler):
    """Gives a token to who knows the secret."""

    def do_POST(self) -> None:
        right = base64.b64encode(b"driftgraph:s3cret").decode()
        allowed = self.headers.get("Authorization") == f"Basic {right}"
        answer = {"access_token": unsigned_token()} if allowed else {"error": "invalid_client"}
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def token_endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), TokenEndpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


def broker_settings(tls_port: int, mutual_port: int, keys: Path, authority: Path) -> list[str]:
    plain = f'{LOGIN}.plain.PlainLoginModule required username="broker" password="b" user_broker="b" '
    plain += 'user_ann="plain-secret";'
    listeners = f"SASL_PLAINTEXT://127.0.0.1:@PORT@,SASL_SSL://127.0.0.1:{tls_port}"
    listeners += f",SSL://127.0.0.1:{mutual_port}"
    own, tls = "listener.name.sasl_plaintext", "listener.name.sasl_ssl"
    return [
        f"listeners={listeners},CONTROLLER://127.0.0.1:@CONTROLLER@",
        f"advertised.listeners={listeners}",
        "inter.broker.listener.name=SASL_PLAINTEXT",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,OAUTHBEARER",
        f"{own}.plain.sasl.jaas.config={plain}",
        f"{own}.scram-sha-256.sasl.jaas.config={LOGIN}.scram.ScramLoginModule required;",
        f"{own}.oauthbearer.sasl.jaas.config={LOGIN}.oauthbearer.OAuthBearerLoginModule required "
        'unsecuredLoginStringClaim_sub="broker";',
        f"{own}.oauthbearer.sasl.server.callback.handler.class={UNSECURED}",
        f"{tls}.sasl.enabled.mechanisms=PLAIN",
        f"{tls}.plain.sasl.jaas.config={plain}",
        f"{tls}.ssl.keystore.type=PEM",
        f"{tls}.ssl.keystore.location={keys}",
        "listener.name.ssl.ssl.keystore.type=PEM",
        f"listener.name.ssl.ssl.keystore.location={keys}",
        "listener.name.ssl.ssl.truststore.type=PEM",
        f"listener.name.ssl.ssl.truststore.location={authority}",
        "listener.name.ssl.ssl.client.auth=required",
    ]


@pytest.fixture(scope="module")
def secured(kafka_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority, keys = made_certificates(folder, "right")
    other, _ = made_certificates(folder, "other")
    tls_port, mutual_port = free_port(), free_port()
    login = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "ann",
        "sasl.password": "plain-secret",
    }
    settings = broker_settings(tls_port, mutual_port, keys, authority)
    broker = RealKafka(kafka_program, folder / "kafka", settings, "ann=scram-secret", login)
    try:
        with token_endpoint() as url:
            yield Secured(
                broker.address,
                f"127.0.0.1:{tls_port}",
                f"127.0.0.1:{mutual_port}",
                authority,
                other,
                folder,
                url,
            )
    finally:
        broker.stop()


def certificate_of(secured: Secured, name: str) -> dict[str, str]:
    """A client's certificate, and its key."""
    authority = name.partition("-")[0]
    return {
        "ssl.certificate.location": str(secured.folder / name),
        "ssl.key.location": str(secured.folder / f"{authority}-client.key"),
    }


def settings_of(secured: Secured, way: str, **changed: str) -> Settings:
    """The configuration of a way in, with other values for some properties."""
    options = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": way, "sasl.username": "ann"}
    secrets = {"sasl.password": "plain-secret"}
    servers = secured.sasl
    if way == "SCRAM-SHA-256":
        secrets = {"sasl.password": "scram-secret"}
    elif way == "OAUTHBEARER":
        options = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": "driftgraph",
            "sasl.oauthbearer.token.endpoint.url": secured.token_url,
        }
        secrets = {"sasl.oauthbearer.client.secret": "s3cret"}
    elif way == "TLS":
        servers = secured.tls
        options |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "ssl.ca.location": str(secured.authority),
        }
    elif way == "MUTUAL":
        servers, secrets = secured.mutual, {}
        options = {"security.protocol": "SSL", "ssl.ca.location": str(secured.authority)} | certificate_of(
            secured, "right-client.pem"
        )
    for name, value in changed.items():
        key = name.replace("__", ".")
        (secrets if key in secrets else options)[key] = value
    kafka = {
        "bootstrap_servers": servers,
        "topic": f"events-{uuid4().hex[:8]}",
        "start": "earliest",
        "options": options,
        "secrets": secrets,
    }
    return load(options={"kafka": kafka, "relations": {"click": {}}})


def source_of_settings(settings: Settings, connect_timeout_s: float) -> KafkaSource:
    clock = SystemClock()
    options = replace(live_module._kafka_options(settings, clock), connect_timeout_s=connect_timeout_s)
    return KafkaSource(options, DECODER, clock)


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "OAUTHBEARER", "TLS", "MUTUAL"])
def test_each_way_in_reads_events(secured: Secured, way: str) -> None:
    settings = settings_of(secured, way)
    producer = Producer(settings.kafka.librdkafka())
    for number in range(10):
        producer.produce(settings.kafka.topic, event(f"u{number}"))
    assert producer.flush(30) == 0
    source = source_of_settings(settings, connect_timeout_s=10)
    users = [user for part in read_count(source, 10) for user in part.batch.user.to_list()]
    assert sorted(users) == [f"u{n}" for n in range(10)]
    source.close()


SASL_ADVICE = "check the sasl properties in kafka.options and kafka.secrets"
TLS_ADVICE = "check security.protocol and ssl.ca.location in kafka.options"
CLIENT_ADVICE = (
    "the broker does not take our certificate: check that ssl.certificate.location and ssl.key.location in "
    "kafka.options name one that its authority has signed and that has not expired"
)
PROTOCOL_ADVICE = (
    "whoever listens there closes the connection: check the address, and whether security.protocol in "
    "kafka.options should be SSL, SASL_SSL or SASL_PLAINTEXT"
)


@pytest.mark.parametrize(
    ("way", "changed", "said", "advice"),
    [
        ("PLAIN", {"sasl__password": "wr0ng"}, "Authentication failed", SASL_ADVICE),
        ("SCRAM-SHA-256", {"sasl__password": "wr0ng"}, "Authentication failed", SASL_ADVICE),
        ("SCRAM-SHA-256", {"sasl__username": "bob"}, "Authentication failed", SASL_ADVICE),
        ("OAUTHBEARER", {"sasl__oauthbearer__client__secret": "wr0ng"}, "", SASL_ADVICE),
        ("PLAIN", {"sasl__mechanism": "SCRAM-SHA-512"}, "SCRAM-SHA-512", SASL_ADVICE),
        ("TLS", {"ssl__ca__location": "other"}, "certificate verify failed", TLS_ADVICE),
        ("TLS", {"sasl__password": "wr0ng"}, "Authentication failed", SASL_ADVICE),
        ("TLS", {"security__protocol": "SASL_PLAINTEXT"}, "", PROTOCOL_ADVICE),
        ("TLS", {"security__protocol": "PLAINTEXT"}, "", PROTOCOL_ADVICE),
        ("PLAIN", {"security__protocol": "SSL"}, "PLAINTEXT broker listener", TLS_ADVICE),
        ("PLAIN", {"security__protocol": "PLAINTEXT"}, "", PROTOCOL_ADVICE),
        ("MUTUAL", {"ssl__certificate__location": "other-client.pem"}, "certificate", CLIENT_ADVICE),
        ("MUTUAL", {"ssl__certificate__location": "right-expired.pem"}, "certificate", CLIENT_ADVICE),
        ("MUTUAL", {"ssl__certificate__location": ""}, "certificate", CLIENT_ADVICE),
        ("MUTUAL", {"ssl__ca__location": "other"}, "certificate verify failed", TLS_ADVICE),
    ],
)
def test_what_is_wrong_is_one_sentence_in_time(
    secured: Secured, way: str, changed: dict[str, str], said: str, advice: str
) -> None:
    if changed.get("ssl__ca__location"):
        changed = {"ssl__ca__location": str(secured.other_authority)}
    settings = settings_of(secured, way, **changed)
    if (certificate := changed.get("ssl__certificate__location")) is not None:
        own = certificate_of(secured, certificate) if certificate else {"ssl.certificate.location": ""}
        settings.kafka.options.update(own)
        if not certificate:
            settings.kafka.options.pop("ssl.key.location")
            settings.kafka.options.pop("ssl.certificate.location")
    begin = time.monotonic()
    with pytest.raises(SourceError) as told:
        source_of_settings(settings, connect_timeout_s=3)
    assert time.monotonic() - begin < 60
    assert str(told.value).startswith("cannot reach Kafka at 127.0.0.1:")
    assert said in str(told.value)
    assert str(told.value).endswith(advice)
    assert "wr0ng" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ssl.ca.location", "/never/made.pem", "ssl.ca.location = /never/made.pem is not there"),
        ("ssl.key.location", "/never/made.key", "ssl.key.location = /never/made.key is not there"),
        ("ssl.key.location", "other-client.key", "key values mismatch"),
        ("ssl.endpoint.identification.algorithm", "never", "ssl.endpoint.identification.algorithm"),
    ],
)
def test_a_property_that_cannot_be_used_is_named(secured: Secured, name: str, value: str, said: str) -> None:
    settings = settings_of(secured, "MUTUAL")
    settings.kafka.options[name] = str(secured.folder / value) if value.startswith("other") else value
    for use in (
        lambda: source_of_settings(settings, 1),
        lambda: EventProducer(settings.kafka.librdkafka(), "t"),
        lambda: ensure_topic(settings.kafka.librdkafka(), "t"),
    ):
        with pytest.raises(DriftgraphError) as told:
            use()
        assert said in str(told.value)
        assert "check kafka.options" in str(told.value)


REFUSALS = [
    ("PLAIN", {"sasl.password": "wr0ng"}, "Authentication failed", SASL_ADVICE),
    ("MUTUAL", "right-expired.pem", "certificate", CLIENT_ADVICE),
]


def written(secured: Secured, path: Path, way: str, changed: dict[str, str] | str, topic: str) -> Path:
    """A configuration file with a way in, of which something is wrong."""
    kafka = settings_of(secured, way).kafka
    options = dict(kafka.options) | (certificate_of(secured, changed) if isinstance(changed, str) else {})
    secrets = dict.fromkeys(kafka.secrets, "plain-secret") | (changed if isinstance(changed, dict) else {})
    lines = ["[kafka]", f'bootstrap_servers = "{kafka.bootstrap_servers}"', f'topic = "{topic}"']
    lines += ["[kafka.options]", *(f'"{key}" = "{value}"' for key, value in options.items())]
    lines += ["[kafka.secrets]", *(f'"{key}" = "{value}"' for key, value in secrets.items())]
    lines += ["[relations.click]", "[faust]", 'source_topic = "site"']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("way", "changed", "said", "advice"), REFUSALS)
@pytest.mark.parametrize(
    "argv",
    [
        ["produce", "events.csv"],
        ["validate", "kafka:t"],
        ["erase", "u1"],
        ["dlq", "ls", "--place", "kafka"],
        ["faust", "--", "worker"],
    ],
    ids=lambda argv: argv[0],
)
def test_every_command_says_that_it_is_refused_and_by_what(
    secured: Secured,
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    way: str,
    changed: dict[str, str] | str,
    said: str,
    advice: str,
) -> None:
    """Not that the brokers should be started."""
    for place in (
        "driftgraph.stream.kafka.topics.ANSWER_WITHIN_S",
        "driftgraph.stream.dead_letters.topic.ANSWER_WITHIN_S",
        "driftgraph.app.cli.faust.METADATA_TIMEOUT_S",
        "driftgraph.stream.kafka.producer.FINISH_WITHIN_S",
    ):
        monkeypatch.setattr(place, 2.0)
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,behavior,timestamp\nu,i,click,1783000000\n", encoding="utf-8"
    )
    config = written(secured, tmp_path / "driftgraph.toml", way, changed, "t")
    failed = (
        shell(*argv[:1], "-c", str(config), *argv[1:])
        if argv[0] != "dlq"
        else shell(*argv, "-c", str(config))
    )
    assert failed.code == 1
    assert said in failed.sentence()
    assert failed.sentence().endswith(advice)
    assert "wr0ng" not in failed.sentence()


def test_produce_fills_a_topic_with_a_certificate(secured: Secured, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,behavior,timestamp\nu,i,click,1783000000\n", encoding="utf-8"
    )
    config = written(secured, tmp_path / "driftgraph.toml", "MUTUAL", {}, f"made-{uuid4().hex[:8]}")
    done = shell("produce", "events.csv", "-c", str(config), "--json")
    assert (done.code, done.json()["produced"], done.json()["created"]) == (0, 1, True)


@pytest.fixture
def redis_url() -> Iterator[str]:
    """``run`` asks for its lease there before it asks Kafka for anything."""
    with EmbeddedRedis() as server:
        yield server.url


def test_run_and_doctor_say_that_a_password_is_wrong(
    secured: Secured, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, kafka=secured.sasl, topic="events", redis=redis_url)
    text = config.read_text(encoding="utf-8").replace(
        "[relations.click]",
        """[kafka.options]
        "security.protocol" = "SASL_PLAINTEXT"
        "sasl.mechanism" = "PLAIN"
        "sasl.username" = "ann"
        [kafka.secrets]
        "sasl.password" = "wr0ng"
        [relations.click]""",
    )
    config.write_text(text, encoding="utf-8")
    failed = run_to_its_end(config)
    assert failed.returncode == 1
    *_, line = failed.stderr.strip().splitlines()
    assert line.startswith(f"driftgraph: cannot reach Kafka at {secured.sasl}")
    assert "Authentication failed" in line
    assert line.endswith(SASL_ADVICE)
    monkeypatch.setattr(doctor_module, "_device", lambda _: iter(()))
    [check] = [check for check in examine(load(config)).checks if check.name == "events"]
    assert check.state is State.FAIL
    assert "Authentication failed" in check.detail
