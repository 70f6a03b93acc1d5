"""Drives the generators of questions on a client of redis-py, blocking or asynchronous.

    questions.py ──commands──► [Line, run, run_async] ──► Redis

A round trip goes over the socket of a connection of the client's pool (wire.py). Where that fails, or the
client keeps answers (RESP3 tracking) or has no such socket, redis-py sends the commands: with its retries,
its errors and its cache. A server that is silent is an error after one try, unless Sentinels may name another
one. In a Cluster the nodes are asked at the same time, and the last command after the others. Nothing is
written, so commands may be sent twice.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

import redis
import redis.asyncio

from driftgraph.snapshots.generations.keys import REFUSALS, redis_errors
from driftgraph.snapshots.generations.servers.topologies import is_cluster, is_watched, server_of
from driftgraph.snapshots.generations.wire import Command as NodeCommand
from driftgraph.snapshots.generations.wire import Wire, packed
from driftgraph.snapshots.reading.fetch import Command, Steps, T
from driftgraph.snapshots.reading.wire import Answers, UnusualError, pack

KEPT_COMMANDS_MAX: Final = 3  # those about one user or item: which generation, its hash, its manifest


class Line:
    """A connection of a client's pool that one reader keeps, since taking one costs as much as a read.

    It goes back when the reader does, and after any failure; a forked process takes one of its own.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._is_cached = server_of(client, "").get_cache() is not None
        self._cluster = Wire(client) if is_cluster(client) else None
        self._connection: Any = None
        self._pid = 0

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be ending
            self.close()

    def send(self, commands: list[Command]) -> list[Any]:
        """The answers of one round trip, among them the errors that Redis has answered with."""
        if self._is_cached and len(commands) <= KEPT_COMMANDS_MAX:
            return [_execute(self.client, command) for command in commands]
        if self._cluster is not None:
            return _over_nodes(self._cluster, commands)
        if not self._is_cached and (found := self._over_socket(commands)) is not None:
            return found
        if len(commands) == 1:
            return [_execute(self.client, commands[0])]
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipe.execute(raise_on_error=False)

    def _over_socket(self, commands: list[Command]) -> list[Any] | None:
        """The answers; None where redis-py has to send."""
        if self._pid == os.getpid() and not self.client.connection_pool.owns_connection(self._connection):
            self.close()  # Sentinels have named another primary
        if self._pid != os.getpid():
            self._connection, self._pid = self.client.connection_pool.get_connection(), os.getpid()
        stream = getattr(self._connection, "_sock", None)
        if stream is None:
            self.close()
            return None
        answers = Answers(len(commands))
        try:
            stream.sendall(pack(commands))
            while not answers.feed(_received(stream.recv(answers.read_bytes))):
                pass
        except BaseException as error:
            self._connection.disconnect()  # answers may still come
            self.close()
            if isinstance(error, socket.timeout) and not is_watched(self.client):
                raise redis.TimeoutError("Timeout reading from socket") from error
            if isinstance(error, UnusualError | OSError):
                return None
            raise
        return answers.found

    def close(self) -> None:
        """Give the connection back; the next round trip takes another."""
        connection, pid = self._connection, self._pid
        self._connection, self._pid = None, 0
        if connection is not None and pid == os.getpid():
            self.client.connection_pool.release(connection)


def _over_nodes(nodes: Wire, commands: list[Command]) -> list[Any]:
    """The answers of a Cluster: its nodes are asked at the same time, and the last command at the end."""
    ready = [NodeCommand(_keys_of(command)[0], packed(*command)) for command in commands]
    found = list(nodes.ask(ready[:-1], at_once=len(commands)))
    return [*found, *nodes.ask(ready[-1:])]


def _keys_of(command: Command) -> Sequence[str]:
    """The keys that a command reads."""
    return command[2:-1] if command[0] == "ZUNION" else command[1:2]


def _execute(client: redis.Redis, command: Command) -> Any:
    try:  # ``keys``: what a client keeps of an answer is dropped when one of them changes
        return client.execute_command(*command, keys=_keys_of(command))  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        return error


def run(line: Line, doing: str, steps: Steps[T]) -> T:
    """The answer to a question. ``doing`` says in an error what was read."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(line.send(commands))
    except StopIteration as end:
        return cast(T, end.value)
    except REFUSALS:
        with redis_errors(line.client, doing):
            raise


async def run_async(client: redis.asyncio.Redis, doing: str, steps: Steps[T]) -> T:
    """As ``run``."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(await _send_async(client, commands))
    except StopIteration as end:
        return cast(T, end.value)
    except REFUSALS:
        with redis_errors(client, doing):
            raise


def _received(data: bytes) -> bytes:
    if not data:
        raise ConnectionResetError
    return data


async def _send_async(client: redis.asyncio.Redis, commands: list[Command]) -> list[Any]:
    if is_cluster(client):  # the last command waits for the others
        return [*await _by_client(client, commands[:-1]), *await _by_client(client, commands[-1:])]
    found = await _over_stream(client, commands)
    return await _by_client(client, commands) if found is None else found


async def _by_client(client: redis.asyncio.Redis, commands: list[Command]) -> list[Any]:
    """The answers by the means of redis-py, which knows the nodes of a Cluster."""
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    return await pipe.execute(raise_on_error=False) if commands else []


async def _over_stream(client: redis.asyncio.Redis, commands: list[Command]) -> list[Any] | None:
    """The answers; None where redis-py has to send."""
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
        if reader is None or writer is None:
            return None
        answers = Answers(len(commands))
        try:
            writer.write(pack(commands))
            async with asyncio.timeout(connection.socket_timeout):
                await writer.drain()
                while not answers.feed(_received(await reader.read(answers.read_bytes))):
                    pass
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError) and not is_watched(client):
                raise redis.TimeoutError("Timeout reading from socket") from error
            if isinstance(error, UnusualError | OSError):
                return None
            raise
        return answers.found
    finally:
        await pool.release(connection)
