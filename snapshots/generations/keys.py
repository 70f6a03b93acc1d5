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
                                        "previous"}, and of {"event": "checked"} from doctor, which means
                                        nothing
    {ns}:trending:{behavior}    ZSET    rising items, the answer for unknown users
    {ns}:trending               SET     the behaviors that have had one
    {ns}:trending-owner         STRING  there while the Faust app keeps the lists instead of the worker
    {ns}:delisted               SET     items that an operator has delisted: in no answer, see delisting.py;
                                        delisted_ms of current is the number of the newest change
    {ns}:lease                  HASH    which updater works, see lease.py; runs out by itself
    {ns}:lease-epoch            STRING  the epoch of the last one that did

In a Redis Cluster the scripts need all of these in one slot: put the namespace in braces (``{shop}``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.cache import CacheConfig
from redis.exceptions import AuthenticationError, OutOfMemoryError
from redis.retry import Retry

from driftgraph.snapshots.generations.rights import is_refused_right, what_it_says
from driftgraph.stream.addresses import fault_of
from driftgraph.stream.errors import ConfigError, DriftgraphError

CONNECT_TIMEOUT_S = 2.0
CALL_TIMEOUT_S = 3.0  # one of our pipelines takes a few ms; a server silent for 3 s does not serve
RETRIES = 2  # a call fails within 3 × 3 s and its pauses: about 10 s, CALL_FAILS_WITHIN_S
RETRY_PAUSE_S_MAX = 0.5
CALL_FAILS_WITHIN_S = 11.0
CACHED_BESIDE = 100  # answers that a client keeps beside those of users: which generation, its manifest

TOUCHED_MAX = 200  # ids in a user's ``touched``, newest first; a reader does not recommend them
LIST_FIELDS: Final = {"user": ("list", "list_scores"), "item": ("similar", "similar_scores")}
LIVE = "live"  # manifest status of a generation that can be served


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


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one namespace."""

    namespace: str

    def __post_init__(self) -> None:
        if not self.namespace or any(c.isspace() for c in self.namespace):
            raise ValueError(f"namespace must be text without spaces, got {self.namespace!r}")

    @property
    def current(self) -> str:
        """The hash that tells which generation is served."""
        return f"{self.namespace}:emb:current"

    @property
    def generations(self) -> str:
        """The set of generations that have keys."""
        return f"{self.namespace}:emb:generations"

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
        """The set of items that are in no answer."""
        return f"{self.namespace}:delisted"

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

    def of(self, number: int, kind: str) -> str:
        """A key of one generation: ``manifest``, ``items``, ``user-ids``, ``item-ids``."""
        return f"{self.namespace}:emb:{number}:{kind}"

    def user(self, number: int, user_id: str) -> str:
        """The hash of one user in one generation."""
        return f"{self.namespace}:emb:{number}:user:{user_id}"

    def item(self, number: int, item_id: str) -> str:
        """The hash of one item in one generation."""
        return f"{self.namespace}:emb:{number}:item:{item_id}"


def connect(
    url: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    call_timeout_s: float = CALL_TIMEOUT_S,
    retries: int = RETRIES,
    cache_users: int = 0,
) -> redis.Redis:
    """A client on which every call ends: timeouts on connecting and on answers, few and bounded retries.

    Nothing is sent yet; the first command finds out whether Redis is there. With ``cache_users`` the client
    keeps the answers about so many users and items that were read one by one, and Redis 6 or newer tells it
    when one has changed: a hot user costs no round trip.

    Raises:
        ConfigError: If redis-py cannot use the url. The message does not quote it, as it may hold a password.
    """
    kept: dict[str, Any] = {}
    if cache_users:
        kept = {"protocol": 3, "cache_config": CacheConfig(max_size=cache_users + CACHED_BESIDE)}
    retry = Retry(ExponentialBackoff(cap=RETRY_PAUSE_S_MAX, base=0.05), retries)
    with _addressed(url):
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=call_timeout_s,
            retry=retry,
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            decode_responses=False,
            **kept,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # finds an option that it does not know
    return client


def connect_async(
    url: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    call_timeout_s: float = CALL_TIMEOUT_S,
    retries: int = RETRIES,
) -> redis.asyncio.Redis:
    """As ``connect``, for asyncio."""
    retry = AsyncRetry(ExponentialBackoff(cap=RETRY_PAUSE_S_MAX, base=0.05), retries)
    with _addressed(url):
        client = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=call_timeout_s,
            retry=retry,
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            decode_responses=False,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    return client


@contextmanager
def _addressed(url: str) -> Iterator[None]:
    """Refuse an address without quoting it."""
    if (fault := fault_of(url, ("redis", "rediss", "unix"))) is not None:
        raise ConfigError(f"redis.url {fault}")
    try:
        yield
    except (ValueError, TypeError, redis.RedisError):
        raise ConfigError(
            f"redis.url has something behind its ? that redis-py {redis.__version__} does not know; "
            "remove it, or correct its name and value"
        ) from None


def require_binary(client: redis.Redis | redis.asyncio.Redis) -> None:
    """Refuse a client that decodes answers to text, since an embedding is not text."""
    if client.get_encoder().decode_responses:
        raise ValueError("the Redis client has decode_responses=True; embeddings are binary, set it to False")


def describe(client: redis.Redis | redis.asyncio.Redis) -> str:
    """The address of a client's server for an error message, without the password."""
    settings: dict[str, Any] = client.connection_pool.connection_kwargs
    if "path" in settings:
        return f"unix:{settings['path']}"
    return f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"


@contextmanager
def redis_errors(client: redis.Redis | redis.asyncio.Redis, doing: str) -> Iterator[None]:
    """Turn an error of redis-py into a StoreError with one sentence: what, where, and what to do."""
    try:
        yield
    except redis.RedisError as error:
        raise _told(error, describe(client), doing) from error


def _told(error: redis.RedisError, where: str, doing: str) -> StoreError:
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
    if isinstance(error, redis.ReadOnlyError) or "READONLY" in text:
        return StoreError(f"Redis at {where} is a replica and takes no writes; set redis.url to the primary")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return RedisUnavailableError(f"Redis at {where} did not answer while {doing}: {_cause(error)}")
    return StoreError(f"Redis at {where} refused a command while {doing}: {text}")


def _cause(error: redis.RedisError) -> str:
    """Why there was no answer, and what to check."""
    text = str(error)
    if isinstance(error, redis.BusyLoadingError):
        return "it still loads its data"
    if "max number of clients" in text:
        return f"{text}; raise its maxclients, or end some of its clients"
    if "SSL" in text or "certificate" in text.lower():
        return f"{text}; check rediss:// and the ssl options in redis.url, and who signed its certificate"
    if "Name or service not known" in text or "name resolution" in text:
        return f"{text}; check the name in redis.url, and that this machine can resolve it"
    return f"{text}; is it running, and is redis.url right?"
