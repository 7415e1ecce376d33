"""Progress of running stages: index 0 is asked at a bounded rate, shown at most twice a minute a job.

A poll that fails changes nothing and is not reported: what a stage computes does not depend on who looks.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson

from rlhf_operator.reconcile import Poll, Sample
from rlhf_operator.runtime.kinds import Key
from rlhf_operator.runtime.pace import TokenBucket

log = logging.getLogger(__name__)

SHOW_SECONDS = 30.0
"""Between two writes of a job's progress."""
TIMEOUT = 3.0
MOST_BYTES = 65536
TICK = 1.0


@dataclass
class _Watched:
    poll: Poll
    due: float
    sample: Sample | None = None
    moved: float = 0.0
    """When its step last changed."""


class Poller:
    """Asks what running stages tell on /progress; `wake` is called with a job's key when it may be shown."""

    def __init__(self, wake: Callable[[Key], None], rate: float, every: float) -> None:
        self._wake = wake
        self._every = every
        self._asking = TokenBucket(rate, max(1, round(rate)))
        self._showing = TokenBucket(rate, max(1, round(rate)))
        self._watched: dict[Key, dict[str, _Watched]] = {}
        self._shown: dict[Key, float] = {}

    def follow(self, key: Key, polls: Sequence[Poll]) -> None:
        """From now on ask these of a job."""
        if not polls:
            self.forget(key)
            return
        before = self._watched.get(key, {})
        now = _clock()
        self._watched[key] = {
            poll.stage: before[poll.stage]
            if poll.stage in before and before[poll.stage].poll == poll
            else _Watched(poll, now, moved=now)
            for poll in polls
        }

    def forget(self, key: Key) -> None:
        """Nothing of the job runs."""
        self._watched.pop(key, None)
        self._shown.pop(key, None)

    def samples(self, key: Key) -> Mapping[str, Sample]:
        """The last progress of each stage of a job; to be shown if enough time has passed, for this job and for all."""
        watched = {stage: entry for stage, entry in self._watched.get(key, {}).items() if entry.sample is not None}
        if not watched:
            return {}
        now = _clock()
        show = now >= self._shown.get(key, -math.inf) + SHOW_SECONDS and self._showing.delay(now) == 0
        if show:
            self._showing.take(now)
            self._shown[key] = now
        return {
            stage: replace(entry.sample, still=now - entry.moved, show=show)
            for stage, entry in watched.items()
            if entry.sample is not None
        }

    async def run(self) -> None:
        """Ask until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, asyncio.TaskGroup() as group:
            while True:
                for key, watched in self._due():
                    await self._asking.wait()
                    group.create_task(self._ask(session, key, watched))
                await asyncio.sleep(TICK)

    def _due(self) -> list[tuple[Key, _Watched]]:
        now = _clock()
        due = [(key, entry) for key, stages in self._watched.items() for entry in stages.values() if entry.due <= now]
        for _, entry in due:
            entry.due = now + self._every
        return due

    async def _ask(self, session: aiohttp.ClientSession, key: Key, watched: _Watched) -> None:
        poll = watched.poll
        host = f"[{poll.host}]" if ":" in poll.host else poll.host
        try:
            async with session.get(f"http://{host}:{poll.port}/progress", allow_redirects=False) as response:
                sample = parsed(poll, await response.content.read(MOST_BYTES)) if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("%s: %s: no progress: %s", key, poll.stage, error)
            return
        except Exception:  # of one pod: others are asked all the same
            log.exception("%s: %s: no progress", key, poll.stage)
            return
        if sample is None:
            return
        if watched.sample is None or watched.sample.step != sample.step:
            watched.moved = _clock()
        watched.sample = sample
        if _clock() >= self._shown.get(key, -math.inf) + SHOW_SECONDS:
            self._wake(key)


def parsed(poll: Poll, content: bytes) -> Sample | None:
    """The progress in an answer; None: it holds none, or that of another attempt. A pod may say anything."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or document.get("attempt", poll.attempt) != poll.attempt:
        return None
    step, total = _whole(document.get("step")), _whole(document.get("total"))
    if step is None or total is None:
        return None
    headline = document.get("headline")
    numbers = headline.items() if isinstance(headline, dict) else ()
    return Sample(
        stage=poll.stage,
        attempt=poll.attempt,
        step=step,
        total=total,
        begun=_whole(document.get("begun")),
        tokens_per_second=_positive(document.get("tokensPerSecond")),
        eta_seconds=_positive(document.get("etaSeconds")),
        headline={str(name)[:80]: float(value) for name, value in numbers if _finite(value)},
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> float | None:
    return float(value) if _finite(value) and value >= 0 else None


def _clock() -> float:
    return asyncio.get_running_loop().time()
