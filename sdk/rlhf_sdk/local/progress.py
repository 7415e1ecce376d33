"""How far a stage is: asked of its `/progress`, or read from `metrics.jsonl`."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HEADLINE = ("reward", "cost", "lambda", "kl", "loss", "accuracy", "sign_accuracy")
"""Metrics shown beside the bar, the most telling first, by their name up to the first dot; `cost.harm` is a `cost`."""
TAIL = 65536


@dataclass(frozen=True)
class Progress:
    """A stage's progress."""

    step: int = 0
    total: int | None = None
    unit: str = "steps"
    eta: float | None = None
    """Seconds to go."""
    rate: float | None = None
    """Tokens a second."""
    headline: Mapping[str, float] = field(default_factory=dict)
    """What a person looks at, in this order."""
    activity: str = ""
    """What it does now: the phase of a step, or what comes before steps."""
    share: float | None = None
    """How much of that is done, 0 to 1."""

    @property
    def counts_steps(self) -> bool:
        """Whether it is steps that are counted, not batches of what comes before them, or shards."""
        return self.unit == "steps"

    @property
    def doing(self) -> str:
        """`generate 40 %`; empty where nothing is known."""
        return self.activity if self.share is None else f"{self.activity} {self.share:.0%}".replace("%", " %")


def read(work: Path, *, since: float = 0.0, timeout: float = 3.0) -> Progress | None:
    """Progress of the stage in this work directory; None: nothing is known.

    Args:
        work: the stage's.
        since: seconds since 1970; what was written before is of an earlier attempt and says nothing.
        timeout: seconds an answer may take.
    """
    answer = _ask(work, timeout)
    if answer is not None:
        return from_json(answer)
    metrics = work / "metrics.jsonl"
    if metrics.exists() and metrics.stat().st_mtime >= since:
        return from_metrics(metrics)
    return waiting(work) if since else None


def waiting(work: Path) -> Progress | None:
    """What the launcher says it waits for before its ranks are up: another run may be making the same product."""
    log = max((work / "logs").glob("a*/launcher.log"), key=lambda path: path.stat().st_mtime, default=None)
    if log is None:
        return None
    lines = log.read_text("utf-8", errors="replace")[-TAIL:].splitlines()
    for line in reversed(lines):
        if ": waiting: " in line:
            return Progress(activity="waiting: " + line.partition(": waiting: ")[2].partition(" is making ")[0])
    return None


def from_json(raw: Mapping[str, Any]) -> Progress:
    """What `/progress` says. Unknown or odd fields are left out: nothing here may stop a run."""
    headline = raw.get("headline")
    rate = raw.get("tokensPerSecond")
    step = _number(raw.get("step"))
    total = _number(raw.get("total"))
    return Progress(
        step=int(step) if step is not None else 0,
        total=int(total) if total else None,
        unit=str(raw.get("unit") or "steps"),
        eta=_number(raw.get("eta", raw.get("etaSeconds"))),
        rate=_number(rate),
        headline=headline_of(headline, only_known=False) if isinstance(headline, Mapping) else {},
        activity=str(raw.get("activity") or raw.get("phase") or ""),
        share=_number(raw.get("phaseShare")),
    )


def from_metrics(path: Path) -> Progress | None:
    """The last whole line of `metrics.jsonl`."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):
        try:
            raw = json.loads(line)
        except ValueError:
            continue  # half a line, at the start of what was read
        if isinstance(raw, dict) and "step" in raw:
            return Progress(step=int(raw["step"]), headline=headline_of(raw))
    return None


def headline_of(metrics: Mapping[str, Any], *, only_known: bool = True) -> dict[str, float]:
    """The metrics a person looks at, the most telling first.

    Args:
        metrics: by name.
        only_known: leave out those whose names say nothing here.
    """
    numbers = _numbers(metrics)
    kinds = {name: name.partition(".")[0] for name in numbers}
    parts = {name for name, kind in kinds.items() if name != kind and kind in numbers}  # the whole is there as well
    chosen = [name for kind in HEADLINE for name in numbers if kinds[name] == kind and name not in parts]
    rest = [] if only_known else [name for name in numbers if kinds[name] not in HEADLINE]
    return {name: numbers[name] for name in chosen + rest}


def labelled(headline: Mapping[str, float]) -> dict[str, float]:
    """`cost.harm` is called `cost` where there is no other cost."""
    kinds = [name.partition(".")[0] for name in headline]
    return {
        kind if kinds.count(kind) == 1 else name: value
        for kind, (name, value) in zip(kinds, headline.items(), strict=True)
    }


class Poller:
    """Asks the running stages in a thread of its own, so that a slow stage never holds up the run."""

    def __init__(self, running: Callable[[], Mapping[str, Path]], every: float = 0.5) -> None:
        self._running = running
        self._every = every
        self._latest: dict[str, Progress] = {}
        self._since: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(timeout=2)

    def latest(self) -> Mapping[str, Progress]:
        """The last known progress by stage."""
        return dict(self._latest)

    def forget(self, stage: str) -> None:
        """A new attempt begins."""
        self._since[stage] = time.time()
        self._latest.pop(stage, None)

    def _poll(self) -> None:
        while not self._stop.wait(self._every):
            for stage, work in self._running().items():
                progress = read(work, since=self._since.get(stage, 0.0))
                if progress is not None:
                    self._latest[stage] = progress


def _ask(work: Path, timeout: float) -> dict[str, Any] | None:
    try:
        endpoint = json.loads((work / "endpoint.json").read_bytes())
        url = urlsplit(endpoint["url"]) if "url" in endpoint else None
        host = (url.hostname if url else endpoint.get("host")) or "127.0.0.1"
        port = int((url.port if url else None) or endpoint["port"])
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", "/progress")
            raw = json.loads(connection.getresponse().read())
        finally:
            connection.close()
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None  # not up yet, or gone: metrics.jsonl says less, but stays
    return raw if isinstance(raw, dict) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _numbers(raw: Mapping[str, Any]) -> dict[str, float]:
    numbers = {str(name): _number(value) for name, value in raw.items() if name != "step"}
    return {name: value for name, value in numbers.items() if value is not None}
