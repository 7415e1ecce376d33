"""Leading by a Lease: a thread with a connection of its own, so that a busy event loop cannot lose it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.election import Election, Record, Timing
from rlhf_operator.runtime.errors import AlreadyExists, Conflict, NotFound, RequestFailed
from rlhf_operator.runtime.kinds import LEASES, Object
from rlhf_operator.runtime.metrics import Metrics

log = logging.getLogger(__name__)


def boot_clock() -> float:
    """Monotonic seconds that also pass while the machine is suspended, where the system counts them."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Elector:
    """Competes for a Lease from `start` to `stop`, and again after it was lost.

    Args:
        connect: makes its client, in its own thread.
        identity: unlike any other's, also an earlier process's on the same pod.
        on_started, on_lost: called in its thread when leading begins and ends; short. `leads` says the same at any
            moment, from any thread, and says no the moment the Lease's deadline passes, whatever else is stuck.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Client]],
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        on_started: Callable[[], object],
        on_lost: Callable[[], object],
        metrics: Metrics | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._connect = connect
        self._namespace, self._name = namespace, name
        self._timing = timing or Timing()
        self._election = Election(identity, self._timing)
        self._on_started, self._on_lost = on_started, on_lost
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._told = False
        self._beat = clock()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to compete."""
        self._metrics.leads(self._name, False)
        self._thread.start()

    def leads(self) -> bool:
        """Whether this process leads, now."""
        return self._election.leads(self._clock())

    @property
    def leader(self) -> str:
        """Who leads, as far as known; empty: nobody."""
        record = self._election.record
        return "" if record is None else record.holder

    def alive(self) -> bool:
        """Whether the thread goes on: for a liveness probe."""
        return self._thread.is_alive() and self._clock() - self._beat < 3 * self._timing.duration

    def stop(self) -> None:
        """Give the Lease up, so that another need not wait for its end. Nothing may be written any more by then."""
        self._stop.set()
        self._ready.wait(self._timing.duration)
        if self._loop is not None and self._wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._wake.set)
        self._thread.join(self._timing.duration)

    def _run(self) -> None:
        try:
            asyncio.run(self._compete())
        except Exception:  # nobody joins this thread for its result: said here, and `alive` says no
            log.exception("lease %s: the elector failed", self._name)
        finally:
            self._election.gave_up()
            self._ready.set()
            self._tell()

    async def _compete(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        async with await self._connect() as client:
            while not self._stop.is_set():
                self._beat = self._clock()
                if not self.leads():
                    self._election.gave_up()
                    self._tell()
                await self._round(client)
                self._tell()
                await self._pause()
            await self._release(client)

    async def _round(self, client: Client) -> None:
        """Try once, for no longer than until leading ends, and short enough to be tried again before that."""
        limit = self._timing.deadline / 2
        until = self._election.held_until
        if until is not None:
            limit = max(0.0, min(limit, until - self._clock()))
        try:
            async with asyncio.timeout(limit):
                await self._try(client)
        except TimeoutError:
            log.warning("lease %s: no answer in %.1f s", self._name, limit)
            self._election.failed()
        except (Conflict, AlreadyExists) as error:  # someone was faster
            log.info("lease %s: %s", self._name, error)
            self._election.failed()
        except RequestFailed as error:
            log.warning("lease %s: %s", self._name, error)
            self._election.failed()

    async def _try(self, client: Client) -> None:
        election = self._election
        if election.stale or not election.leads(self._clock()):
            election.saw(await self._read(client), self._clock())
        now = self._clock()
        if not election.may_take(now):
            return
        spec = election.spec(datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))
        election.wrote(Record.of(await self._write(client, spec)), now)

    async def _read(self, client: Client) -> Record | None:
        try:
            return Record.of(await client.get(LEASES, self._namespace, self._name))
        except NotFound:
            return None

    async def _write(self, client: Client, spec: dict[str, Any]) -> Object:
        record = self._election.record
        if record is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
            return await client.create(LEASES, self._namespace, lease)
        patch = {"metadata": {"resourceVersion": record.version}, "spec": spec}
        return await client.patch(LEASES, self._namespace, self._name, patch)

    async def _pause(self) -> None:
        until = self._election.held_until
        if until is None:
            seconds = self._timing.retry * random.uniform(1.0, 1.2)
        else:  # the end of leading is told when it comes
            seconds = max(0.0, min(self._timing.retry, until - self._clock()))
        if self._wake is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    def _tell(self) -> None:
        """Call back when leading has begun or ended."""
        leads = self.leads()
        if leads == self._told:
            return
        self._told = leads
        self._metrics.leads(self._name, leads)
        log.info("lease %s: %s", self._name, "this process leads" if leads else "this process does not lead any more")
        (self._on_started if leads else self._on_lost)()

    async def _release(self, client: Client) -> None:
        was_leading = self.leads()
        self._election.gave_up()
        self._tell()
        record = self._election.record
        if not was_leading or record is None:
            return
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1}
        patch = {"metadata": {"resourceVersion": record.version}, "spec": spec}
        try:
            async with asyncio.timeout(self._timing.retry):
                await client.patch(LEASES, self._namespace, self._name, patch)
        except (RequestFailed, TimeoutError) as error:
            log.warning("lease %s: not given up (%s); others wait for its end", self._name, error)
