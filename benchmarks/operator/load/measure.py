"""What a process took, and what the API server says was asked of it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.processes import Process

READS = frozenset({"get", "list", "watch"})


@dataclass(frozen=True)
class Usage:
    """Of a process, since it began."""

    cpu_s: float
    peak_rss_mib: float

    @classmethod
    def of(cls, process: Process) -> Usage:
        """Of a process that runs."""
        pid = process.pid()
        if pid is None:
            raise RuntimeError(f"{process.name} has ended; see {process.log}")
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        return cls((int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), peak / 1024)


class Audit:
    """The requests of one client, from when this is made: the log tells of one when its answer has been seen already."""

    def __init__(self, log: Path, agent: str) -> None:
        self._log = log
        self._agent = f'"userAgent":"{agent}'.encode()
        self._from = log.stat().st_size
        self._since = datetime.now(UTC)

    def counted(self) -> Counter[str]:
        """How many, by verb and resource; those that were refused apart, with the status: `create jobs 409`.

        Raises:
            RuntimeError: the log was begun anew meanwhile.
        """
        if self._log.stat().st_size < self._from:
            raise RuntimeError(f"{self._log} is shorter than it was: requests were lost")
        counts: Counter[str] = Counter()
        with self._log.open("rb") as log:
            log.seek(self._from)
            for line in log:
                if self._agent in line and line.endswith(b"\n"):
                    entry = json.loads(line)
                    if datetime.fromisoformat(entry["requestReceivedTimestamp"]) < self._since:
                        continue
                    reference = entry.get("objectRef") or {}
                    names = (reference.get("resource", "none"), reference.get("subresource"))
                    code = (entry.get("responseStatus") or {}).get("code", 0)
                    refused = f" {code}" if code >= 400 else ""
                    counts[f"{entry['verb']} {'/'.join(name for name in names if name)}{refused}"] += 1
        return counts


def writes(counted: Counter[str]) -> int:
    """Of requests, those that may change something."""
    return sum(count for what, count in counted.items() if what.split()[0] not in READS)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed: one that was measured, not one between."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def say(what: str) -> None:
    """Tell how far it is."""
    print(what, file=sys.stderr, flush=True)
