"""The wait before an updater works: for the lock of its data_dir, the lease of its name, and Kafka.

    run ──► [Standby.lock] ──► [Standby.lease] ──► Lease ──► [Standby.kafka] ──► the updater
                  └─ status/standby.json, and a log line at each change and each minute

The status file ``updater.json`` is never touched here, since it may belong to the updater that works.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from driftgraph.app.config.settings import Settings
from driftgraph.app.console.progress import Progress
from driftgraph.app.console.status_files import write_json
from driftgraph.snapshots.generations.keys import RedisLoginError, RedisRightsError, StoreError
from driftgraph.snapshots.generations.lease import LOOK_EVERY_S, NOBODY, Lease, LeaseClient, elapsed_s
from driftgraph.stream import disk
from driftgraph.stream.kafka.client import KafkaAwayError
from driftgraph.stream.outage_log import OutageLog

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)


class Standby:
    """Waits until this process may work, and logs for what it waits.

    Always true: once ``stop`` is set, its methods return and have taken neither lock nor lease.
    """

    def __init__(self, settings: Settings, stop: threading.Event, progress: Progress) -> None:
        self._settings = settings
        self._stop = stop
        self._path = settings.data_dir / "status" / "standby.json"
        self._why = ""  # the reason in the status file
        self._log = OutageLog(progress.note)
        # The name of the lock once it is held: no other lock has it, not even that of a copy of the folder.
        # Empty where the volume has no locks: the holder of a lease may then live although we have the
        # folder.
        self.place = ""

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Wait for the lock of data_dir, which one updater has; False if ``stop`` was set first.

        The kernel releases the lock when the process ends in any way.
        """
        folder = self._settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a+") as file:
            while not self._stop.is_set():
                try:
                    held = disk.lock(file.fileno(), folder / "lock")
                except BlockingIOError:
                    file.seek(0)
                    pid = file.read().strip() or "unknown"
                    why = f"waits as a standby: {folder} is in use by the updater with pid {pid}"
                    self._wait(why, f"lock {pid}")
                    continue
                if held.by_volume:
                    status = os.fstat(file.fileno())
                    self.place = f"{BOOT_ID.read_text().strip()}:{status.st_dev}:{status.st_ino}"
                else:
                    log.warning(
                        "the volume of %s has no locks: from other machines and containers only updaters of "
                        "this name are kept out of it, by the lease in Redis",
                        folder,
                    )
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                try:
                    yield True
                finally:
                    held.close()
                return
            self._over()
            yield False

    def lease(self, client: LeaseClient) -> Lease | None:
        """Wait for the lease of the namespace; None if ``stop`` was set first.

        A free lease is taken at once, with one exception: if Redis was away or has forgotten the holder, the
        holder has the time of a lease to renew it.

        Raises:
            NamespaceTakenError: If an updater of another name or topic has the lease, and lives.
            StoreError: If Redis does not accept the login, or the user lacks a right.
        """
        name, seen, not_before_s, before, was_away = client.owner.name, 0, 0.0, NOBODY, False
        while not self._stop.is_set():
            now_s = elapsed_s()
            try:
                holder = client.holder()
                if was_away:
                    was_away = False
                    self._log.over("Redis is there")
                if holder.epoch < seen:
                    not_before_s = now_s + client.ttl_s
                seen = holder.epoch
                if holder.host and not client.is_own(holder):
                    if holder.lives(before):
                        raise client.taken_by(holder)
                    self._wait(
                        f"waits some seconds, to see whether {holder.name!r} (pid {holder.pid} on "
                        f"{holder.host}), which publishes into namespace {client.namespace!r}, still works",
                        f"pid {holder.pid} on {holder.host}",
                    )
                elif holder.host:
                    who = f"pid {holder.pid} on {holder.host}"
                    self._wait(f"waits as a standby: the updater with {who} has the lease of {name!r}", who)
                elif now_s < not_before_s:
                    self._wait(
                        f"Redis is back; the holder of the lease of {name!r} is given some seconds", "back"
                    )
                else:
                    taken_s = elapsed_s()
                    if (epoch := client.take()) is not None:
                        self._over()
                        return Lease(client, epoch, taken_s)
                before = holder
            except (RedisLoginError, RedisRightsError):
                raise
            except StoreError as error:
                not_before_s, was_away = elapsed_s() + client.ttl_s, True
                self._wait(
                    f"waits for Redis, to know that it is the only updater of {name!r}: {error}", "redis"
                )
        self._over()
        return None

    def kafka(self, look: Callable[[Callable[[], bool]], None], lease: Lease) -> bool:
        """Wait until Kafka answers; False if ``stop`` was set first.

        Args:
            look: Raises KafkaAwayError while no broker answers. It ends soon once its argument returns True.
            lease: The lease, whose loss ends the wait.

        Raises:
            SourceError: If a broker refuses us, or there is no such topic.
            LeaseLostError: If another updater has taken over.
        """
        while not self._stop.is_set():
            lease.check()
            try:
                look(self._stop.is_set)
            except KafkaAwayError as error:
                self._wait(f"waits for Kafka: {error}", "kafka")
            else:
                self._log.over("Kafka is there")
                self._over()
                return True
        self._over()
        return False

    def _wait(self, why: str, about: str | None = None) -> None:
        """Log why, if that is new or was logged some time ago, and wait a moment."""
        self._log.missing(why, about or why)
        if why != self._why:
            self._why = why
            with suppress(FileNotFoundError):  # another standby wrote the file at the same moment
                told = {"pid": os.getpid(), "state": "standby", "why": why, "about": about or why}
                write_json(self._path, told)
        self._stop.wait(LOOK_EVERY_S)

    def _over(self) -> None:
        if self._why:
            self._path.unlink(missing_ok=True)
        self._why = ""
