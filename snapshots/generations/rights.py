"""Which rights a Redis user needs: one for the updater, one for services that read.

    RIGHTS ──► README, doctor (what is missing, the ACL line), keys (what a refusal means)

A right that only a convenience needs is not worth a generation: without PUBLISH nobody is told of a switch,
without the commands of vector sets readers rank by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import redis
from redis.exceptions import NoPermissionError

# What ``run``, ``replay``, ``rollback``, ``faust`` and ``doctor`` send, by themselves or in a script.
WRITER: Final = (
    "del", "evalsha", "exec", "exists", "expire", "get", "hdel", "hexists", "hget", "hgetall",
    "hincrby", "hmget", "hset", "info", "llen", "lpos", "lrange", "lrem", "ltrim", "multi", "persist",
    "pexpire", "pttl", "publish", "rpush", "sadd", "script|exists", "script|load", "select", "set",
    "smembers", "time", "unlink", "vadd", "vcard", "vsim", "zadd", "zrange", "zrem", "zrevrange",
    "zrevrangebyscore", "zunion",
)  # fmt: skip
# What EmbeddingReader, ``recommend``, ``status`` and ``generations`` send.
READER: Final = (
    "exists", "hget", "hgetall", "hmget", "llen", "lrange", "select", "smembers", "vsim",
    "zrange", "zunion",
)  # fmt: skip
VECTOR_SETS: Final = ("vadd", "vcard", "vsim")
_ASKED_BY: Final = "VCARD"
# In a transaction, and in scripts of Redis 7 and 6, the error comes without a class of its own.
_REFUSALS: Final = ("NOPERM ", "ACL failure in script", "The user executing the script can't")


def acl_rule(commands: Iterable[str], namespace: str, *, channel: str | None = None) -> str:
    """The rule of a user who may do just that, as ACL SETUSER takes it after the name and the password.

    Without ``%R~``: Redis says of VSIM and VCARD that they write.
    """
    channels = "" if channel is None else f" &{channel}"
    rights = " ".join(f"+{name}" for name in commands)
    return f"resetkeys ~{namespace}:* resetchannels{channels} -@all {rights}"


def what_it_says(error: redis.RedisError) -> str:
    """An error of Redis without the command of a pipeline, which has vectors, and the user's name."""
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    return re.sub(r"\bUser \S+ has", "its user has", text)


def is_refused_right(error: redis.RedisError) -> bool:
    """Whether Redis refused because of what the user may not do."""
    return isinstance(error, NoPermissionError) or any(text in str(error) for text in _REFUSALS)


def has_vector_sets(client: redis.Redis, key: str) -> bool:
    """Whether the server has vector sets: the one way in which it is asked.

    By a command that a publish needs anyhow: COMMAND INFO needs a right of its own, and its answer names
    commands in capitals or not. ``key`` is one of the namespace; it need not be there.

    Raises:
        redis.RedisError: Redis does not answer, or the user may not use them (``is_refused_right``).
    """
    try:
        client.execute_command(_ASKED_BY, key)  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        if "unknown command" in str(error).lower():
            return False
        raise
    return True
