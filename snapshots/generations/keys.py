"""The keys of driftgraph in Redis, the client for it, and the errors of it.

    GenerationStore (store.py) ──► these keys ──► EmbeddingReader (snapshots/reader.py), any other service

Keys, with ``{ns}`` the namespace and ``{gen}`` a generation number::

    {ns}:emb:{gen}:user:{id}    HASH    embedding (float32 little-endian), gen, event_ms, touched (JSON list),
                                        list (items recommended, best first, JSON list), list_scores (float32)
    {ns}:emb:{gen}:item:{id}    HASH    embedding, gen, event_ms, similar (items, as list), similar_scores
    {ns}:emb:{gen}:items        vector set of the items, where the server has them (Redis 8)
    {ns}:emb:{gen}:user-ids     LIST    every user of the generation, so that it can be removed without SCAN
    {ns}:emb:{gen}:item-ids     LIST    every item
    {ns}:emb:{gen}:manifest     HASH    counts, dim, status (building, live; none: being removed), parent,
                                        lists, similar (the longest lists that there may be; 0: none), and
                                        what the trainer says about itself
    {ns}:emb:current            HASH    gen, previous, epoch; of the newest rollback or promote: choice (its
                                        time in ms), chosen_by (user@host), held (1: nothing else is published
                                        until promote), chosen (the generation, 0 once another is published)
    {ns}:emb:generations        ZSET    every generation that has a key; score = number
    {ns}:emb:events             channel of {"event": "published" | "rolled_back" | "promoted", "gen",
                                        "previous"}; {"event": "checked"} of doctor means nothing
    {ns}:trending:{behavior}    ZSET    rising items, the answer for unknown users
    {ns}:trending               SET     the behaviors that have had one
    {ns}:trending-owner         STRING  there while the Faust app keeps the lists instead of the worker
    {ns}:delisted               SET     items that an operator has delisted: in no answer, see delisting.py;
                                        delisted_ms of current is the number of the newest change
    {ns}:delisted-by-topic      SET     those that a topic delists
    {ns}:feast, :user, :item    HASH, ZSET: what Feast has copies of, see feast.py
    {ns}:lease                  HASH    which updater works, see lease.py; runs out by itself
    {ns}:lease-epoch            STRING  the epoch of the last one that did

A Redis Cluster needs a namespace in braces (``{shop}``), since the keys of one script must be in one slot, so
in one pair of braces. Such a namespace has 256 parts with the prefixes ``{shop:0}`` to ``{shop:255}``. A user
or an item is in the part of its id (``part_number``): ``{shop:17}:emb:{gen}:user:{id}``. Each part has id
lists of its own, and copies of what its scripts check (part_copies.py): ``current`` and ``manifest``. All
other keys are in the slot of ``{shop}``.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.cache import CacheConfig
from redis.exceptions import AuthenticationError, OutOfMemoryError, RedisClusterException
from redis.retry import Retry

from driftgraph.snapshots.generations.servers.causes import cause_of, wrong_address
from driftgraph.snapshots.generations.servers.rights import is_refused_right, what_it_says
from driftgraph.snapshots.generations.servers.topologies import (
    async_client_of,
    client_of,
    describe,
    is_cluster,
)
from driftgraph.stream.addresses import REDIS_SCHEMES, fault_of, public_url
from driftgraph.stream.errors import ConfigError, DriftgraphError

CONNECT_TIMEOUT_S = 2.0
CALL_TIMEOUT_S = 3.0  # one of our pipelines takes a few ms; a server silent for 3 s does not serve
RETRIES = 2  # a call fails within 3 × 3 s and its pauses: about 10 s, CALL_FAILS_WITHIN_S
RETRY_PAUSE_S_MAX = 0.5
CALL_FAILS_WITHIN_S = 11.0
CACHED_BESIDE = 100  # answers that a client keeps beside those of users: which generation, its manifest

PARTS = 256  # of a namespace in braces: enough to be even over some ten nodes
TOUCHED_MAX = 200  # ids in a user's ``touched``, newest first; a reader does not recommend them
LIST_FIELDS: Final = {"user": ("list", "list_scores"), "item": ("similar", "similar_scores")}
REFUSALS: Final = (redis.RedisError, RedisClusterException)  # the second is not of the first's class
LIVE = "live"  # manifest status of a generation that can be served

# fields of a manifest that the store writes
_TOLD = ("users", "items", "dim", "vectors", "index", "index_vectors", "item_norm", "status", "parent")
OWN_FIELDS = frozenset({*_TOLD, "published_ms", "attributes"}) | frozenset(
    {"token", "digest", "epoch", "keys_expire", "refreshed", "delisted_ms"}
)


class StoreError(DriftgraphError):
    """Redis did not do what was asked."""


class RedisUnavailableError(StoreError):
    """Redis refused, dropped or did not answer a call within its time."""


class RedisFullError(StoreError):
    """Redis is at ``maxmemory`` and takes no writes."""


class RedisLoginError(StoreError):
    """Redis does not accept the user or the password."""


class RedisRightsError(StoreError):
    """The user may not do what was asked."""


class StaleWorkerError(StoreError):
    """A newer worker has taken over; this one must stop publishing."""


class GenerationExistsError(StoreError):
    """The number of a generation is not above those already published."""


class NothingToRollBackError(StoreError):
    """There is no generation before the served one."""


class GoneError(StoreError):
    """A generation that should be promoted is not there, or not whole."""


class ChosenError(StoreError):
    """An operator has chosen what is served, and this publish does not follow that yet."""


class HeldError(StoreError):
    """An operator holds what is served."""


class NotCurrentError(StoreError):
    """A refresh was made by the model of a generation that is not served."""


class LostError(StoreError):
    """Redis has lost keys of a generation while it was published."""


class VerifyError(StoreError):
    """Redis does not have what was written. The served generation was not switched."""


class Part:
    """The names of the keys that begin with one prefix, and so are in one slot if the prefix has braces."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @property
    def current(self) -> str:
        """The hash that tells which generation is served."""
        return f"{self.prefix}:emb:current"

    @property
    def generations(self) -> str:
        """The set of generations that have keys."""
        return f"{self.prefix}:emb:generations"

    def of(self, number: int, kind: str) -> str:
        """A key of one generation: ``manifest``, ``items``, ``user-ids``, ``item-ids``."""
        return f"{self.prefix}:emb:{number}:{kind}"

    def user(self, number: int, user_id: str) -> str:
        """The hash of one user in one generation."""
        return f"{self.prefix}:emb:{number}:user:{user_id}"

    def item(self, number: int, item_id: str) -> str:
        """The hash of one item in one generation."""
        return f"{self.prefix}:emb:{number}:item:{item_id}"


class Keys(Part):
    """The key names of one namespace.

    ``parts`` are where users and items are: the namespace itself, or the 256 parts of one in braces.
    """

    __slots__ = ("is_spread", "namespace", "parts")

    def __init__(self, namespace: str) -> None:
        if not namespace or any(c.isspace() for c in namespace):
            raise ValueError(f"namespace must be text without spaces, got {namespace!r}")
        super().__init__(namespace)
        self.namespace = namespace
        inside = namespace[1:-1]
        self.is_spread = f"{{{inside}}}" == namespace and inside != "" and not {*inside} & {*"{}"}
        names = [f"{{{inside}:{n}}}" for n in range(PARTS)] if self.is_spread else []
        self.parts: tuple[Part, ...] = tuple(Part(name) for name in names) or (self,)

    @property
    def homes(self) -> tuple[Part, ...]:
        """Every prefix that keys may have: the namespace, then its parts."""
        return (self, *self.parts) if self.is_spread else (self,)

    def user(self, number: int, user_id: str) -> str:
        """The hash of one user in one generation."""
        prefix = self.part_of(user_id).prefix if self.is_spread else self.prefix
        return f"{prefix}:emb:{number}:user:{user_id}"

    def item(self, number: int, item_id: str) -> str:
        """The hash of one item in one generation."""
        prefix = self.part_of(item_id).prefix if self.is_spread else self.prefix
        return f"{prefix}:emb:{number}:item:{item_id}"

    def hashes(self, side: str, number: int, ids: Sequence[str]) -> list[str]:
        """The hashes of several users or several items (``side``) in one generation."""
        begin = f"{self.prefix}:emb:{number}:{side}:"
        if not self.is_spread:
            return [begin + entity_id for entity_id in ids]
        entity = self.user if side == "user" else self.item
        return [entity(number, entity_id) for entity_id in ids]

    def part_of(self, entity_id: str) -> Part:
        """The part that a user or an item is in."""
        return self.parts[part_number(entity_id)] if self.is_spread else self

    def by_part(self, ids: Sequence[str]) -> Iterator[tuple[Part, Sequence[int]]]:
        """Every part that has some of the ids, with their places in ``ids``, ascending."""
        if not self.is_spread:
            if ids:
                yield self, range(len(ids))
            return
        places: dict[int, list[int]] = {}
        for place, entity_id in enumerate(ids):
            places.setdefault(part_number(entity_id), []).append(place)
        for number in sorted(places):
            yield self.parts[number], places[number]

    @property
    def events(self) -> str:
        """The channel on which a switch is published."""
        return f"{self.namespace}:emb:events"

    @property
    def trending_behaviors(self) -> str:
        """The set of behaviors that have a list of trending items."""
        return f"{self.namespace}:trending"

    @property
    def delisted(self) -> str:
        """The set of items that an operator has delisted."""
        return f"{self.namespace}:delisted"

    @property
    def delisted_by_topic(self) -> str:
        """The set of items that a topic delists."""
        return f"{self.namespace}:delisted-by-topic"

    @property
    def lease(self) -> str:
        """The hash of the lease: which updater works."""
        return f"{self.namespace}:lease"

    @property
    def lease_epoch(self) -> str:
        """The epoch of the last updater that worked."""
        return f"{self.namespace}:lease-epoch"

    @property
    def trending_owner(self) -> str:
        """Whether somebody else than the worker keeps the lists of trending items."""
        return f"{self.namespace}:trending-owner"

    def trending(self, behavior: str) -> str:
        """Rising items of one behavior."""
        return f"{self.namespace}:trending:{behavior}"


def part_number(entity_id: str) -> int:
    """The number of the part that an id is in: its CRC16 as Redis Cluster computes it, modulo 256."""
    return binascii.crc_hqx(entity_id.encode(), 0) % PARTS


def connect(
    url: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    call_timeout_s: float = CALL_TIMEOUT_S,
    retries: int = RETRIES,
    cache_users: int = 0,
) -> redis.Redis:
    """A client on which every call ends: timeouts on connecting and on answers, few and bounded retries.

    Behind Sentinels a call waits ``retries · call_timeout_s`` for the next primary; see failover.py.
    topologies.py has the forms of an address. Nothing is sent yet, except to find out the nodes of a Cluster;
    the first command finds out whether Redis is there. With ``cache_users`` the client keeps the answers
    about so many users and items that were read one by one, and Redis 6 or newer tells it when one has
    changed: a hot user costs no round trip.

    Raises:
        ConfigError: If redis-py cannot use the url. The message does not quote it, as it may hold a password.
        StoreError: If no node of a Cluster answers.
    """
    options = _options(connect_timeout_s, call_timeout_s, Retry(_backoff(), retries))
    if cache_users:
        options |= {"protocol": 3, "cache_config": CacheConfig(max_size=cache_users + CACHED_BESIDE)}
    with _addressed(url):
        return client_of(url, options)


def connect_async(
    url: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    call_timeout_s: float = CALL_TIMEOUT_S,
    retries: int = RETRIES,
) -> redis.asyncio.Redis:
    """As ``connect``, for asyncio. The nodes of a Cluster are found out by the first command, too."""
    with _addressed(url):
        retry = AsyncRetry(_backoff(), retries)
        return async_client_of(url, _options(connect_timeout_s, call_timeout_s, retry))


def _backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=RETRY_PAUSE_S_MAX, base=0.05)


def _options(connect_timeout_s: float, call_timeout_s: float, retry: object) -> dict[str, Any]:
    times = {"socket_connect_timeout": connect_timeout_s, "socket_timeout": call_timeout_s}
    return {**times, "retry": retry, "decode_responses": False}


@contextmanager
def _addressed(url: str) -> Iterator[None]:
    """Refuse an address without quoting it."""
    if (fault := fault_of(url, REDIS_SCHEMES)) is not None:
        raise ConfigError(f"redis.url {fault}")
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, RedisClusterException) as error:
        raise _told(error, public_url(url).partition("://")[2], "looking for its nodes") from error
    except (ValueError, TypeError, redis.RedisError):
        raise ConfigError(
            f"redis.url has something behind its ? that redis-py {redis.__version__} does not know; "
            "remove it, or correct its name and value"
        ) from None


def require_usable(client: redis.Redis | redis.asyncio.Redis, keys: Keys) -> None:
    """Refuse a client that decodes answers to text, and a namespace that a Cluster cannot have.

    Raises:
        ValueError: If answers are decoded, since an embedding is not text.
        ConfigError: If the namespace has no parts, which a Cluster needs.
    """
    if client.get_encoder().decode_responses:
        raise ValueError("the Redis client has decode_responses=True; embeddings are binary, set it to False")
    if is_cluster(client) and not keys.is_spread:
        raise ConfigError(
            f"redis.namespace {keys.namespace!r} must be in braces in a Redis Cluster: "
            f'"{{{keys.namespace.strip("{}")}}}"'
        )


@contextmanager
def redis_errors(client: redis.Redis | redis.asyncio.Redis, doing: str) -> Iterator[None]:
    """Turn an error of redis-py into a StoreError with one sentence: what, where, and what to do."""
    try:
        yield
    except REFUSALS as error:
        raise _told(error, describe(client), doing) from error


def _told(error: Exception, where: str, doing: str) -> StoreError:
    """Our error for an error of redis-py.

    An error inside a script or a pipeline has no class of its own, so its text tells.
    """
    text = what_it_says(error)
    if isinstance(error, OutOfMemoryError) or "OOM " in text:
        return RedisFullError(
            f"Redis at {where} is at its maxmemory and refused a write while {doing}; "
            "raise maxmemory or keep fewer generations"
        )
    if isinstance(error, AuthenticationError):
        return RedisLoginError(
            f"Redis at {where} does not accept the login ({text}); check redis.username and redis.password"
        )
    if is_refused_right(error):
        return RedisRightsError(
            f"Redis at {where} refuses its user a right while {doing} ({text}); driftgraph doctor names all "
            "that are missing, and the ACL rule that gives them"
        )
    if (wrong := wrong_address(error, text)) is not None:
        return StoreError(f"Redis at {where} {wrong}")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | RedisClusterException):
        return RedisUnavailableError(f"Redis at {where} did not answer while {doing}: {cause_of(error)}")
    return StoreError(f"Redis at {where} refused a command while {doing}: {text}")
