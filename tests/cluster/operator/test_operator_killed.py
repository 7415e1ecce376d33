"""SIGKILL after each single write of an operator: the next one brings the job to the same end, and no stage runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator

from cluster.control_plane import ControlPlane
from cluster.operator.ground import Ground, ground, job, phase
from cluster.operator.judged import End, end, most_active
from cluster.runtime.ground import Watched, client
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.kinds import JOBS

AT_ONCE = 4
"""Jobs, each in a namespace of its own."""


@contextlib.asynccontextmanager
async def killed(plane: ControlPlane, cluster: Ground, writes: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """An operator that dies when it wants to write once more than so often."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.operator.killed", str(plane.kubeconfig), cluster.namespace, str(writes)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(plane: ControlPlane, writes: int) -> tuple[End, bool]:
    """A job whose first operator may write so often; how it ended, and whether that one was killed."""
    async with ground(plane) as cluster, client(plane) as api, Watched(api, cluster.namespace, JOBS).running() as jobs:
        async with killed(plane, cluster, writes) as process:
            await cluster.make(job())
            while process.returncode is None and (await cluster.status()).get("phase") not in ("Complete", "Failed"):
                await asyncio.sleep(0.1)
            was = process.returncode
        assert was in (None, -signal.SIGKILL), f"ended with {was}"
        async with cluster.operator():
            status = await cluster.until(phase("Complete", "Failed"))
        assert most_active(jobs.changes) == 1
        await cluster.api.delete(RLHFJOBS, cluster.namespace, "beaver")
        return end(status), was is not None


def test_killed_after_each_single_write_it_comes_to_the_same_end(controlled_plane: ControlPlane) -> None:
    """The sweep ends with the first operator that had no more to write before the job was done."""
    deaths = []

    async def main() -> None:
        undisturbed, _ = await run(controlled_plane, sys.maxsize)
        assert all(len(attempts) == 1 for *_, attempts in undisturbed), undisturbed
        for first in itertools.count(0, AT_ONCE):
            numbers = range(first, first + AT_ONCE)
            outcomes = await asyncio.gather(*(run(controlled_plane, writes) for writes in numbers))
            for number, (ended, _) in zip(numbers, outcomes, strict=True):
                assert ended == undisturbed, f"killed after write {number}"
            deaths.extend(died for _, died in outcomes)
            if not any(died for _, died in outcomes):
                return

    asyncio.run(main())
    assert sum(deaths) > 12, "the job takes more writes than that"
