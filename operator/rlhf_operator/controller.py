"""The shell around `reconcile`: sees, asks it, and does what it says, in its order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.explaining import Explainer
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.patches import difference
from rlhf_operator.polling import Poller
from rlhf_operator.reconcile import Children, Delete, Look, Outcome, Settings, reasons, reconcile
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import AlreadyExists, ApiError, Conflict, NotFound
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.kinds import PERSISTENT_VOLUME_CLAIMS, Key, Kind, Object, controller_uid
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import Queue
from rlhf_operator.runtime.workers import Workers
from rlhf_operator.view import CHILD_KINDS, View

log = logging.getLogger(__name__)

NAME = "rlhfjob"
MOST_LOOKS = 4
"""Rounds of questions a reconcile may ask; it needs three."""
PASSING = frozenset({401, 404, 408, 409, 429})
"""Refusals that are no verdict on an object: who asks, where, when. Of others the user must know: a quota, a policy, a
field. A webhook may choose its code; without one it is 400."""


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
        self.view = View(client, namespaces, self.queue.add, metrics)
        self._workers = Workers(self.queue, self.reconcile, workers)
        self._poller = Poller(self.queue.add, progress_per_second, settings.timings.poll)
        self._explainer = Explainer(client, self.queue.add)
        self._refusals: dict[Key, str] = {}

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
            raw, out = await self._decide(key, raw)
        except NotFound:
            self._forget(key)
            return None
        refused = await self._apply(key, raw, out)
        self._poller.follow(key, out.poll)
        self._explainer.follow(key, out.explain)
        if refused is not None:
            raise refused
        return out.requeue

    async def _decide(self, key: Key, raw: Object) -> tuple[Object, Outcome]:
        """Ask `reconcile`, with live answers where it wants them, or where a stale cache could make an object twice."""
        children, live, looks = self.view.seen(raw), False, dict[Look, None]()
        for _ in range(MOST_LOOKS):
            out = self._asked(key, raw, children)
            blind = not live and bool(out.create) and out.status == (raw.get("status") or {})
            if not (out.look or blind):
                return raw, out
            looks |= dict.fromkeys(out.look)
            if live or blind or any(look.what != "Claim" for look in looks):
                raw, children = await self.view.live(raw, looks)
                live = True
            else:
                await self.view.ask(raw, looks)
                children = self.view.seen(raw)
        raise RuntimeError(f"{key}: still asks for {out.look}")

    def _asked(self, key: Key, raw: Object, children: Children) -> Outcome:
        children = replace(
            children,
            samples=self._poller.samples(key),
            told=self._explainer.told(key),
            refusal=self._refusals.get(key),
        )
        return reconcile(raw, children, self._settings, datetime.now(UTC))

    async def _apply(self, key: Key, raw: Object, out: Outcome) -> Exception | None:
        """Write it all; gives what was refused meanwhile."""
        patch = difference(raw.get("status") or {}, out.status)
        if patch:
            metadata = raw["metadata"]
            body = {
                "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
                "status": patch,
            }
            self.view.wrote(RLHFJOBS, await self._client.patch_status(RLHFJOBS, key.namespace, key.name, body))
        refused = await self._create_all(key, raw, out.create)
        for gone in out.delete:
            await self._delete(key, gone)
        for event in out.events:
            type_, occasion = "Warning" if event.warning else "Normal", raw["metadata"]["resourceVersion"]
            self._recorder.tell(raw, type_, event.reason, event.note, occasion=occasion)
        return refused

    async def _create_all(self, key: Key, raw: Object, bodies: list[Object]) -> Exception | None:
        """A stage that is refused holds up no other; objects of one name are an attempt's, and need those before them."""
        refused: dict[str, Exception] = {}
        for body in bodies:
            name = body["metadata"]["name"]
            if name in refused:
                continue
            try:
                await self._create(key, raw, body)
            except Refused as error:
                if body["kind"] == PERSISTENT_VOLUME_CLAIMS.kind:  # all else mounts it
                    raise
                refused[name] = error
        if bodies and not refused:
            self._refusals.pop(key, None)
        return next(iter(refused.values()), None)

    async def _create(self, key: Key, raw: Object, body: Object) -> None:
        kind: Kind = CHILD_KINDS.get(body["kind"], PERSISTENT_VOLUME_CLAIMS)
        name = body["metadata"]["name"]
        try:
            self.view.wrote(kind, await self._client.create(kind, key.namespace, body))
        except AlreadyExists:
            await self._adopt(key, raw, kind, body)
        except ApiError as error:
            if 400 <= error.status < 500 and error.status not in PASSING:
                raise self._refused(key, raw, f"{kind.kind} {name} cannot be made: {error.message}") from error
            raise

    async def _adopt(self, key: Key, raw: Object, kind: Kind, body: Object) -> None:
        """It is there already: made by an earlier process, or before this one's cache knew; a claim, by an earlier job."""
        name = body["metadata"]["name"]
        found = await self._client.get(kind, key.namespace, name)
        owner, labels = controller_uid(found), found["metadata"].get("labels") or {}
        claim = kind is PERSISTENT_VOLUME_CLAIMS
        kept = claim and owner is None and body["metadata"]["labels"].items() <= labels.items()
        if owner != raw["metadata"]["uid"] and not kept:
            other = "name it by storage.claimName" if claim else "delete it"
            words = f"{kind.kind} {name} exists and belongs to someone else; {other}, or make a job of another name"
            raise self._refused(key, raw, words)
        self.view.wrote(kind, found)

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
