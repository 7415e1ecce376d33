"""Writes operator.{json,md}: ratios of one run on one machine, and the goals beside them, kept or not."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.binaries import KUBERNETES

sys.path.append(str(Path(__file__).parents[2]))

from table import machine, spread, times

CHURN, START_S, P99_S, RSS_MIB, KOPF, JOBSET = 1.5, 15.0, 1.0, 400.0, 5.0, 3.0
"""The goals."""
NAMES = {"plain": "plain script", "operator": "this operator", "kopf": "kopf", "jobset": "JobSet 0.10.1"}
Row = dict[str, Any]


def write(measured: Row, folder: Path) -> None:
    """Write both files; the table goes to standard output, too."""
    figures = results(measured)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "operator.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "operator.md").write_text(table(figures))
    print(table(figures), end="")


def results(measured: Row) -> Row:
    """What was measured, its ratios, and what it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    about = {
        "machine": f"{machine()}, {memory:.0f} GiB",
        "python": platform.python_version(),
        "versions": {"Kubernetes": KUBERNETES, "kubernetes (client)": metadata.version("kubernetes")},
    }
    return {**about, "ratios": ratios(measured), **measured}


def ratios(measured: Row) -> dict[str, dict[str, float]]:
    """Of rates, round by round: median, smallest, largest."""
    spreads = {"churn_slower_than_plain": _pairs(measured["churn"], "plain", "operator")}
    for rival in ("kopf", "jobset", "plain"):
        if any(row["who"] == rival for row in measured["first"]):
            spreads[f"first_faster_than_{rival}"] = _pairs(measured["first"], "operator", rival)
    return spreads


def _pairs(rows: list[Row], first: str, second: str) -> dict[str, float]:
    """Rate of the first over the second's."""
    mine, theirs = ([row["per_s"] for row in rows if row["who"] == who] for who in (first, second))
    return spread([a / b for a, b in zip(mine, theirs, strict=True)])


def table(figures: Row) -> str:
    """The results for people."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    lines = [
        "# The operator under load",
        "",
        f"`make bench-operator` on {figures['machine']}; Python {figures['python']}, {versions}. One run: the real API",
        "server, etcd, controller manager and scheduler share the machine with what is measured; kwok stands in for",
        "kubelets. Client limits are raised, and equal for all. Raw rows: [operator.json](operator.json).",
        "",
        "| what | measured | goal | kept |",
        "|---|---|---|---|",
        *(f"| {what} | {value} | {goal} | {'yes' if met else 'no'} |" for what, value, goal, met in goals(figures)),
        "",
        f"## {figures['jobs']} jobs, beside others",
        "",
        "First children: until each job has its first Job, which is suspended, so that no pods take part. Churn: until the",
        "last job is at its end, four stages of a Job and a pod after one another. The plain script makes the",
        "same objects in the same order and nothing else: no status, no events. kopf's operator makes them, too, and",
        "writes no status either. JobSet makes a Service and a Job of the same pod template for a JobSet, with the one",
        "worker that it has.",
        "",
        "| who | first children, jobs/s | churn, jobs/s | CPU a churned job, ms | peak RSS, MiB | requests a churned job |",
        "|---|---|---|---|---|---|",
        *(_row(figures, who) for who in NAMES if any(row["who"] == who for row in figures["first"])),
        "",
        *_alone(figures["loaded"]),
    ]
    return "\n".join(lines) + "\n"


def goals(figures: Row) -> list[tuple[str, str, str, bool]]:
    """What, measured, the goal in words, and whether it is kept (by the median)."""
    alone, by = figures["loaded"], figures["ratios"]
    churn = by["churn_slower_than_plain"]
    rows = [
        (
            f"churn of {figures['jobs']} jobs of 4 stages, times a plain script's",
            times(churn),
            f"{CHURN}x",
            churn["median"] <= CHURN,
        ),
        (
            f"start with {alone['start']['stored']:,} jobs stored",
            f"{alone['start']['seconds']:.1f} s",
            f"< {START_S:.0f} s",
            alone["start"]["seconds"] < START_S,
        ),
        (
            f"a job to its first Job, beside {alone['start']['stored']:,} stored ones, p99",
            f"{alone['single']['p99_s']:.2f} s",
            f"< {P99_S:.0f} s",
            alone["single"]["p99_s"] < P99_S,
        ),
        (
            "peak RSS over all of it",
            f"{alone['peak_rss_mib']:.0f} MiB",
            f"< {RSS_MIB:.0f}",
            alone["peak_rss_mib"] < RSS_MIB,
        ),
    ]
    for rival, goal in (("kopf", KOPF), ("jobset", JOBSET)):
        ratio = by.get(f"first_faster_than_{rival}")
        if ratio is not None:
            what = f"rate of jobs to first children, times {NAMES[rival]}'s"
            rows.append((what, times(ratio), f"{goal:.0f}x", ratio["median"] >= goal))
    for name, words in (
        ("quiet", f"{alone['quiet']['seconds'] / 60:.1f} quiet minutes"),
        ("hour", "an hour of a fake clock"),
    ):
        wrote = alone[name]["writes"]
        rows.append((f"writes but the Lease's in {words}", str(sum(wrote.values())), "0", not wrote))
    return rows


def _row(figures: Row, who: str) -> str:
    first = [row for row in figures["first"] if row["who"] == who]
    churn = [row for row in figures["churn"] if row["who"] == who]
    cells = [
        _median(first, "per_s", 1),
        _median(churn, "per_s", 1),
        _median(churn, "cpu_ms_a_job", 0),
        _median(churn or first, "peak_rss_mib", 0),
        _median(churn, "requests_a_job", 1),
    ]
    return f"| {NAMES[who]} | {' | '.join(cells)} |"


def _median(rows: list[Row], name: str, digits: int) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{statistics.median(values):.{digits}f}" if values else ""


def _alone(alone: Row) -> list[str]:
    busy, single, quiet, later = alone["busy"], alone["single"], alone["quiet"], alone["busy"]["after_burst_p99_s"]
    return [
        f"## {busy['jobs']} jobs churning beside {alone['start']['stored']:,} stored ones",
        "",
        f"The start took {alone['start']['seconds']:.1f} s until every stored job was looked at, and wrote "
        f"{sum(alone['start']['writes'].values())} objects; RSS was {alone['start']['peak_rss_mib']:.0f} MiB.",
        f"Of {single['jobs']} jobs, each sent when the one before had ended, one took {single['p50_s']:.2f} s (p50), "
        f"{single['p99_s']:.2f} s (p99) to get there, {single['most_s']:.2f} s at most.",
        f"Then {busy['jobs']} jobs were posted at once, and {busy['probes']} more one by one while they churned "
        f"({busy['seconds']:.0f} s): from sending one to",
        f"seeing its first Job took {busy['first_job_p50_s']:.2f} s (p50), {busy['first_job_p99_s']:.2f} s (p99), "
        f"{busy['first_job_most_s']:.2f} s at most.",
        f"After {busy['burst_s']:.1f} s each of the {busy['jobs']} had its first Job"
        + (f"; of jobs sent later it took {later:.2f} s (p99)." if later is not None else "."),
        f"A job took {busy['cpu_ms_a_job']:.0f} ms of CPU and {busy['requests_a_job']:.1f} requests, "
        f"{busy['writes_a_job']:.1f} of them writes.",
        "",
        f"In {quiet['seconds'] / 60:.1f} minutes with {quiet['running']} jobs running on, the API server's audit log has of it: "
        + (", ".join(f"{count} x {what}" for what, count in sorted(quiet["requests"].items())) or "nothing")
        + ".",
    ]
