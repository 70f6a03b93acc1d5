"""``driftgraph faust``: what it refuses before Faust starts, and what it does not load."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from driftgraph.app.cli.faust import options_of
from driftgraph.app.config.settings import Settings
from driftgraph.stream.errors import ConfigError
from tests.app.cli.test_cli import Shell, shell  # noqa: F401  a fixture
from tests.kafka_brokers import event, mock_kafka, produce

RELATIONS = "[relations.click]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no relations are configured"),
        (RELATIONS + '[faust]\nsource_topic = "events"', "is kafka.topic itself"),
        (RELATIONS + '[faust]\nnormalize = "a:b"', "has no topic to read"),
        (RELATIONS + '[faust]\nnormalize = "a.b"', "should be module:function"),
        (RELATIONS + '[faust]\nweb = "6066"', "should be host:port"),
        (RELATIONS + '[faust]\nweb = "a:99999"', "should be host:port"),
        (RELATIONS + '[kafka.options]\n"security.protocol" = "SASL_SSL"', "sasl.mechanism = ''"),
        (
            RELATIONS
            + '[kafka.options]\n"security.protocol" = "SASL_PLAINTEXT"\n"sasl.mechanism" = "GSSAPI"',
            "'GSSAPI' is none that the Faust app can do",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(shell: Shell, text: str, said: str) -> None:  # noqa: F811
    Path("driftgraph.toml").write_text(text, encoding="utf-8")
    outcome = shell("faust", "--", "tables")
    assert outcome.code == 2
    assert said in outcome.sentence()


def test_a_broker_or_topic_that_is_not_there_is_told_in_a_sentence(shell: Shell) -> None:  # noqa: F811
    with mock_kafka() as address:
        produce(address, "site", [{"value": event("u1")}])
        text = f'[kafka]\nbootstrap_servers = "{address}"\ntopic = "canonical"\n{RELATIONS}'
        Path("driftgraph.toml").write_text(text + '[faust]\nsource_topic = "site"\n', encoding="utf-8")
        outcome = shell("faust", "--normalize", "no.such:function", "--", "worker")
        assert (outcome.code, "cannot be imported" in outcome.sentence()) == (1, True)
        outcome = shell("faust", "--", "worker")
        assert outcome.code == 1
        assert "has no topic 'canonical'; create it" in outcome.sentence()


def test_security_options_become_fausts() -> None:
    settings = Settings.model_validate(
        {
            "relations": {"click": {}},
            "kafka": {
                "options": {
                    "security.protocol": "SASL_PLAINTEXT",
                    "sasl.mechanism": "SCRAM-SHA-256",
                    "sasl.username": "ann",
                },
                "secrets": {"sasl.password": "secret1"},
            },
        }
    )
    given = options_of(settings).credentials
    assert (given.username, given.password, given.mechanism.value, given.protocol.value) == (
        "ann", "secret1", "SCRAM-SHA-256", "SASL_PLAINTEXT"
    )  # fmt: skip
    open_listener = Settings.model_validate({"relations": {"click": {}}})
    assert options_of(open_listener).credentials is None


def test_a_mechanism_that_faust_cannot_do_is_a_config_error() -> None:
    options = {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}
    settings = Settings.model_validate({"relations": {"click": {}}, "kafka": {"options": options}})
    with pytest.raises(ConfigError, match="OAUTHBEARER"):
        options_of(settings)


def test_only_the_command_loads_faust() -> None:
    """Neither the command line nor live ingestion pays for it."""
    code = "import sys, driftgraph.app.cli.main, driftgraph.app.live.run; print('faust' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_kafka_that_is_away_fills_no_log_of_fausts(caplog: pytest.LogCaptureFixture) -> None:
    """aiokafka logs each try, sixty lines a second."""
    from aiokafka import client, conn

    from driftgraph.app.cli.faust import quiet_aiokafka

    quiet_aiokafka()
    try:
        for number in range(50):
            conn.log.error("Unable connect to node with id %s: %s", number, "refused")
            client.log.error("Unable to update metadata from %s", [number])
        assert [record.getMessage() for record in caplog.records] == [
            "Unable connect to node with id 0: refused"
        ]
    finally:
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("aiokafka"):
                logging.getLogger(name).filters.clear()
