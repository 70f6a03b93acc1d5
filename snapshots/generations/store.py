"""Publishes generations of embeddings to Redis so that a reader sees one generation, never a mixture.

    Trainer ──► gate ──► [GenerationStore] ──► Redis ──► EmbeddingReader, any service

The keys are listed in keys.py, the atomic steps in scripts.py, and the removal of older generations in
retention.py.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec
import redis

from driftgraph.snapshots.generations import scripts
from driftgraph.snapshots.generations.calls import erase_calls, hash_calls, index_effort, item_calls
from driftgraph.snapshots.generations.check import Record, Served, Standing, verify
from driftgraph.snapshots.generations.choice import Choice, Choices, switch_args
from driftgraph.snapshots.generations.delisting import FIELD as DELISTED
from driftgraph.snapshots.generations.delisting import Delisting
from driftgraph.snapshots.generations.feast import FeastCopies
from driftgraph.snapshots.generations.keys import (
    LIVE,
    OWN_FIELDS,
    Keys,
    StoreError,
    redis_errors,
    require_usable,
)
from driftgraph.snapshots.generations.memory import copies_bytes, generation_bytes, require_room
from driftgraph.snapshots.generations.part_copies import PartCopies
from driftgraph.snapshots.generations.refreshes import Refreshes
from driftgraph.snapshots.generations.retention import Generation, GenerationKeys
from driftgraph.snapshots.generations.scripts import Scripts
from driftgraph.snapshots.generations.servers.rights import has_vector_sets, is_refused_right, what_it_says
from driftgraph.snapshots.generations.servers.topologies import follow_primary
from driftgraph.snapshots.generations.trending import TrendingLists
from driftgraph.snapshots.generations.vector_forms import FLOAT32, Form
from driftgraph.snapshots.generations.vectors import Vectors, digest_of, dim_of, longest

KEEP_MIN = 2  # the served generation and one for a rollback
TTL_S = 7 * 86_400  # of generations not served: long, since it is also how long a rollback is possible

log = logging.getLogger(__name__)


class GenerationStore:
    """The writing side: publishes, refreshes, rolls back and removes generations of one namespace.

    Always true, whatever dies at whatever point:
      * ``current`` names a generation all of whose keys are there and verified, or nothing;
      * an epoch older than the newest seen changes nothing;
      * every key belongs to a generation that ``generations`` names, so that every key can be removed.

    One thread uses it. Every method raises StoreError, within about ten seconds on a client of ``connect``.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str,
        epoch: int,
        keep: int = 3,
        ttl_s: int = TTL_S,
        vectors: Form = FLOAT32,
        index: str = FLOAT32,
        feast: str = "",
    ) -> None:
        if keep < KEEP_MIN:
            raise ValueError(
                f"keep must be {KEEP_MIN} or more, one to serve and one to go back to, got {keep}"
            )
        if ttl_s <= 0:
            raise ValueError(f"ttl_s must be positive, got {ttl_s}")
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        require_usable(client, Keys(namespace))
        self.epoch = epoch
        self.keep = keep
        self.ttl_s = ttl_s
        self.vectors: Form = vectors  # how they are written
        self.index = index  # how the vector set keeps them: a key of calls.QUANTIZATIONS
        self._client = client
        self._keys = Keys(namespace)
        self._calls = Scripts(client, epoch)
        self._parts = PartCopies(self._keys, self._calls, epoch)
        self._tended = GenerationKeys(client, self._keys, self._calls, epoch)
        self.follows: Choice | None = None  # a newer act of an operator stops a publish; None: nothing does
        self.choices = Choices(client, self._keys, self._calls, self._tended, epoch=epoch)
        self.feast = FeastCopies(client, self._keys, self._calls, feast, epoch=epoch)  # of a project of it
        self.delisting = Delisting(client, self._keys, self._calls, self._tended, self.feast, epoch=epoch)
        self._share(Record())
        self.trending = TrendingLists(client, self._keys, self._calls, epoch=epoch, ttl_s=ttl_s)
        self._highest = 0  # the highest number used, also by an attempt that failed
        self._has_vector_sets: bool | None = None  # None before the first publish asks
        self._told = set[str]()  # the consequences of missing rights that were logged

    # --- publish ---------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """The smallest number above every generation that exists, finished or not, and above all of our own.

        So numbers also grow past those that Redis has forgotten.
        """
        with redis_errors(self._client, "reading the generations"):
            return max([self._highest, *self._tended.known()]) + 1

    def publish(
        self,
        number: int,
        users: Vectors,
        items: Vectors,
        manifest: Mapping[str, str | int | float],
        on_written: Callable[[int], None] = lambda _: None,
        *,
        at_switch: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Write a generation and make it the served one. The order of the commit:

        1. check the vectors; nothing is written before they are sound
        2. remove what a killed publish left, and mark ``number`` as being built, by this attempt
        3. write ids and hashes, then the vector set; each script checks the mark
        4. write the manifest
        5. verify: count every key, read a sample back bit for bit, count the vector set; then enter
           ``at_switch``, which may refresh what events have touched since the vectors were made
        6. one script: check epoch, mark and that no operator has chosen meanwhile (``follows``), declare it
           live, switch ``current``, notify
        7. copy it for Feast; set the TTL of what is no longer served; remove those beyond ``keep``

        Before step 6 readers see the whole old generation, after it the new one. A failure in step 7 is
        logged, and the next look, publish or ``clean_up`` does it again. Publishing the same content under
        the same number again changes nothing, so a caller that does not know how a publish ended tries again.

        ``on_written`` is told of each hash that is on its way, ``len(users) + len(items)`` in all.
        ``at_switch`` is left after step 6, with the error if it failed.

        Raises:
            ValueError: If the vectors or the manifest are not valid. Nothing was written.
            ChosenError: An operator has chosen what is served; see ``Choices``. Nothing was switched.
            StoreError: If the generation was not switched. After a lost answer it may be; try again.
        """
        change, delisted = self.delisting.newest()
        users = self.delisting.users_without(users, delisted)
        items = self.delisting.items_without(items, delisted)
        own = self._own_fields(users, items, manifest) | ({DELISTED: change} if change else {})
        keys, token = self._keys, f"{self.epoch}:{uuid.uuid4().hex}"
        with redis_errors(self._client, f"publishing generation {number}"):
            there = self._tended.manifest(number)
            if (there.get("status"), there.get("digest")) == (LIVE, own["digest"]):
                return
            self._claim()
            self._tended.remove_unfinished()
            self._require_room(number, users, items)
            self._highest = max(self._highest, number)
            names = [keys.current, keys.generations, keys.of(number, "manifest")]
            self._calls.run_or_refuse(scripts.BEGIN, number, names, [self.epoch, number, token])
            self._parts.begin(number, token)
            self._write(number, token, "user", users, on_written)
            self._write(number, token, "item", items, on_written)
            own["index"] = self._build_index(number, token, items)
            names = [keys.current, keys.of(number, "manifest")]
            fields = [self.epoch, token, *(part for pair in {**manifest, **own}.items() for part in pair)]
            self._calls.run_or_refuse(scripts.DESCRIBE, number, names, fields)
            self._parts.describe(number, token, users, items)
            self._verify(number, users, items, indexed=(indexed := own["index"] != "none"))
            built = Served(number, token, indexed=indexed, norm=float(own["item_norm"]))
            self._record.building = built
            with at_switch():
                follow_primary(self._client)
                switch = [self.epoch, token, number, keys.events, *switch_args(self.follows)]
                self._tell_silence(self._calls.run_or_refuse(scripts.SWITCH, number, names, switch))
                self._parts.follow(number)
                self._record.served, self._record.building = built, Served()
        self._tend(f"generation {number} is served", self.feast.follow)
        self._tend(f"generation {number} is served", self._tidy)

    def _tend(self, done: str, tidy: Callable[[], None]) -> None:
        """Step 7: it may fail, and is done again."""
        try:
            with redis_errors(self._client, "tidying"):
                tidy()
        except StoreError as error:
            log.warning("%s, but older ones are not tidied yet: %s", done, error)

    def _tell_silence(self, answer: Sequence[str]) -> None:
        """Log once that no notice of a switch could be sent."""
        if len(answer) > 1 and answer[1]:
            self._tell_once(
                f"nobody is told of new generations on the channel {self._keys.events} ({answer[1]}); "
                f"readers follow with their next read; the ACL rule &{self._keys.events} allows the notice"
            )

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    def _own_fields(
        self, users: Vectors, items: Vectors, manifest: Mapping[str, str | int | float]
    ) -> dict[str, str | int | float]:
        """Check all input and return the fields of the manifest that the store writes."""
        dim = dim_of(users, items, self.vectors)
        if taken := OWN_FIELDS & manifest.keys():
            raise ValueError(f"manifest field {min(taken)!r} is the store's own; choose another name")
        own: dict[str, str | int | float] = {
            "users": len(users),
            "items": len(items),
            "dim": dim,
            "vectors": self.vectors,
        }
        if items.attributes is not None:
            own["attributes"] = msgspec.json.encode(items.attributes.names).decode()
        own |= {"epoch": self.epoch, "item_norm": longest(items.vectors), "index_vectors": self.index}
        return {**own, "digest": digest_of(users, items), "keys_expire": "no"}

    def _require_room(self, number: int, users: Vectors, items: Vectors) -> None:
        index = self.index if self._has_vector_sets else None
        hashes, vector_set = generation_bytes(users, items, self.vectors, index)
        if self.feast.is_new():
            hashes += copies_bytes(users, items)
        require_room(self._client, self._keys, number, hashes, vector_set)

    def _claim(self) -> None:
        """Raise the fence, first of the namespace, then of its parts."""
        self._calls.run_or_refuse(scripts.CLAIM, 0, [self._keys.current], [self.epoch])
        self._parts.claim()

    def _write(
        self, number: int, token: str, kind: str, vectors: Vectors, on_written: Callable[[int], None]
    ) -> None:
        """Step 3, hashes: an id is in the list before the key that it names."""
        calls = hash_calls(self._keys, kind, number, vectors, [self.epoch, token], self.vectors, on_written)
        self._calls.run_many(scripts.WRITE, number, calls)

    def _build_index(self, number: int, token: str, items: Vectors) -> str:
        """Step 3, vector set. Returns how readers search it: ``exact``, ``graph`` or ``none``."""
        name = self._keys.of(number, "items")
        try:
            if self._has_vector_sets is None:
                self._has_vector_sets = has_vector_sets(self._client, name)
            if not self._has_vector_sets:
                return "none"
            calls = item_calls(self._keys, number, items, [self.epoch, token], self.index)
            self._calls.run_many(scripts.INDEX, number, calls)
            return index_effort(len(items))[0]
        except redis.RedisError as error:
            if not is_refused_right(error):
                raise
            self._tell_once(
                f"items have no vector set, so readers rank by themselves ({what_it_says(error)}); the ACL "
                "rules +vadd +vcard +vsim give the right"
            )
            self._client.unlink(name)
            return "none"

    def _verify(self, number: int, users: Vectors, items: Vectors, *, indexed: bool) -> None:
        verify(self._client, self._keys, number, users, items, form=self.vectors, indexed=indexed)

    # --- between publishes -----------------------------------------------------------------------------

    def refresh(self, number: int, users: Vectors) -> None:
        """Write newer user vectors into the served generation; see ``Refreshes.users``."""
        self.refreshes.users(number, users)

    def beside(self, client: redis.Redis) -> GenerationStore:
        """A store for another thread of this worker, on a client of its own; both know what is served."""
        own = GenerationStore(
            client,
            namespace=self._keys.namespace,
            epoch=self.epoch,
            keep=self.keep,
            ttl_s=self.ttl_s,
            vectors=self.vectors,
            index=self.index,
            feast=self.feast.project,
        )
        own._share(self._record)
        return own

    def _share(self, record: Record) -> None:
        self._record = record
        parts, delisting = self._parts, self.delisting
        self.refreshes = Refreshes(
            self._client, self._keys, self._calls, record, parts, delisting, self.feast
        )

    def erase(self, users: Sequence[str], *, live_only: bool = False) -> None:
        """Remove users from every generation that has keys, by one script for each user and generation.

        ``live_only`` leaves out a generation that is being published, since its publisher verifies its keys.
        """
        keys = self._keys
        follow_primary(self._client)
        with redis_errors(self._client, f"erasing {len(users)} users"):
            for number in self._tended.live() if live_only else self._tended.known():
                self._calls.run_many(scripts.ERASE, number, erase_calls(keys, number, users, self.epoch))
                if keys.is_spread and users:  # the manifest of the namespace names those that moved most
                    moved = [f"moved_user:{user}" for user in users]
                    self._client.hdel(keys.of(number, "manifest"), *moved)
        self.feast.gone("user", users)

    def standing(self, number: int) -> Standing:
        """The state of generation ``number``, which this worker has published. Called every second.

        Raises:
            StaleWorkerError: If a newer worker has taken over.
            StoreError: If Redis does not answer.
        """
        with redis_errors(self._client, f"looking whether generation {number} is served"):
            follow_primary(self._client)
            found, fence = self._record.served.standing(self._client, self._keys, number, self.follows)
            if fence != self.epoch:  # a newer worker's; or Redis has forgotten it, then ours is written again
                self._claim()
        return found

    def take_up(self, served: Generation) -> bool:
        """Go on with a generation that another store has published, as if this one had; whether it is whole.

        Raises:
            StaleWorkerError: If a newer worker has taken over.
            StoreError: If Redis does not answer.
        """
        own, self._record.served = self._record.served, Served.of(served.number, served.manifest)
        if self.standing(served.number) is not Standing.SERVED:
            self._record.served = own
            return False
        with redis_errors(self._client, f"going on with generation {served.number}"):
            self._parts.follow(served.number)
        self.trending.written_by_others()
        return True

    def rollback(self, *, hold: bool = False, by: str = "") -> int:
        """Serve the generation before the current one again; see ``Choices.rollback``.

        After the switch the keys of the served generation lose their TTL, and those of the one that was left
        get one.
        """
        target, answer = self.choices.rollback(hold=hold, by=by)
        return self._chosen(target, answer)

    def promote(self, number: int | None = None, *, hold: bool = False, by: str = "") -> int:
        """Serve a kept generation, by default the newest, and end a hold; see ``Choices.promote``."""
        target, answer = self.choices.promote(number, hold=hold, by=by)
        return self._chosen(target, answer)

    def _chosen(self, target: int, answer: Sequence[str]) -> int:
        self._tell_silence(answer)
        with redis_errors(self._client, f"telling the parts of a choice of generation {target}"):
            self._parts.follow(target)
        if self.feast.project:  # a command without the configuration leaves it to the worker
            self._tend(f"generation {target} is served", self.feast.follow)
        self._tend(f"generation {target} is served", lambda: self._tended.settle_ttls(self.ttl_s))
        return target

    def clean_up(self) -> int:
        """Remove what an interrupted publish or removal left, and mend the TTLs; return how many are removed.

        It raises the fence first: a worker calls it at its start, so that an older worker writes no more.
        """
        with redis_errors(self._client, "cleaning up"):
            self._claim()
            self._parts.follow(self._tended.current()[0])
            removed = self._tended.remove_unfinished()
            self._tidy()
        return removed

    def _tidy(self) -> None:
        """Remove old generations before setting TTLs, which may fail without the right to set one."""
        self._tended.remove_unfinished()
        self._tended.remove_oldest(self.keep)
        self._tended.settle_ttls(self.ttl_s)

    # --- what is there ---------------------------------------------------------------------------------

    def generations(self) -> list[Generation]:
        """The generations that can be served, oldest first, without those whose keys have run out."""
        with redis_errors(self._client, "reading the generations"):
            current, _ = self._tended.current()
            return [Generation(n, n == current, self._tended.manifest(n)) for n in self._tended.live()]

    def served(self) -> Generation | None:
        """The served generation, with what its manifest says; None if there is none."""
        with redis_errors(self._client, "reading the served generation"):
            number, _ = self._tended.current()
            manifest = self._tended.manifest(number) if number else {}
        return Generation(number, True, manifest) if manifest.get("status") == LIVE else None

    def count_keys(self) -> dict[str, int]:
        """How many keys of each kind exist by lists and manifests: user, item, index, manifest, id_list, …"""
        with redis_errors(self._client, "counting keys"):
            return self._tended.count()
