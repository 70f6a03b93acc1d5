"""What librdkafka tells beside messages, without a broker."""

from __future__ import annotations

import json
import logging

import pytest
from confluent_kafka import KafkaError

from driftgraph.stream.kafka.signals import KafkaSignals


def statistics(*ends: int, state: str = "UP") -> str:
    """One broker, and the topic t with these last stable offsets by partition."""
    partitions = {str(number): {"ls_offset": end, "hi_offset": end + 9} for number, end in enumerate(ends)}
    return json.dumps(
        {
            "brokers": {
                "b:1/1": {"nodeid": 1, "state": state},
                "b:1/bootstrap": {"nodeid": -1, "state": "UP"},
            },
            "topics": {
                "t": {"partitions": {"-1": {"ls_offset": 0}, **partitions}},
                "other": {"partitions": {}},
            },
        }
    )


def test_ends_are_the_last_stable_ones_and_those_before_are_kept_once() -> None:
    signals = KafkaSignals(["t"])
    signals.on_statistics(statistics(5, -1001))
    assert (signals.ends, signals.ends_before) == ({"t[0]": 5}, {})
    signals.on_statistics(statistics(7, 2))
    assert (signals.ends, signals.ends_before) == ({"t[0]": 7, "t[1]": 2}, {"t[0]": 5})
    signals.on_statistics(statistics(-1001, 3))
    assert (signals.ends, signals.ends_before) == ({"t[0]": 7, "t[1]": 3}, {"t[0]": 7, "t[1]": 2})


def test_a_partition_once_seen_is_never_forgotten() -> None:
    signals = KafkaSignals(["t"])
    for ends in ((0, 0, 0), (0,)):
        signals.on_statistics(statistics(*ends))
        assert signals.partition_counts == {"t": 3}


def test_only_a_broker_that_is_known_and_up_is_there() -> None:
    signals = KafkaSignals(["t"])
    for state, away in (("UP", False), ("CONNECT", True), ("UP", False)):
        signals.on_statistics(statistics(state=state))
        assert signals.away is away
    signals.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert signals.away


def test_a_broker_that_leaves_a_request_unanswered_is_away_before_librdkafka_gives_up() -> None:
    signals = KafkaSignals(["t"], fetch_wait_ms=1_000)
    for waiting, idle_s, away in ((1, 5, False), (1, 7, True), (0, 700, False), (1, 7, True), (1, 0, False)):
        told = json.loads(statistics(5))
        told["brokers"]["b:1/1"] |= {
            "waitresp_cnt": waiting,
            "txidle": idle_s * 10**6,
            "rxidle": idle_s * 10**6,
        }
        signals.on_statistics(json.dumps(told))
        assert signals.away is away


def test_the_cause_that_one_can_act_on_is_told_and_not_the_closed_connection_behind_it() -> None:
    signals = KafkaSignals(["t"])
    assert signals.why_unreachable("timed out") == (
        "timed out",
        "check the address, and that the broker runs",
    )
    signals.on_error(KafkaError(KafkaError._TRANSPORT, "connection refused"))
    assert signals.why_unreachable("")[0] == "connection refused"
    signals.on_error(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    signals.on_error(KafkaError(KafkaError._TRANSPORT, "closed by peer"))
    why, advice = signals.why_unreachable("")
    assert (why, "kafka.secrets" in advice) == ("wrong password", True)


def test_a_commit_that_goes_on_failing_is_told_once_until_one_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    signals, refused = KafkaSignals(["t"]), KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
    told = []
    with caplog.at_level(logging.WARNING, "driftgraph.kafka"):
        for error in (None, refused, refused, None, refused):
            signals.on_commit(error, [])
            told.append(len(caplog.records))
    assert told == [0, 1, 1, 1, 2]
