"""Why a Job waits, in the words of who holds it: Kueue's Workload, the Job controller's and the kubelet's events. At a
bounded rate.

What cannot be read (no Kueue, no right to list events) explains nothing, and hinders nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_operator.reconcile import LiveRead
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import NotFound, RequestFailed
from rlhf_operator.runtime.kinds import EVENTS, Key, Kind, Object
from rlhf_operator.runtime.pace import TokenBucket

log = logging.getLogger(__name__)

WORKLOADS = tuple(Kind("kueue.x-k8s.io", version, "workloads", "Workload") for version in ("v1beta2", "v1beta1"))
"""Kueue's, in every version that is read, the best first."""
SOON, AGAIN = 5.0, 60.0
"""Seconds before a question is asked again: at first, and doubled each time, at most. Nothing else would ask: an answer
may come later than what it explains."""
RATE = 2.0
"""Questions a second over all jobs."""
MOST_WAITING = 10_000
SCHEDULING = frozenset({"Scheduled", "FailedScheduling"})
"""Reasons of events that say nothing once a pod was put on a node."""
MOST_WORDS = 2048
"""Characters of an event's note that are used."""


@dataclass
class _Question:
    pause: float = SOON
    timer: asyncio.TimerHandle | None = None

    def drop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


@dataclass
class _JobQuestions:
    """Questions about one job, and their answers so far."""

    words: dict[LiveRead, str] = field(default_factory=dict)
    questions: dict[LiveRead, _Question] = field(default_factory=dict)


class PendingReasonFetcher:
    """Answers `ReconcileResult.explain`; `wake` is called with a job's key when an answer is new."""

    def __init__(self, client: Client, wake: Callable[[Key], None]) -> None:
        self._client = client
        self._wake = wake
        self._jobs: dict[Key, _JobQuestions] = {}
        self._waiting: asyncio.Queue[tuple[Key, LiveRead]] = asyncio.Queue(MOST_WAITING)
        self._workloads: Kind | None = None

    def explanations(self, key: Key) -> Mapping[LiveRead, str]:
        """Answers so far that explain why a job waits, by question."""
        entry = self._jobs.get(key)
        return {} if entry is None else dict(entry.words)

    def follow(self, key: Key, looks: Sequence[LiveRead]) -> None:
        """Ask these questions from now on; drop others."""
        if not looks:
            self.forget(key)
            return
        entry = self._jobs.setdefault(key, _JobQuestions())
        for look in [look for look in entry.questions if look not in looks]:
            entry.questions.pop(look).drop()
            entry.words.pop(look, None)
        for look in looks:
            if look not in entry.questions:
                entry.questions[look] = _Question()
                self._ask(key, look)

    def forget(self, key: Key) -> None:
        """The job waits for nothing."""
        entry = self._jobs.pop(key, None)
        for question in () if entry is None else entry.questions.values():
            question.drop()

    async def run(self) -> None:
        """Ask until cancelled."""
        bucket = TokenBucket(RATE, 10)
        while True:
            key, look = await self._waiting.get()
            if self._question(key, look) is None:
                continue
            await bucket.wait()
            try:
                words = await self._words(key.namespace, look)
            except RequestFailed as error:
                log.info("%s: %s %s: %s", key, look.what, look.name, error)
                words = None
            except Exception:  # about one job: others are explained all the same
                log.exception("%s: %s %s: cannot be explained", key, look.what, look.name)
                words = None
            self._later(key, look)
            entry = self._jobs.get(key)
            if words is None or entry is None or look not in entry.questions or entry.words.get(look) == words:
                continue
            entry.words[look] = words
            self._wake(key)

    def _question(self, key: Key, look: LiveRead) -> _Question | None:
        entry = self._jobs.get(key)
        return None if entry is None else entry.questions.get(look)

    def _ask(self, key: Key, look: LiveRead) -> None:
        if self._waiting.full():
            self._later(key, look)
        else:
            self._waiting.put_nowait((key, look))

    def _later(self, key: Key, look: LiveRead) -> None:
        question = self._question(key, look)
        if question is not None:
            question.drop()
            question.timer = asyncio.get_running_loop().call_later(question.pause, self._ask, key, look)
            question.pause = min(AGAIN, 2 * question.pause)

    async def _words(self, namespace: str, look: LiveRead) -> str | None:
        if look.what == "Workload":
            words = await self._workload(namespace, look)
        elif look.what == "PodEvents":
            words = await self._last_event(namespace, look)
        else:
            words = await self._last_warning(namespace, look)
        return None if words is None else printable(words)

    async def _workload(self, namespace: str, look: LiveRead) -> str | None:
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

    async def _last_warning(self, namespace: str, look: LiveRead) -> str | None:
        """The last warning about the Job: a quota, or an admission policy, that refuses its pods."""
        event = await self._last(namespace, f"regarding.uid={look.uid},type=Warning")
        return None if event is None else str(event.get("note") or "")

    async def _last_event(self, namespace: str, look: LiveRead) -> str | None:
        """The last event of a pod that was put on a node: a warning may have been mended since."""
        event = await self._last(namespace, f"regarding.uid={look.uid}", without=SCHEDULING)
        return None if event is None else f"{event.get('reason') or 'Pending'}: {event.get('note') or ''}"

    async def _last(self, namespace: str, selector: str, without: Collection[str] = ()) -> Object | None:
        last: Object | None = None
        async for page in self._client.pages(EVENTS, namespace, field_selector=selector):
            for event in page.items:
                if event.get("reason") not in without and (last is None or _time(event) >= _time(last)):
                    last = event
        return last


def _unmet(workload: Object) -> str | None:
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "False" and condition.get("type") in ("QuotaReserved", "Admitted"):
            return str(condition.get("message") or condition.get("reason") or "")
        if condition.get("status") == "True" and condition.get("type") == "Evicted":
            return str(condition.get("message") or condition.get("reason") or "")
    return None


def printable(text: str) -> str:
    """On one line, with what a terminal would obey escaped: anyone who may write an event chose the text."""
    line = " ".join(text[:MOST_WORDS].split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _time(event: Object) -> str:
    """When it last happened: of events that were counted up, that of the last count."""
    times = ((event.get("series") or {}).get("lastObservedTime"), event.get("deprecatedLastTimestamp"))
    return str(max(filter(None, (*times, event.get("eventTime"), event["metadata"]["creationTimestamp"]))))
