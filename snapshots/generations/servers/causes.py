"""Why a Redis did not answer or is the wrong one, in words, and what to check.

an error of redis-py ──► [cause_of, wrong_address] ──► keys.redis_errors ──► StoreError
"""

from __future__ import annotations

import redis
from redis.exceptions import AskError, ClusterCrossSlotError
from redis.sentinel import MasterNotFoundError


def wrong_address(error: Exception, text: str) -> str | None:
    """What the server is that cannot take our commands, behind its name in a sentence; None if it can.

    ``text`` is what Redis has said, since an error inside a script has no class of its own.
    """
    if isinstance(error, redis.ReadOnlyError) or "READONLY" in text:
        return "is a replica and takes no writes; set redis.url to the primary"
    if isinstance(error, AskError | ClusterCrossSlotError):  # MovedError is of the first's class
        return (
            "is a node of a Cluster, which has keys of ours on other nodes; set redis.url to "
            'redis+cluster://host:port, and redis.namespace to a name in braces, as "{shop}"'
        )
    return None


def cause_of(error: Exception) -> str:
    """Why there was no answer, and what to check."""
    text = str(error).rstrip(".")
    if isinstance(error, MasterNotFoundError):
        return f"the Sentinels name no primary that is up ({text}); is its service right in redis.url?"
    if isinstance(error, redis.BusyLoadingError):
        return "it still loads its data"
    if "max number of clients" in text:
        return f"{text}; raise its maxclients, or end some of its clients"
    if "SSL" in text or "certificate" in text.lower():
        return f"{text}; check rediss:// and the ssl options in redis.url, and who signed its certificate"
    if "Name or service not known" in text or "name resolution" in text:
        return f"{text}; check the name in redis.url, and that this machine can resolve it"
    return f"{text}; is it running, and is redis.url right?"
