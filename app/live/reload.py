"""Reads the configuration again while a run goes on, and takes over the few settings that can change live.

SIGHUP, POST /api/reload ──► [Reload.tend] ──► updater, worker and HTTP process
                                    └──► status/updater.json, the log
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from driftgraph.app.config.settings import Settings
from driftgraph.stream.errors import ConfigError
from driftgraph.stream.time.clock import Clock

# None of them changes what becomes of an event or of the model, so a replay needs to know nothing of it
LIVE: Final = ("checkpoint.every", "events.reject_share_max", "log.level", "web.token")

log = logging.getLogger(__name__)


class Reload:
    """The settings of a run, which may be read again.

    Always true: they change together or not at all. A change of any key that is not in ``LIVE`` needs a
    restart, and then no other change of that file is taken over.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings], clock: Clock) -> None:
        self._settings = settings
        self._read = read
        self._clock = clock
        self.takers: list[Callable[[Settings], None]] = []  # make new settings hold; none of them fails
        self._outcome: dict[str, Any] | None = None
        self._count = 0
        self.asked = threading.Event()  # a signal handler sets it

    def tend(self) -> bool:
        """Read the configuration if somebody has asked for it, and take over what has changed.

        Whether it was read.
        """
        if not self.asked.is_set():
            return False
        self.asked.clear()
        taken: list[str] = []
        refused = None
        try:
            new = self._read()
        except ConfigError as error:
            refused = f"the configuration cannot be read again, and nothing has changed: {error}"
        else:
            changed = changed_keys(self._settings, new)
            if fixed := [key for key in changed if key not in LIVE]:
                refused = (
                    f"a change of {', '.join(fixed)} needs a restart, so nothing of the configuration is "
                    f"taken over; without one these can change: {', '.join(LIVE)}"
                )
            elif taken := changed:
                self._settings = new
                for take in self.takers:
                    take(new)
        self._count += 1
        self._outcome = {
            "count": self._count, "time_ms": self._clock.now_ms(), "taken": taken, "refused": refused
        }  # fmt: skip
        if refused is not None:
            log.error("%s", refused)
        else:
            log.info("the configuration was read again: %s", ", ".join(taken) or "nothing has changed")
        return True

    def status(self) -> dict[str, Any] | None:
        """What came of the last time, for the status file; None if there was none."""
        return self._outcome


def changed_keys(before: Settings, after: Settings) -> list[str]:
    """The keys with another value, with dots, such as ``log.level``."""
    return sorted(_changed(before.model_dump(), after.model_dump(), ""))


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in before.keys() | after.keys():
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _changed(one, other, f"{path}{key}.")
        elif one != other:
            yield f"{path}{key}"
