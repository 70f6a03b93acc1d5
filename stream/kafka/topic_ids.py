"""Whether a name still means the same topic: a topic that was deleted and made anew has another id.

    brokers ──► [TopicIds.changed] ──► KafkaSource: a position of the former topic means nothing
                     └─ known ──► the checkpoint, beside the position

librdkafka 2.16 goes on at the old offset in the new topic without an error, so this class asks for the id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from driftgraph.stream.kafka.causes import Property
from driftgraph.stream.kafka.client import LIBRDKAFKA
from driftgraph.stream.sources.source import Position

LOG = logging.getLogger("driftgraph.kafka")

ASK_EVERY_S: Final = 2.0  # a request has 100 bytes; for so long a new topic may be read from wrong offsets
ASK_AGAIN_S: Final = 30.0  # without an answer: the broker is away, or does not know ids
ANSWER_WITHIN_S: Final = 5.0
NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # the answer of a broker before Kafka 2.8


class TopicIds:
    """The ids of topics, which an admin client of its own asks for every ``ASK_EVERY_S``.

    Always true: ``known`` has the ids of the topics in the caller's position; a topic is not in it while no
    broker has told its id.
    """

    def __init__(
        self,
        client: Mapping[str, Property],
        topics: Sequence[str],
        known: Mapping[str, str],
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known = {topic: known[topic] for topic in topics if topic in known}
        self._client = dict(client)
        self._topics = topics
        self._now_s = now_s
        self._admin: AdminClient | None = None
        self._asked: dict[str, Future[Any]] | None = None
        self._next_s = 0.0

    def changed(self) -> Mapping[str, str]:
        """Topics whose id differs from that in ``known``, with their new id. Never waits.

        The id of a topic that is not in ``known`` yet is added to it.
        """
        if self._asked is None:
            if self._now_s() >= self._next_s:
                self._ask()
            return {}
        if not all(answer.done() for answer in self._asked.values()):
            return {}
        return self._taken()

    def changed_now(self, within_s: float) -> Mapping[str, str]:
        """As ``changed``, by an answer that is newer than this call; without an answer in time, none."""
        self._ask()
        answers = self._asked or {}
        wait(answers.values(), within_s)
        return self._taken()

    def split(
        self, position: Position, counts: Mapping[str, int], within_s: float
    ) -> tuple[Position, dict[str, str]]:
        """The part of a position that still holds, and the topics that were made anew, with the evidence.

        From here on ``known`` has the new ids.

        Args:
            position: Partition name → next offset.
            counts: How many partitions each topic has now.
            within_s: How long to wait for the answer about ids.
        """
        anew: dict[str, str] = {}
        for topic, count in counts.items():
            gone = [p for p in position if _topic_of(p) == topic and int(p[len(topic) + 1 : -1]) >= count]
            if gone:
                anew[topic] = f"it has no {gone[0]} any more"
        if position and self.known:
            for topic, found in self.changed_now(within_s).items():
                anew[topic] = f"its id was {self.known[topic]} and is {found}"
                self.known[topic] = found
        return {part: at for part, at in position.items() if _topic_of(part) not in anew}, anew

    def close(self) -> None:
        """Leave the brokers."""
        self._admin = self._asked = None

    def _ask(self) -> None:
        try:
            self._admin = self._admin or AdminClient(self._client, logger=LIBRDKAFKA)
            self._admin.poll(0)
            self._asked = self._admin.describe_topics(
                TopicCollection(list(self._topics)), request_timeout=ANSWER_WITHIN_S
            )
        except (KafkaException, ValueError, TypeError) as error:
            self._wait_long(error)

    def _taken(self) -> Mapping[str, str]:
        answers, self._asked = self._asked or {}, None
        self._next_s = self._now_s() + ASK_EVERY_S
        other: dict[str, str] = {}
        for topic, answer in answers.items():
            try:
                found = str(answer.result(0).topic_id)
            except (KafkaException, TimeoutError) as error:
                self._wait_long(error)
                continue
            if found not in (NO_ID, "None") and self.known.setdefault(topic, found) != found:
                other[topic] = found
        return other

    def _wait_long(self, error: Exception) -> None:
        self._asked = None
        self._next_s = self._now_s() + ASK_AGAIN_S
        LOG.debug("no broker tells the ids of %s: %s", ", ".join(self._topics), error)


def _topic_of(part: str) -> str:
    return part.rpartition("[")[0]
