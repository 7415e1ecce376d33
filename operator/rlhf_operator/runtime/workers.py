"""Workers that take keys from a queue, and what follows when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic

from rlhf_operator.runtime.errors import Conflict, Fenced, RequestFailed
from rlhf_operator.runtime.queue import K, Queue

log = logging.getLogger(__name__)

Reconcile = Callable[[K], Awaitable[float | None]]
"""Works on a key; gives the seconds after which to do so again, if any."""


class Workers(Generic[K]):
    """`count` workers on a queue: no two on the same key. A failure is logged, counted, and tried again."""

    def __init__(self, queue: Queue[K], reconcile: Reconcile[K], count: int) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._count = count

    async def run(self) -> None:
        """Work until cancelled."""
        self._queue.metrics.most.set(self._count)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            try:
                await self._one(key)
            finally:
                self._queue.done(key)

    async def _one(self, key: K) -> None:
        clock = asyncio.get_running_loop().time
        started, result = clock(), "error"
        self._queue.metrics.active.inc()
        try:
            later = await self._reconcile(key)
        except (Conflict, Fenced) as error:  # it saw an old object, or leads no more: nothing is wrong
            log.info("%s: %s; again in %.3f s", key, error, self._queue.failed(key))
        except RequestFailed as error:
            log.warning("%s: %s; again in %.3f s", key, error, self._queue.failed(key))
        except Exception:  # a fault of one key stops no other: logged whole, counted, tried again
            log.exception("%s: failed; again in %.3f s", key, self._queue.failed(key))
        else:
            self._queue.succeeded(key)
            result = "success" if later is None else "requeue_after"
            if later is not None:
                self._queue.add_after(key, later)
        finally:
            self._queue.metrics.active.dec()
            self._queue.metrics.reconciled(result, clock() - started)
