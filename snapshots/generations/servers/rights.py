"""The rights that a Redis user needs: the updater's user, and the user of services that read.

    RIGHTS ──► README, doctor (the missing rights, the ACL line), keys (the meaning of a refusal)

A publish does not fail for lack of a minor right: without PUBLISH no notice of a switch is sent, and without
the commands of vector sets readers rank by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import redis
from redis.exceptions import NoPermissionError

# commands that ``run``, ``replay``, ``rollback``, ``faust`` and ``doctor`` send, some of them in a script
WRITER: Final = (
    "del", "evalsha", "exec", "exists", "expire", "get", "hdel", "hexists", "hget", "hgetall",
    "hincrby", "hmget", "hset", "info", "llen", "lpos", "lrange", "lrem", "ltrim", "multi", "persist",
    "pexpire", "pttl", "publish", "rpush", "sadd", "script|exists", "script|load", "select", "set",
    "smembers", "srem", "time", "unlink", "vadd", "vcard", "vrem", "vsim", "zadd", "zrange", "zrem",
    "zrevrange", "zrevrangebyscore", "zunion",
)  # fmt: skip
# commands that EmbeddingReader, ``recommend``, ``status`` and ``generations`` send
READER: Final = (
    "exists", "hget", "hgetall", "hmget", "llen", "lrange", "select", "smembers", "vsim",
    "zrange", "zunion",
)  # fmt: skip
VECTOR_SETS: Final = ("vadd", "vcard", "vrem", "vsim")
_ASKED_BY: Final = "VCARD"
# in a transaction, and in scripts of Redis 7 and 6, the error has no class of its own
_REFUSALS: Final = ("NOPERM ", "ACL failure in script", "The user executing the script can't")


def acl_rule(commands: Iterable[str], namespace: str, *, channel: str | None = None) -> str:
    """The rule of a user with just these rights, as ACL SETUSER takes it after the name and the password.

    It has no ``%R~``, since Redis counts VSIM and VCARD as commands that write.
    """
    channels = "" if channel is None else f" &{channel}"
    rights = " ".join(f"+{name}" for name in commands)
    parts = f" ~{namespace[:-1]}:*" if namespace.startswith("{") else ""  # of a namespace in braces
    return f"resetkeys ~{namespace}:*{parts} resetchannels{channels} -@all {rights}"


def what_it_says(error: Exception) -> str:
    """The text of a Redis error without the user's name and the command of a pipeline, which has vectors."""
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    return re.sub(r"\bUser \S+ has", "its user has", text)


def is_refused_right(error: Exception) -> bool:
    """Whether Redis refused a command because the user lacks the right."""
    return isinstance(error, NoPermissionError) or any(text in str(error) for text in _REFUSALS)


def has_vector_sets(client: redis.Redis, key: str) -> bool:
    """Whether the server has vector sets.

    It sends a command that a publish needs anyway: COMMAND INFO would need a right of its own, and its answer
    differs in case. ``key`` is a key of the namespace that need not exist.

    Raises:
        redis.RedisError: If Redis does not answer, or the user may not use them (``is_refused_right``).
    """
    try:
        client.execute_command(_ASKED_BY, key)  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        if "unknown command" in str(error).lower():
            return False
        raise
    return True
