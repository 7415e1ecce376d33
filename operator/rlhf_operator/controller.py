"""The shell around `reconcile`: sees, asks it, and does what it says, in its order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rlhf_operator import projections
from rlhf_operator.informers import CHILD_KINDS, ClusterState
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.patches import difference
from rlhf_operator.pending_reasons import PendingReasonFetcher
from rlhf_operator.progress_poller import Poller
from rlhf_operator.reconcile import Delete, LiveRead, Observed, ReconcileResult, Settings, reasons, reconcile
from rlhf_operator.reconcile.conditions import troubled
from rlhf_operator.reconcile.policy.ttl import FINISHED
from rlhf_operator.reconcile.times import write
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import AlreadyExists, ApiError, Conflict, NotFound, RequestFailed
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.kinds import PERSISTENT_VOLUME_CLAIMS, Key, Kind, Object, controller_uid
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import Queue
from rlhf_operator.runtime.store import FAULT
from rlhf_operator.runtime.workers import Workers
from rlhf_operator.troubles import PASSING, TRIES, Trouble, Troubles

log = logging.getLogger(__name__)

NAME = "rlhfjob"
VANISHED = 1.0
"""Seconds until the next look at a job of which something was gone when it was read."""
MOST_LOOKS = 4
"""Rounds of questions a reconcile may ask; it needs three."""


class Unreadable(Exception):
    """A job that cannot be kept in memory as others are."""


class Refused(Exception):
    """An object cannot be made, or one of its name belongs to someone else; a person has to see to it."""


class Controller:
    """Reconciles every RLHFJob of some namespaces, or (None) of all."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        *,
        namespaces: Sequence[str] | None,
        recorder: Recorder,
        workers: int,
        progress_per_second: float,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._settings = settings
        self._recorder = recorder
        self.queue: Queue[Key] = Queue(NAME, metrics)
        self.view = ClusterState(client, namespaces, self.queue.add, metrics)
        self._workers = Workers(self.queue, self.reconcile, workers)
        self._poller = Poller(self.queue.add, progress_per_second, settings.timings.poll)
        self._explainer = PendingReasonFetcher(client, self.queue.add)
        self._refusals: dict[Key, str] = {}
        self._tries: dict[Key, dict[tuple[str, str], int]] = {}
        """How often the API server could not make an object, by job and then kind and name."""
        self._troubles = Troubles()
        self._large = asyncio.Semaphore(1)
        """Jobs that are not kept in memory are looked at one by one: each weighs as much as a thousand others."""

    async def run(self) -> None:
        """Reconcile until cancelled: a job from when the view tells of it, whatever other namespaces wait for."""
        async with asyncio.TaskGroup() as group:
            for part in (self.view, self._poller, self._explainer, self._recorder, self._workers):
                group.create_task(part.run())

    async def reconcile(self, key: Key) -> float | None:
        """One look at one job; gives the seconds after which to look again."""
        raw = self.view.job(key)
        if raw is None:
            self._forget(key)
            return None
        try:
            if FAULT in raw:
                raise Unreadable(raw[FAULT])
            if not projections.is_large(raw):
                return await self._look(key, raw)
            async with self._large:
                return await self._look(key, await self.view.read_job(key))
        except NotFound as error:  # the job, of which a watch will tell; or a child that went between two requests
            log.info("%s: %s; again in %.3f s", key, error, VANISHED)
            return VANISHED
        except Refused:
            raise
        except Exception as error:
            trouble = self._troubles.failed(key, error)
            if trouble is not None:
                await self._mark(key, trouble)
            raise

    async def _look(self, key: Key, raw: Object) -> float | None:
        raw, out = await self._decide(key, raw)
        failures = await self._apply(key, raw, out)
        self._poller.follow(key, out.poll)
        self._explainer.follow(key, out.explain)
        if failures:
            raise failures[0]
        if self._troubles.reported(key) is not None:
            self._troubles.clear(key)
            return 0.0  # once more, without the trouble in its status
        self._troubles.clear(key)
        return out.requeue

    async def _mark(self, key: Key, trouble: Trouble) -> None:
        """Tell of a job why nothing can be done about it. A finished one says how it ended: an event has to do."""
        try:
            raw = await self._client.get(RLHFJOBS, key.namespace, key.name)
            self._recorder.tell(raw, "Warning", trouble.reason, trouble.message)
            status = raw.get("status") or {}
            if status.get("phase") not in FINISHED:
                await self._write_status(key, raw, self._with_trouble(key, status))
        except RequestFailed as error:
            log.warning("%s: its status cannot say %s: %s", key, trouble.reason, error)

    def _with_trouble(self, key: Key, status: Object) -> Object:
        """The status, saying besides why looks fail, as long as they do."""
        trouble = self._troubles.reported(key)
        if trouble is None or status.get("phase") in FINISHED:
            return status
        return troubled(status, trouble.reason, trouble.message, now=write(datetime.now(UTC)))

    async def _decide(self, key: Key, raw: Object) -> tuple[Object, ReconcileResult]:
        """Ask `reconcile`, with live answers where it wants them, or where a stale cache could make an object twice."""
        children, live, looks = self.view.cached(raw), False, dict[LiveRead, None]()
        for _ in range(MOST_LOOKS):
            out = self._asked(key, raw, children)
            out.status = self._with_trouble(key, out.status)
            blind = not live and bool(out.create) and out.status == (raw.get("status") or {})
            if not (out.look or blind):
                return raw, out
            looks |= dict.fromkeys(out.look)
            if live or blind or any(look.what != "Claim" for look in looks):
                raw, children = await self.view.live(raw, looks)
                live = True
            else:
                await self.view.ask(raw, looks)
                children = self.view.cached(raw)
        raise RuntimeError(f"{key}: still asks for {out.look}")

    def _asked(self, key: Key, raw: Object, children: Observed) -> ReconcileResult:
        children = replace(
            children,
            samples=self._poller.samples(key),
            explanations=self._explainer.explanations(key),
            refusal=self._refusals.get(key),
        )
        return reconcile(raw, children, self._settings, datetime.now(UTC))

    async def _apply(self, key: Key, raw: Object, out: ReconcileResult) -> list[Exception]:
        """Write it all; gives what failed meanwhile of single objects, what a user must see to last."""
        await self._write_status(key, raw, out.status)
        failures = await self._create_all(key, raw, out.create)
        for gone in out.delete:
            try:
                await self._delete(key, gone)
            except ApiError as error:
                failures.append(error)
        for event in out.events:
            type_, occasion = "Warning" if event.warning else "Normal", raw["metadata"]["resourceVersion"]
            self._recorder.tell(raw, type_, event.reason, event.note, occasion=occasion)
        return sorted(failures, key=lambda error: isinstance(error, Refused))

    async def _write_status(self, key: Key, raw: Object, status: Object) -> None:
        patch = difference(raw.get("status") or {}, status)
        if patch:
            metadata = raw["metadata"]
            body = {
                "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
                "status": patch,
            }
            self.view.wrote(RLHFJOBS, await self._client.patch_status(RLHFJOBS, key.namespace, key.name, body))

    async def _create_all(self, key: Key, raw: Object, bodies: list[Object]) -> list[Exception]:
        """A stage that cannot be made holds up no other; objects of one name are an attempt's, and need those before
        them."""
        failures: dict[str, Exception] = {}
        for body in bodies:
            name = body["metadata"]["name"]
            if name in failures:
                continue
            try:
                await self._create(key, raw, body)
            except (Refused, ApiError) as error:
                passing = isinstance(error, ApiError) and error.status in PASSING
                if passing or body["kind"] == PERSISTENT_VOLUME_CLAIMS.kind:  # all else mounts it
                    raise
                failures[name] = error
        if bodies and not failures:
            self._refusals.pop(key, None)
        return list(failures.values())

    async def _create(self, key: Key, raw: Object, body: Object) -> None:
        kind: Kind = CHILD_KINDS.get(body["kind"], PERSISTENT_VOLUME_CLAIMS)
        name = body["metadata"]["name"]
        try:
            self.view.wrote(kind, await self._client.create(kind, key.namespace, body))
        except AlreadyExists:
            await self._adopt(key, raw, kind, body)
        except ApiError as error:
            if error.status in PASSING:
                raise
            tries = self._tries.setdefault(key, {})
            tries[kind.kind, name] = tries.get((kind.kind, name), 0) + 1
            if (
                400 <= error.status < 500 or tries[kind.kind, name] >= TRIES
            ):  # a webhook that is down may be back in a moment
                raise self._refused(key, raw, f"{kind.kind} {name} cannot be made: {error.message}") from error
            raise
        self._tries.get(key, {}).pop((kind.kind, name), None)

    async def _adopt(self, key: Key, raw: Object, kind: Kind, body: Object) -> None:
        """Adopt an object that an earlier process made, or this one before its cache had it; a claim, of an earlier job."""
        name = body["metadata"]["name"]
        existing = await self._client.get(kind, key.namespace, name)
        owner, labels = controller_uid(existing), existing["metadata"].get("labels") or {}
        claim = kind is PERSISTENT_VOLUME_CLAIMS
        reusable = claim and owner is None and body["metadata"]["labels"].items() <= labels.items()
        if owner != raw["metadata"]["uid"] and not reusable:
            remedy = "name it by storage.claimName" if claim else "delete it"
            words = f"{kind.kind} {name} exists and belongs to someone else; {remedy}, or make a job of another name"
            raise self._refused(key, raw, words)
        self.view.wrote(kind, existing)

    def _refused(self, key: Key, raw: Object, words: str) -> Refused:
        self._refusals[key] = words
        self._recorder.tell(raw, "Warning", reasons.CREATE_FAILED, words)
        return Refused(words)

    async def _delete(self, key: Key, gone: Delete) -> None:
        kind = CHILD_KINDS.get(gone.kind, RLHFJOBS)
        how: dict[str, Any] = {"uid": gone.uid, "propagation": "Foreground" if gone.kind == "Job" else "Background"}
        try:
            await self._client.delete(kind, key.namespace, gone.name, **how)
        except NotFound:
            log.debug("%s: %s %s is gone already", key, gone.kind, gone.name)
        except Conflict:  # another of that name: not ours to delete
            log.info("%s: %s %s is another by now", key, gone.kind, gone.name)

    def _forget(self, key: Key) -> None:
        self._poller.forget(key)
        self._explainer.forget(key)
        self._refusals.pop(key, None)
        self._tries.pop(key, None)
        self._troubles.clear(key)
