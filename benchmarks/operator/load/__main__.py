"""`run` of benchmarks/operator: measures, and writes operator.{json,md}."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from load import contenders, loaded, races, report
from load.measure import say


def main() -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/operator/run", description="Load on the operator, beside others.")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that churn (default 1000)")
    parser.add_argument("--stored", type=int, help="jobs stored when the operator starts (default ten times --jobs)")
    parser.add_argument("--quiet", type=float, default=600, help="seconds of quiet that are watched (default 600)")
    parser.add_argument("--rounds", type=int, default=1, help="how often the races are run, in turn (default 1)")
    parser.add_argument("--kopf", type=Path, help="a Python that has kopf; without it kopf is left out")
    parser.add_argument("--jobset", action="store_true", help="measure JobSet, too")
    parser.add_argument("--only", choices=("races", "loaded"), help="a part of it; nothing is written")
    parser.add_argument("--out", type=Path, help="folder of operator.{json,md}")
    options = parser.parse_args()
    measured: dict[str, Any] = {"jobs": options.jobs}
    if options.only != "loaded":
        measured |= asyncio.run(_races(options))
    if options.only != "races":
        stored = options.stored if options.stored is not None else 10 * options.jobs
        measured["loaded"] = asyncio.run(loaded.loaded(options.jobs, stored, options.quiet))
    if options.only or options.out is None:
        print(json.dumps(measured, indent=1))
        return 0
    report.write(measured, options.out)
    return 0


async def _races(options: argparse.Namespace) -> dict[str, Any]:
    first: list[dict[str, Any]] = []
    churn: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        say("plain: first children")
        first.append(await races.plain(options.jobs, races.QUEUE))
        for who in _rivals(options, races.QUEUE):
            say(f"{who.name}: first children")
            first.append(await races.first(who, options.jobs))
        say("plain: churn")
        churn.append(await races.plain(options.jobs, None))
        for who in _rivals(options, None):
            if who is not contenders.JOBSET:  # measured to its first Jobs only
                say(f"{who.name}: churn")
                churn.append(await races.churn(who, options.jobs))
    return {"first": first, "churn": churn}


def _rivals(options: argparse.Namespace, queue: str | None) -> list[contenders.Contender]:
    rivals = [contenders.OPERATOR]
    if options.kopf is not None:
        rivals.append(contenders.kopf(options.kopf.absolute(), queue=queue))
    if options.jobset:
        rivals.append(contenders.JOBSET)
    return rivals


if __name__ == "__main__":
    sys.exit(main())
