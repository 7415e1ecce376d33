"""Why a Job waits, in the words of who holds it: Kueue's Workload, the Job controller's events. At a bounded rate.

What cannot be read (no Kueue, no right to list events) explains nothing, and hinders nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_operator.reconcile import Look
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import NotFound, RequestFailed
from rlhf_operator.runtime.kinds import EVENTS, Key, Kind, Object
from rlhf_operator.runtime.pace import Bucket

log = logging.getLogger(__name__)

WORKLOADS = tuple(Kind("kueue.x-k8s.io", version, "workloads", "Workload") for version in ("v1beta2", "v1beta1"))
"""Kueue's, in every version that is read, the best first."""
AGAIN = 60.0
"""Seconds between two questions about the same thing."""
RATE = 2.0
"""Questions a second over all jobs."""
MOST_WAITING = 10_000


@dataclass
class _Asked:
    words: dict[Look, str] = field(default_factory=dict)
    due: dict[Look, float] = field(default_factory=dict)


class Explainer:
    """Answers `Outcome.explain`; `wake` is called with a job's key when an answer is new."""

    def __init__(self, client: Client, wake: Callable[[Key], None]) -> None:
        self._client = client
        self._wake = wake
        self._known: dict[Key, _Asked] = {}
        self._waiting: asyncio.Queue[tuple[Key, Look]] = asyncio.Queue(MOST_WAITING)
        self._workloads: Kind | None = None

    def told(self, key: Key) -> Mapping[Look, str]:
        """What is known to explain why a job waits."""
        known = self._known.get(key)
        return {} if known is None else dict(known.words)

    def follow(self, key: Key, looks: Sequence[Look]) -> None:
        """Ask these questions, if they were not asked just now; drop others."""
        if not looks:
            self.forget(key)
            return
        known, now = self._known.setdefault(key, _Asked()), asyncio.get_running_loop().time()
        known.words = {look: words for look, words in known.words.items() if look in looks}
        for look in looks:
            if known.due.get(look, 0.0) <= now and not self._waiting.full():
                known.due[look] = now + AGAIN
                self._waiting.put_nowait((key, look))

    def forget(self, key: Key) -> None:
        """The job waits for nothing."""
        self._known.pop(key, None)

    async def run(self) -> None:
        """Ask until cancelled."""
        bucket = Bucket(RATE, 10)
        while True:
            key, look = await self._waiting.get()
            known = self._known.get(key)
            if known is None:
                continue
            await bucket.wait()
            try:
                words = await (self._workload if look.what == "Workload" else self._events)(key.namespace, look)
            except RequestFailed as error:
                log.info("%s: %s %s: %s", key, look.what, look.name, error)
                continue
            if words is not None and known.words.get(look) != words:
                known.words[look] = words
                self._wake(key)

    async def _workload(self, namespace: str, look: Look) -> str | None:
        """The condition of the Job's Workload that keeps it waiting."""
        kind = await self._served()
        if kind is None:
            return None
        try:
            async for page in self._client.pages(kind, namespace, label_selector=f"kueue.x-k8s.io/job-uid={look.uid}"):
                for item in page.items:
                    return _unmet(item)
        except NotFound:  # an upgrade of Kueue may take a version away
            self._workloads = None
            raise
        return None

    async def _served(self) -> Kind | None:
        """Workloads in a version that the API server serves: found once, and looked for again while there is none."""
        for kind in WORKLOADS if self._workloads is None else ():
            if await self._client.serves(kind):
                self._workloads = kind
                break
        return self._workloads

    async def _events(self, namespace: str, look: Look) -> str | None:
        """The last warning about the Job: a quota, or an admission policy, that refuses its pods."""
        found: list[tuple[str, str]] = []
        async for page in self._client.pages(
            EVENTS, namespace, field_selector=f"regarding.uid={look.uid},type=Warning"
        ):
            found += [(_time(item), str(item.get("note") or "")) for item in page.items]
        return max(found)[1] if found else None


def _unmet(workload: Object) -> str | None:
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "False" and condition.get("type") in ("QuotaReserved", "Admitted"):
            return str(condition.get("message") or condition.get("reason") or "")
        if condition.get("status") == "True" and condition.get("type") == "Evicted":
            return str(condition.get("message") or condition.get("reason") or "")
    return None


def _time(event: Object) -> str:
    return str(event.get("eventTime") or event.get("deprecatedLastTimestamp") or event["metadata"]["creationTimestamp"])
