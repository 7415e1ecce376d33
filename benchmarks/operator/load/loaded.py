"""The operator alone: its start with many jobs stored, a new job's way to its first Job while others churn, and quiet."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from cluster.control_plane import LOOPBACK, free_port
from cluster.processes import Process
from load import contenders, jobs
from load.ground import Ground, ground
from load.measure import Audit, Usage, percentile, say, writes
from rlhf_operator.informers import ClusterState
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.patches import difference
from rlhf_operator.reconcile import Observed, reconcile
from rlhf_operator.runtime.kinds import Object
from rlhf_operator.runtime.metrics import Metrics

SUSPENDED_OF = 20
"""Of so many stored jobs one is suspended; the others are finished, their children gone by their TTL."""
RUNNING = 20
"""Jobs whose pods run on and on while all else is quiet."""
SINGLES = 100
"""Jobs that are sent one after the other, each when the one before has ended."""
PROBE_EVERY = 0.25
AGENT = contenders.OPERATOR.agent
Row = dict[str, Any]


async def loaded(count: int, stored: int, quiet_s: float) -> Row:
    """All of it, on one control plane.

    Args:
        count: jobs that churn.
        stored: jobs that are there when the operator starts.
        quiet_s: seconds of quiet that are watched.
    """
    async with ground(kubelets=True) as cluster:
        say(f"loaded: {stored} stored jobs")
        await _store(cluster, stored)
        port = free_port()
        process = contenders.operator(cluster, port)
        audit = Audit(cluster.plane.audit_log, AGENT)
        try:
            begun = time.monotonic()
            process.start()
            await _looked_at(port, stored)
            started: Row = {"seconds": time.monotonic() - begun, "peak_rss_mib": Usage.of(process).peak_rss_mib}
            started |= {"writes": _but_lease(audit.counted()), "stored": stored}
            say(f"loaded: {SINGLES} jobs, one after the other")
            single = await _single(cluster)
            say(f"loaded: {count} jobs")
            busy = await _busy(cluster, process, count)
            say(f"loaded: {quiet_s:.0f} s of quiet")
            quiet = await _quiet(cluster, quiet_s)
            return {
                "start": started,
                "single": single,
                "busy": busy,
                "quiet": quiet,
                "hour": await _hour(cluster),
                "peak_rss_mib": Usage.of(process).peak_rss_mib,
            }
        finally:
            process.stop()


async def _store(cluster: Ground, stored: int) -> None:
    names = jobs.names("stored", stored)
    suspended = set(names[::SUSPENDED_OF])
    await cluster.post(RLHFJOBS, (jobs.job(name, suspend=name in suspended) for name in names))
    finished = jobs.course(jobs.job("any")).status
    suspended_status = jobs.course(jobs.job("any", suspend=True)).status
    await cluster.finish((name, suspended_status if name in suspended else finished) for name in names)


async def _looked_at(port: int, count: int) -> None:
    """Return when every stored job was looked at: so many reconciles, none in the queue."""
    while True:
        await asyncio.sleep(0.5)
        metrics = await asyncio.to_thread(_metrics, port)
        done = metrics["controller_runtime_reconcile_total"]
        if done >= count and metrics["workqueue_depth"] == 0 and metrics["controller_runtime_active_workers"] == 0:
            return


def _metrics(port: int) -> defaultdict[str, float]:
    """Sums over the labels of each metric; empty while nobody answers."""
    sums: defaultdict[str, float] = defaultdict(float)
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    except OSError:
        return sums
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return sums


async def _single(cluster: Ground) -> Row:
    """From sending a job to its first Job, where no other job runs."""
    waited = []
    for name in jobs.names("single", SINGLES):
        sent = time.monotonic()
        await cluster.api.create(RLHFJOBS, jobs.NAMESPACE, jobs.job(name))
        await cluster.seen.until([name], cluster.seen.ended)
        waited.append(cluster.seen.first[name] - sent)
    return {"jobs": SINGLES, "p50_s": percentile(waited, 0.5), "p99_s": percentile(waited, 0.99), "most_s": max(waited)}


async def _busy(cluster: Ground, process: Process, count: int) -> Row:
    names = jobs.names("job", count)
    sent: dict[str, float] = {}

    async def probe() -> None:
        for name in jobs.names("probe", 100_000):
            sent[name] = time.monotonic()
            await cluster.api.create(RLHFJOBS, jobs.NAMESPACE, jobs.job(name))
            await asyncio.sleep(PROBE_EVERY)

    audit, before, begun = Audit(cluster.plane.audit_log, AGENT), Usage.of(process), time.monotonic()
    probing = asyncio.create_task(probe())
    await cluster.post(RLHFJOBS, (jobs.job(name) for name in names))
    seconds = await cluster.seen.until(names, cluster.seen.ended) - begun
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    created = {name for name, _ in await cluster.owners()}
    probes = [name for name in sent if name in created]
    await cluster.seen.until(probes, cluster.seen.ended)
    waited = [cluster.seen.first[name] - sent[name] for name in probes]
    settled = max(cluster.seen.first[name] for name in names)
    after_burst = [cluster.seen.first[name] - sent[name] for name in probes if sent[name] > settled]
    after, counted, total = Usage.of(process), audit.counted(), count + len(probes)
    return {
        "jobs": count,
        "probes": len(probes),
        "seconds": seconds,
        "first_job_p50_s": percentile(waited, 0.5),
        "first_job_p99_s": percentile(waited, 0.99),
        "first_job_most_s": max(waited),
        "burst_s": settled - begun,
        "after_burst_p99_s": percentile(after_burst, 0.99) if after_burst else None,
        "cpu_ms_a_job": (after.cpu_s - before.cpu_s) * 1000 / total,
        "peak_rss_mib": after.peak_rss_mib,
        "requests_a_job": sum(counted.values()) / total,
        "writes_a_job": writes(counted) / total,
        "requests": dict(counted.most_common()),
    }


async def _quiet(cluster: Ground, seconds: float) -> Row:
    """What is asked for while some jobs run on and nothing changes; watched from when the last change has settled."""
    names = jobs.names("running", RUNNING)
    await cluster.post(RLHFJOBS, (jobs.job(name, hold=True) for name in names))
    await cluster.seen.until(names, cluster.seen.first)
    while not await _all_run(cluster, set(names)):
        await asyncio.sleep(1)
    for _ in range(30):
        audit = Audit(cluster.plane.audit_log, AGENT)
        await asyncio.sleep(10)
        if not _but_lease(audit.counted()):
            break
    audit = Audit(cluster.plane.audit_log, AGENT)
    await asyncio.sleep(seconds)
    counted = audit.counted()
    return {"seconds": seconds, "running": RUNNING, "writes": _but_lease(counted), "requests": dict(counted)}


async def _all_run(cluster: Ground, names: set[str]) -> bool:
    pages = cluster.api.pages(RLHFJOBS, jobs.NAMESPACE)
    stages = [job["status"]["stages"] async for page in pages for job in page.items if job["metadata"]["name"] in names]
    running = [any(stage["state"] == "Running" for stage in these) for these in stages]
    return running.count(True) == len(names)


def _but_lease(counted: Counter[str]) -> dict[str, int]:
    return {what: count for what, count in counted.items() if writes(Counter({what: count})) and "leases" not in what}


async def _hour(cluster: Ground) -> Row:
    """Jobs as they stand, looked at for an hour of a clock that nobody waits for: what would be written?"""
    view = ClusterState(cluster.api, None, lambda key, listed: None, Metrics())
    looks, would = 0, Counter[str]()
    finished = 0
    async for page in cluster.api.pages(RLHFJOBS, jobs.NAMESPACE):
        for listed in page.items:
            if listed["status"]["phase"] == "Complete":
                finished += 1
                if finished > RUNNING:
                    continue
            raw, children = await view.live(listed, ())
            for what in _watched(raw, children):
                looks += 1
                would.update(what)
    return {"looks": looks, "writes": dict(would)}


def _watched(raw: Object, children: Observed) -> Iterator[list[str]]:
    """What each look would write, once a minute and whenever it was asked for."""
    now = datetime.now(UTC)
    end = now + timedelta(hours=1)
    while now < end:
        out = reconcile(raw, children, jobs.SETTINGS, now)
        parts = {
            "status": difference(raw.get("status") or {}, out.status),
            "create": out.create,
            "delete": out.delete,
            "event": out.events,
        }
        yield [name for name, part in parts.items() if part]
        now += timedelta(seconds=min(60.0, max(out.requeue or 60.0, 1.0)))
