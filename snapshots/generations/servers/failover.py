"""Calls of a primary that Sentinels name: they last until the end of a failover.

    topologies.py ──► [PatientRetry, WatchedConnection] ──► redis-py, which asks the Sentinels in each try

Between the death of a primary and the first answer of the next one a connection is refused at once, and the
Sentinels name nobody. redis-py counts tries, and a few of them are over in a fraction of a second. So tries
are bounded by time here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncManagedConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as AsyncManagedSSLConnection
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

T = TypeVar("T")

PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 0.5


class PatientRetry(Retry):
    """Tries again until ``within_s`` have passed since the first try began; each pause is longer."""

    def __init__(self, within_s: float) -> None:
        super().__init__(ExponentialBackoff(cap=PAUSE_S_MAX, base=PAUSE_S_MIN), -1)
        self.within_s = within_s

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """What ``do`` returns. redis-py has the meaning of the others: ``fail`` drops the connection."""
        end_s, failures = time.monotonic() + self.within_s, 0
        while True:
            try:
                return do()
            except self._supported_errors as error:
                failures += 1
                if is_retryable is not None and not is_retryable(error):
                    raise
                fail(*((error, failures) if with_failure_count else (error,)))
                if time.monotonic() >= end_s:
                    raise
                time.sleep(self._backoff.compute(failures))


class AsyncPatientRetry(AsyncRetry):
    """As ``PatientRetry``, for asyncio."""

    def __init__(self, within_s: float) -> None:
        super().__init__(ExponentialBackoff(cap=PAUSE_S_MAX, base=PAUSE_S_MIN), -1)
        self.within_s = within_s

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Awaitable[Any]],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """As that of ``PatientRetry``."""
        end_s, failures = time.monotonic() + self.within_s, 0
        while True:
            try:
                return await do()
            except self._supported_errors as error:
                failures += 1
                if is_retryable is not None and not is_retryable(error):
                    raise
                await fail(*((error, failures) if with_failure_count else (error,)))
                if time.monotonic() >= end_s:
                    raise
                await asyncio.sleep(self._backoff.compute(failures))


class _Asking:
    """Asks the Sentinels whenever it connects.

    redis-py 8.1 asks them for a new connection alone. One that broke within a call it connects to the former
    primary again and again.
    """

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if retry_socket_connect:  # redis-py connects again
            self.connect()  # type: ignore[attr-defined]
        else:  # to the server that the Sentinels have named
            super().connect_check_health(check_health, retry_socket_connect)  # type: ignore[misc]


class WatchedConnection(_Asking, SentinelManagedConnection):
    """Without TLS."""


class WatchedSSLConnection(_Asking, SentinelManagedSSLConnection):
    """With TLS."""


class _AsyncAsking:
    """As ``_Asking``, for asyncio."""

    async def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        if retry_socket_connect:
            await self.connect()  # type: ignore[attr-defined]
        else:
            await super().connect_check_health(check_health, retry_socket_connect)  # type: ignore[misc]


class AsyncWatchedConnection(_AsyncAsking, AsyncManagedConnection):
    """Without TLS."""


class AsyncWatchedSSLConnection(_AsyncAsking, AsyncManagedSSLConnection):
    """With TLS."""
