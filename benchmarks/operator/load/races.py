"""Jobs to their first children, and jobs to their end: for each contender on a control plane of its own."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from cluster.processes import Died, Process
from load import contenders, jobs
from load.contenders import Contender
from load.ground import PATIENCE, ground
from load.measure import Audit, Usage, writes
from rlhf_operator.kinds import RLHFJOBS

QUEUE = "queue"
Row = dict[str, Any]


async def first(who: Contender, count: int) -> Row:
    """From the first owner posted to the last one's first Job. The Jobs are suspended: no pods take part."""
    async with ground(kubelets=False, label=who.label) as cluster, who.running(cluster) as process:
        names = jobs.names("job", count)
        audit, before, begun = Audit(cluster.plane.audit_log, who.agent), Usage.of(process), time.monotonic()
        await cluster.post(who.kind, (who.body(name, QUEUE) for name in names))
        posted = time.monotonic() - begun
        seconds = await cluster.seen.until(names, cluster.seen.first) - begun
        row = _row(who.name, count, seconds, process, before, audit)
        return {**row, "posted_s": posted}


async def churn(who: Contender, count: int) -> Row:
    """From the first owner posted to the end of the last one, four stages later, with pods that end at once."""
    async with ground(kubelets=True, label=who.label) as cluster, who.running(cluster) as process:
        names = jobs.names("job", count)
        audit, before, begun = Audit(cluster.plane.audit_log, who.agent), Usage.of(process), time.monotonic()
        await cluster.post(who.kind, (who.body(name, None) for name in names))
        last = await cluster.seen.until(names, cluster.seen.last)
        if who is contenders.OPERATOR:
            last = await cluster.seen.until(names, cluster.seen.ended)
        return _row(who.name, count, last - begun, process, before, audit)


async def plain(count: int, queue: str | None) -> Row:
    """The same writes by the plain script; the owners are there before, and are not its work."""
    async with ground(kubelets=queue is None) as cluster:
        await cluster.post(RLHFJOBS, (jobs.job(name, queue=queue) for name in jobs.names("job", count)))
        process = contenders.plain(cluster, queue)
        audit = Audit(cluster.plane.audit_log, "plain")
        process.start()
        await _ended(process)
        seconds = _told(process.log)
        counted = audit.counted()
        return {
            "who": "plain",
            "jobs": count,
            "seconds": seconds,
            "per_s": count / seconds,
            "requests_a_job": sum(counted.values()) / count,
            "writes_a_job": writes(counted) / count,
            "requests": dict(counted.most_common()),
        }


async def _ended(process: Process) -> None:
    async with asyncio.timeout(PATIENCE):
        while process.pid() is not None:
            await asyncio.sleep(0.1)


def _told(log: Path) -> float:
    text = log.read_text()
    lines = text.strip().splitlines()
    if not lines or not lines[-1].startswith('{"seconds"'):
        raise Died(f"the plain script ended before its time:\n{text[-2000:]}")
    return float(json.loads(lines[-1])["seconds"])


def _row(who: str, count: int, seconds: float, process: Process, before: Usage, audit: Audit) -> Row:
    after, counted = Usage.of(process), audit.counted()
    return {
        "who": who,
        "jobs": count,
        "seconds": seconds,
        "per_s": count / seconds,
        "cpu_ms_a_job": (after.cpu_s - before.cpu_s) * 1000 / count,
        "peak_rss_mib": after.peak_rss_mib,
        "requests_a_job": sum(counted.values()) / count,
        "writes_a_job": writes(counted) / count,
        "requests": dict(counted.most_common()),
    }
