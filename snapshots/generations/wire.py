"""Many commands to Redis at once, packed by hand, to one server or to the nodes of a Cluster.

    Scripts.run_many, verify ──► [Wire.ask] ──► connections of redis-py ──► Redis

redis-py takes longer to pack a vector than Redis takes to store it. So the few calls that carry every vector
are packed here; everything else goes through redis-py, as do connecting, timeouts and reading answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError
from redis.retry import Retry

COMMANDS_PER_ROUND = (
    16  # sent before the answers are read: 1,600 hashes, 0.6 MB at 64 dims, 3 MB with lists of 100
)

Word = bytes | str | int


class Command(NamedTuple):
    """A command as it goes over the wire, and a key by which a Cluster finds its node."""

    key: str | bytes
    data: bytes


def packed(*words: Word) -> bytes:
    """A command in RESP, the protocol of Redis."""
    encoded = [word if type(word) is bytes else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]))


class Wire:
    """Sends commands that may be sent twice, since a lost answer or a moved slot makes it send again."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._cluster = client if isinstance(client, RedisCluster) else None

    def ask(self, commands: Iterable[Command], at_once: int = COMMANDS_PER_ROUND) -> Iterator[Any]:
        """The answers in order. That Redis does not know a script is an answer.

        ``at_once`` commands are sent before their answers are read.

        Commands for one node are executed in order; those for several nodes at the same time.

        Raises:
            redis.RedisError: If Redis refuses a command, or does not answer in the client's number of tries.
        """
        left = iter(commands)
        while some := list(itertools.islice(left, at_once)):
            for answer in self._round(some):
                if isinstance(answer, redis.RedisError) and not isinstance(answer, NoScriptError):
                    raise answer
                yield answer

    def _round(self, commands: Sequence[Command]) -> list[Any]:
        answers: list[Any] = [None] * len(commands)
        waiting = set(range(len(commands)))

        def attempt() -> None:
            lanes = self._lanes(commands, sorted(waiting))
            taken = list[tuple[ConnectionPool, Any]]()
            try:
                for pool, places in lanes.items():
                    taken.append((pool, pool.get_connection()))
                    taken[-1][1].send_packed_command([b"".join([commands[n].data for n in places])])
                for (_, connection), places in zip(taken, lanes.values(), strict=True):
                    for place in places:
                        answers[place] = self._answer(connection)
                        waiting.discard(place)
            except BaseException:
                for _, connection in taken:
                    connection.disconnect()  # answers that nobody reads are on their way
                raise
            finally:
                for pool, connection in taken:
                    pool.release(connection)

        retry = cast("Retry", self._client.get_retry() if self._cluster is None else self._cluster.retry)
        retry.call_with_retry(attempt, self._look_again)
        return answers

    def _lanes(self, commands: Sequence[Command], places: Sequence[int]) -> dict[ConnectionPool, list[int]]:
        """Which commands go to which server."""
        if self._cluster is None:
            return {self._client.connection_pool: list(places)}
        lanes = dict[ConnectionPool, list[int]]()
        for place in places:
            node = cast("ClusterNode", self._cluster.get_node_from_key(commands[place].key))
            pool = self._cluster.get_redis_connection(node).connection_pool
            lanes.setdefault(pool, []).append(place)
        return lanes

    def _look_again(self, _: Exception) -> None:
        """A node was away or has other slots now: ask the Cluster for its nodes."""
        if self._cluster is not None:
            self._cluster.nodes_manager.initialize()

    def _answer(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except (MovedError, AskError, ClusterDownError, TryAgainError) as error:
            if self._cluster is None:  # an address of one server, which is wrong
                return error
            raise redis.ConnectionError(f"a slot of the Cluster is not where it was: {error}") from error
        except redis.ResponseError as error:
            return error
