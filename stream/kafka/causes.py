"""Why brokers cannot be used, and what to check: the second half of an error message that says what failed.

    librdkafka's error_cb ──► [Cause] ──► the error message of the consumer, the producer or the admin client

The error that a call gives says "timed out" or "transport failure"; its cause comes beside it, as a callback.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException

Property = str | int | float | bool

_ADDRESS: Final = "check the address, and that the broker runs"
_LOGIN: Final = "check the sasl properties in kafka.options and kafka.secrets"
_TLS: Final = "check security.protocol and ssl.ca.location in kafka.options"
_OUR_CERTIFICATE: Final = (
    "the broker does not take our certificate: check that ssl.certificate.location and ssl.key.location in "
    "kafka.options name one that its authority has signed and that has not expired"
)
_CLOSED: Final = (
    "whoever listens there closes the connection: check the address, and whether security.protocol in "
    "kafka.options should be SSL, SASL_SSL or SASL_PLAINTEXT"
)
# errors by which a broker or TLS refuses us: no time that passes changes them
_REFUSED: Final = {
    KafkaError._AUTHENTICATION: _LOGIN,
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN,
    KafkaError._SSL: _TLS,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "ask for DESCRIBE and READ on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "ask for the right on the cluster",
}
_PATHS: Final = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location")

# what to check when a broker, or librdkafka in front of it, does not take a record
_NOT_TAKEN: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not write there: ask for WRITE on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this user may not write: ask for WRITE on the topic, "
    "and before Kafka 2.8 for IDEMPOTENT_WRITE on the cluster",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "there is no such topic: create it",
    KafkaError._UNKNOWN_TOPIC: "there is no such topic: create it",
    KafkaError._UNKNOWN_PARTITION: "there is no such partition",
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic, and message.max.bytes in "
    "kafka.options",
    KafkaError.INVALID_TIMESTAMP: "its time is outside of message.timestamp.before.max.ms and "
    "message.timestamp.after.max.ms of the topic: raise them",
    KafkaError.INVALID_RECORD: "a compacted topic takes no record without a key",
    KafkaError.NOT_ENOUGH_REPLICAS: "fewer brokers are in sync than min.insync.replicas of the topic",
}


class Cause:
    """The newest cause that a person can act on, of those that a client of librdkafka has told.

    An alert of TLS comes as a transport failure, and a closed connection is told to nobody.
    """

    def __init__(self) -> None:
        self._error: KafkaError | None = None
        self._all_down = False

    def on_error(self, error: KafkaError) -> None:
        """Take an error of ``error_cb``."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True  # an error without a cause
        elif self._error is None or _refusal(error) or not _refusal(self._error):
            self._error = error  # the cause, and not the closed connection that follows it

    def clear(self) -> None:
        """Forget the cause, since a broker has answered."""
        self._error, self._all_down = None, False

    @property
    def may_pass(self) -> bool:
        """Whether the cause may pass by itself, since nobody has refused us."""
        return self._error is None or _refusal(self._error) is None

    def why(self, otherwise: str) -> tuple[str, str]:
        """The cause that was told, or ``otherwise``, and what to check."""
        error = self._error
        if error is None:
            return otherwise, _CLOSED if self._all_down else _ADDRESS
        refusal = _refusal(error)
        if refusal is None and error.code() == KafkaError._RESOLVE:
            refusal = "check the name, and that this machine can resolve it"
        elif refusal is None and "SSL" in error.str():
            refusal = _TLS
        elif refusal is None and ("Broken pipe" in error.str() or "reset by peer" in error.str()):
            refusal = _CLOSED
        return error.str(), refusal or _ADDRESS

    def why_not_taken(self, error: KafkaError) -> tuple[str, str]:
        """Why a record was not taken, and what to check."""
        advice = _NOT_TAKEN.get(error.code())
        if advice is None and error.code() < 0:
            return self.why(error.str())  # no broker has said so
        return error.str(), advice or "see what the topic and the brokers allow"


def configuration_fault(error: Exception, client: Mapping[str, Property]) -> str:
    """What is wrong with properties that librdkafka refused with ``error``, as half a sentence."""
    for name in _PATHS:
        path = client.get(name)
        if path is not None and not os.access(str(path), os.R_OK):
            what = "cannot be read" if os.path.exists(str(path)) else "is not there"
            return f"{name} = {path} {what}; check kafka.options"
    first = error.args[0] if isinstance(error, KafkaException) else error
    return f"{first.str() if isinstance(first, KafkaError) else first}; check kafka.options"


def _refusal(error: KafkaError) -> str | None:
    """What to check if a broker or TLS refuses us."""
    text = error.str()
    if "alert" in text and ("certificate" in text or "unknown ca" in text):
        return _OUR_CERTIFICATE
    return _REFUSED.get(error.code())
