"""What the operator sees: caches of its kinds, what it wrote itself and they do not show yet, and live reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_operator import projections
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.reconcile import LiveRead, Observed, naming
from rlhf_operator.runtime.cache import Cache
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import NotFound
from rlhf_operator.runtime.kinds import (
    JOBS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICES,
    Key,
    Kind,
    Object,
    controller_uid,
    key_of,
    version_of,
)
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import Lane
from rlhf_operator.runtime.store import Change

log = logging.getLogger(__name__)

KEEP = {JOBS: projections.job, PODS: projections.pod, SERVICES: projections.bare}
CHILD_KINDS = {kind.kind: kind for kind in KEEP}
OWN_WRITE_SECONDS = 30.0
"""After which a write that the watch never delivered is dropped: the object was deleted."""
CLAIM_SECONDS = 600.0
"""How long an answer about a claim is good: access modes never change."""


@dataclass
class _OwnWrite:
    """An object that this process wrote; it counts until the watch delivers it."""

    object: Object
    until: float


class ClusterState:
    """What is known of jobs and their children.

    Args:
        on_job: called with the key of a job about which something may have changed, and its lane.
    """

    def __init__(
        self,
        client: Client,
        namespaces: Sequence[str] | None,
        on_job: Callable[[Key, Lane], None],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._on_job = on_job
        self._keys: dict[str, Key] = {}  # of jobs, by UID
        self._own_writes: dict[tuple[Kind, Key], _OwnWrite] = {}
        self._claims: dict[Key, tuple[float, Object | None]] = {}
        self._packed = 0  # bytes of all jobs' specs and statuses
        self.jobs = Cache(
            client, RLHFJOBS, namespaces, on_change=self._job_changed, keep=self._keep_job, metrics=metrics
        )
        self.children = {
            kind: Cache(
                client,
                kind,
                namespaces,
                label_selector=projections.SELECTOR,
                on_change=self._child_changed(kind),
                keep=keep,
                metrics=metrics,
            )
            for kind, keep in KEEP.items()
        }

    @property
    def blind(self) -> str | None:
        """Why the caches of no namespace are synced; None: those of one at least are."""
        if any(self.jobs.of(namespace).synced for namespace in self.jobs.namespaces):
            return None
        problems = [problem for cache in self._caches for problem in cache.problems]
        return "; ".join(problems) or "nothing is listed yet"

    async def run(self) -> None:
        """Keep up until cancelled, in each namespace by itself: one that cannot be read holds up no other."""
        async with asyncio.TaskGroup() as group:
            for namespace in self.jobs.namespaces:
                group.create_task(self._run(namespace))

    async def _run(self, namespace: str | None) -> None:
        *children, jobs = (cache.of(namespace) for cache in self._caches)
        async with asyncio.TaskGroup() as group:
            for cache in children:
                group.create_task(cache.run())
            for cache in children:
                await cache.wait_synced()
            group.create_task(jobs.run())
            await jobs.wait_synced()
            log.info("%s: %d are known", jobs.name, len(jobs))

    @property
    def _caches(self) -> list[Cache]:
        """All of them; the jobs' last, so that children are known when the first is looked at."""
        return [*self.children.values(), self.jobs]

    def job(self, key: Key) -> Object | None:
        """A job as this process last saw or wrote it."""
        job = self.jobs.get(key)
        recent = self._recent(RLHFJOBS, key)
        if recent is not None and (job is None or _newer(recent, job)):
            job = recent
        return None if job is None else projections.unpacked(job)

    async def read_job(self, key: Key) -> Object:
        """A job as the API server has it now.

        Raises:
            NotFound: it is gone.
        """
        return projections.trimmed(await self._client.get(RLHFJOBS, key.namespace, key.name))

    def cached(self, raw: Object) -> Observed:
        """A job's children as the caches have them, with what this process has written since."""
        uid, namespace = raw["metadata"]["uid"], raw["metadata"]["namespace"]
        children = {kind: list(self._owned(kind, namespace, uid)) for kind in KEEP if kind is not PODS}
        children[PODS] = [pod for job in job_uids(raw, children[JOBS]) for pod in self._owned(PODS, namespace, job)]
        claims = {
            key.name: claim
            for key, (until, claim) in self._claims.items()
            if key.namespace == namespace and until > _clock()
        }
        return Observed(tuple(children[JOBS]), tuple(children[PODS]), tuple(children[SERVICES]), claims=claims)

    async def live(self, raw: Object, looks: Iterable[LiveRead]) -> tuple[Object, Observed]:
        """A job and its children as the API server has them now, and answers to what was asked.

        Raises:
            NotFound: the job is gone.
        """
        metadata = raw["metadata"]
        namespace, uid = metadata["namespace"], metadata["uid"]
        fresh = await self.read_job(key_of(raw))
        selector = f"{projections.SELECTOR},{naming.UID}={uid}"
        children: dict[Kind, list[Object]] = {}
        for kind, keep in KEEP.items():
            pages = self._client.pages(kind, namespace, label_selector=selector)
            listed = [keep(item) async for page in pages for item in page.items]
            owners = job_uids(raw, children[JOBS]) if kind is PODS else [uid]
            children[kind] = [item for item in listed if controller_uid(item) in owners]
        reads = dict.fromkeys(looks)
        await self.ask(raw, reads)
        cached = self.cached(raw)
        jobs = {job["metadata"]["name"]: job for job in children[JOBS]}
        return fresh, Observed(
            tuple(children[JOBS]),
            tuple(children[PODS]),
            tuple(children[SERVICES]),
            live_reads={look: jobs.get(look.name) for look in reads},
            claims=cached.claims,
        )

    async def ask(self, raw: Object, looks: Iterable[LiveRead]) -> None:
        """Answer questions about claims, which `cached` then knows."""
        for look in looks:
            if look.what == "Claim":
                await self._ask_claim(Key(raw["metadata"]["namespace"], look.name))

    def wrote(self, kind: Kind, obj: Object) -> None:
        """Record an object that this process wrote. It counts until the watch delivers it, which may have happened."""
        if kind is PERSISTENT_VOLUME_CLAIMS:
            self._claims.pop(key_of(obj), None)  # an older answer for this name
        keep, cache = (self._keep_job, self.jobs) if kind is RLHFJOBS else (KEEP.get(kind), self.children.get(kind))
        if keep is None or cache is None:
            return
        projection, cached = keep(obj), cache.get(key_of(obj))
        if cached is None or _newer(projection, cached):
            self._own_writes[kind, key_of(obj)] = _OwnWrite(projection, _clock() + OWN_WRITE_SECONDS)

    def _owned(self, kind: Kind, namespace: str, uid: str) -> Iterable[Object]:
        """Objects of a kind in a namespace that the owner of a UID controls: labels show nothing, anyone sets them."""
        cached = [obj for obj in self.children[kind].owned(uid) if key_of(obj).namespace == namespace]
        yield from cached
        cached_keys = {key_of(obj) for obj in cached}
        for (own_kind, key), write in list(self._own_writes.items()):
            mine = key.namespace == namespace and controller_uid(write.object) == uid
            if own_kind is kind and key not in cached_keys and mine:
                recent = self._recent(kind, key)
                if recent is not None:
                    yield recent

    def _recent(self, kind: Kind, key: Key) -> Object | None:
        write = self._own_writes.get((kind, key))
        if write is not None and write.until < _clock():
            del self._own_writes[kind, key]
            return None
        return None if write is None else write.object

    async def _ask_claim(self, key: Key) -> None:
        claim: Object | None
        try:
            claim = await self._client.get(PERSISTENT_VOLUME_CLAIMS, key.namespace, key.name)
        except NotFound:
            claim = None
        for expired in [expired for expired, (until, _) in self._claims.items() if until <= _clock()]:
            del self._claims[expired]
        seconds = CLAIM_SECONDS if claim is not None else OWN_WRITE_SECONDS
        self._claims[key] = _clock() + seconds, claim

    def _keep_job(self, obj: Object) -> Object:
        return projections.rlhfjob(obj, projections.MOST_PACKED_OF_ALL - self._packed)

    def _job_changed(self, change: Change) -> None:
        self._packed += projections.packed_bytes(change.new) - projections.packed_bytes(change.old)
        write = self._own_writes.get((RLHFJOBS, change.key))
        # What a look has written itself is no news to it: the next one would find nothing to do.
        echo = write is not None and change.new is not None and version_of(write.object) == version_of(change.new)
        if change.new is None or (write is not None and not _newer(write.object, change.new)):
            self._own_writes.pop((RLHFJOBS, change.key), None)
        for obj in (change.old, change.new):
            if obj is not None:
                self._keys.pop(obj["metadata"]["uid"], None)
        if change.new is not None:
            self._keys[change.new["metadata"]["uid"]] = change.key
        if not echo:
            self._on_job(change.key, _lane(change))

    def _child_changed(self, kind: Kind) -> Callable[[Change], None]:
        def changed(change: Change) -> None:
            self._own_writes.pop((kind, change.key), None)
            obj: Any = change.new if change.new is not None else change.old
            labels = obj["metadata"].get("labels") or {}
            key = self._keys.get(str(labels.get(naming.UID)))
            if key is not None and key.namespace == change.key.namespace and _telling(kind, change):
                self._on_job(key, Lane.LOW if change.listed else Lane.USUAL)

        return changed


def job_uids(raw: Object, jobs: Iterable[Object]) -> list[str]:
    """UIDs of the Jobs of an RLHFJob: those that are there, and those on record, which may have left pods."""
    stages = (raw.get("status") or {}).get("stages") or ()
    recorded = [attempt.get("uid") for stage in stages for attempt in stage.get("attempts") or ()]
    return list(dict.fromkeys([*(job["metadata"]["uid"] for job in jobs), *filter(None, recorded)]))


def _telling(kind: Kind, change: Change) -> bool:
    """Whether a change can matter: of Services only that they went."""
    if change.new is None:
        return True
    if kind is SERVICES:
        return False
    if change.old is None:
        return True
    return any(change.old.get(part) != change.new.get(part) for part in ("spec", "status")) or (
        "deletionTimestamp" in change.new["metadata"] and "deletionTimestamp" not in change.old["metadata"]
    )


def _lane(change: Change) -> Lane:
    """Of a job that has changed: a person waits for an answer to a new job, or to a change of its spec."""
    if change.listed:
        return Lane.LOW
    if change.new is None or change.old is None:
        return Lane.FIRST
    before, now = (obj["metadata"].get("generation") for obj in (change.old, change.new))
    return Lane.USUAL if before == now else Lane.FIRST


def _newer(obj: Object, reference: Object) -> bool:
    """Whether an object has a later resourceVersion than the reference; false where they cannot be compared."""
    mine, theirs = version_of(obj), version_of(reference)
    if obj["metadata"].get("uid") != reference["metadata"].get("uid"):
        return False
    return mine.isdigit() and theirs.isdigit() and int(mine) > int(theirs)


def _clock() -> float:
    return asyncio.get_running_loop().time()
