"""The topic of delisted items: read whole at each start, then followed.

    kafka ──► KafkaSource ──► DelistedRecords ──► [DelistFeed: a thread] ──► Delisting ──► Redis
                                                       └─ what is in its way ──► data_dir/status/updater.json

No position is kept: the topic says which items are delisted now, so a start reads all of it and gives Redis
the difference. A record that comes twice changes nothing, and a crash at any point is made good by the next
start. It is a thread of the updater, which never waits for Redis. The worker takes the items out of lists.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from driftgraph.app.config.builders import delisted_file, generation_store
from driftgraph.app.config.settings import Settings
from driftgraph.app.live.loop.attribute_feed import tell_faults
from driftgraph.snapshots.generations.delisting import DELISTED_MAX
from driftgraph.snapshots.generations.keys import CALL_FAILS_WITHIN_S, connect
from driftgraph.snapshots.generations.lease import Lease, read_epoch
from driftgraph.stream.errors import DriftgraphError
from driftgraph.stream.formats.delisted_records import DelistedRecords
from driftgraph.stream.kafka.ends import EndsAtStart
from driftgraph.stream.kafka.source import KafkaOptions, KafkaSource
from driftgraph.stream.outage_log import OutageLog
from driftgraph.stream.pauses import pause_after
from driftgraph.stream.time.clock import Clock

POLL_S: Final = 0.1
METADATA_EVERY_S: Final = 2.0  # a topic that is gone is told in seconds
GONE_AFTER_MS: Final = 1_000  # a broker that has just started may not know the topic: it is opened again
LOOK_EVERY_S: Final = 1.0  # at the number of the newest change in Redis
LOOK_WHOLE_EVERY_S: Final = 60.0  # at the set, whatever the number says
PAUSES_S: Final = (0.2, 0.5, 1, 2, 5)  # while Kafka or Redis does not do what it should

log = logging.getLogger(__name__)


class DelistFeed(threading.Thread):
    """Keeps the set of Redis as the topic says, while this updater has the lease.

    Always true: it takes nothing out of the set before it has read all that the topic had at its start; it
    ends only when it is asked to.
    """

    def __init__(self, settings: Settings, topic: str, lease: Lease, clock: Clock) -> None:
        """Connect to Kafka.

        Raises:
            SourceError: The topic is not there, or the brokers refuse us.
        """
        super().__init__(name="delisting", daemon=True)
        self._settings, self._topic, self._lease, self._clock = settings, topic, lease, clock
        self._client = connect(settings.redis.address())
        self._stopped = threading.Event()
        self._outage = OutageLog(log.warning)
        self._failure: str | None = None
        self._left_over = (
            0  # items that are delisted in the topic and not in Redis, for which there is no room
        )
        self._told = set[str]()
        self._lag: dict[str, int] = {}  # of the newest step, since another thread may not ask the source
        self._agreed_ms = clock.now_ms()  # when Redis last had all that the topic says; at first the start
        self._source: KafkaSource | None = None
        self._open()
        tell_faults(settings, topic)

    def stop(self) -> None:
        """Ask it to end, and wait as long as a call of Redis may take."""
        self._stopped.set()
        if self.is_alive():
            self.join(CALL_FAILS_WITHIN_S)

    def run(self) -> None:
        """Follow the topic until ``stop``."""
        failures = 0
        while not self._stopped.is_set():
            try:
                self._step()
            except Exception as error:
                failures += 1
                known = isinstance(error, DriftgraphError)
                self._failure = str(error) if known else f"unexpected {type(error).__name__}: {error}"
                self._outage.missing(f"what the topic {self._topic} delists is not in Redis: {self._failure}")
                if not known:
                    log.debug("the topic %s is not followed", self._topic, exc_info=True)
                self._stopped.wait(pause_after(failures, PAUSES_S))
            else:
                failures = 0
                if self._failure is not None:
                    self._failure = None
                    self._outage.over(f"what the topic {self._topic} delists is in Redis again")
        self._close()

    def warnings(self) -> list[str]:
        """What is wrong with the records so far."""
        found = self._records.warnings()
        if self._left_over:
            found.append(
                f"{self._left_over:,} items of the topic {self._topic} are not delisted, since "
                f"{DELISTED_MAX:,} can be at most; write records without a value for those gone for good"
            )
        return found

    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "topic": self._topic,
            "items": len(self._records.items),
            "left_over": self._left_over,
            "read": self._records.read,
            "left_out": self._records.refused.total(),
            "lag": self._lag,
            "behind_ms": max(0, self._clock.now_ms() - self._agreed_ms),
            "failure": self._failure,
        }

    def _open(self) -> None:
        """Begin to read the topic from its beginning."""
        self._close()
        self._records = DelistedRecords(self._topic)
        options = KafkaOptions(
            topics=(self._topic,),
            client={"topic.metadata.propagation.max.ms": GONE_AFTER_MS, **self._settings.kafka.librdkafka()},
            group_id=self._settings.name,
            out_of_range="earliest",  # compaction has removed what others were newer than
            new_partitions_every_s=METADATA_EVERY_S,
        )
        source = self._source = KafkaSource(options, self._records, self._clock)
        self._topic_ids = dict[str, str]()
        self._ends = EndsAtStart(source)
        self._is_told = False  # whether Redis has what was read
        self._change = 0  # the newest one in Redis then
        self._looked_s = self._looked_whole_s = 0.0

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _step(self) -> None:
        """Read, and give Redis what has changed."""
        if self._source is None:
            self._open()
        assert self._source is not None
        read = self._records.read
        try:
            self._source.next_batch(POLL_S)
        except DriftgraphError:
            self._close()
            raise
        topic_ids = dict(self._source.topic_ids)  # empty until the brokers have told them
        if self._topic_ids and topic_ids != self._topic_ids:
            self._open()  # the topic was made anew, so it says all anew
            return
        self._topic_ids, self._lag = topic_ids, dict(self._source.lag())
        if self._records.read > read:
            self._is_told = False
            for reason in self._records.refused.keys() - self._told:
                self._told.add(reason)
                log.warning("%s", self._records.warning(reason))
        now_s = time.monotonic()
        is_due = not self._is_told or now_s - self._looked_s >= LOOK_EVERY_S
        if is_due and self._ends.are_reached and self._lease.held:
            self._looked_s = now_s
            self._tell(whole=not self._is_told or now_s - self._looked_whole_s >= LOOK_WHOLE_EVERY_S)
        if self._is_told and not (self._source.away or self._source.behind):
            self._agreed_ms = self._clock.now_ms()

    def _tell(self, *, whole: bool) -> None:
        """Make the set of Redis what the topic says."""
        epoch = read_epoch(self._client, self._settings.redis.namespace)
        delisting = generation_store(self._settings, self._client, epoch=epoch).delisting
        if not whole and delisting.number() == self._change:
            return
        delisting.keep_in(delisted_file(self._settings))
        found = delisting.restored()
        more = sorted(self._records.items - found.by_topic)
        room = max(0, DELISTED_MAX - len(found.by_command | found.by_topic))
        gone = sorted(found.by_topic - self._records.items)
        if gone:
            delisting.change(gone, "SREM", by_topic=True)
        self._left_over = max(0, len(more) - room)
        if fitting := more[:room]:
            delisting.change(fitting, "SADD", by_topic=True)
            delisting.remove_vectors(fitting)
        self._change, self._is_told = delisting.number(), True
        self._looked_whole_s = time.monotonic()
