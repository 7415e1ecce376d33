"""Work cut in shards of prompts: each is computed once, kept in the work folder, and found again after a restart.

A shard's content depends on its prompts alone, not on the rank that computes it nor on how many there are, so that a
restarted evaluation ends in the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.digest import digest_of
from rlhf_api.store import write_atomically
from rlhf_trainer.context import StageContext
from rlhf_trainer.exits import Stopped, explain_full_disk
from rlhf_trainer.telemetry.metrics import Phase

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
SIZE = 32
"""Prompts a shard of an evaluation."""


@dataclass
class Shards:
    """The shards of one evaluation or simulation, `count` of them, and the steps made on each.

    Args:
        context: the stage's.
        key: digest of all that the shards depend on; those of another key are computed anew.
        prompts: how many prompts there are.
        steps: how many times `run` will be called for the prompts.
        documents: of each further call of `run`, how many items it is about, which are no prompts.
        size: prompts a shard. Part of the result's last digits, as the batch a row is computed in is: never a setting.
        phase: what the progress bar says.
    """

    context: StageContext
    key: str
    prompts: int
    steps: int
    size: int = SIZE
    phase: str = "evaluating"
    documents: Sequence[int] = ()
    _done: int = 0
    _timed: Phase = field(default_factory=Phase)

    def __post_init__(self) -> None:
        self.context.metrics.rewind(0)
        self._rounds = self.steps * self.rounds() + sum(map(self.rounds, self.documents))
        self.context.progress.start(self._rounds, "shards", phase=self.phase)

    def count(self, items: int | None = None) -> int:
        """Number of shards of so many items; by default of the prompts."""
        return -(-(self.prompts if items is None else items) // self.size)

    def rounds(self, items: int | None = None) -> int:
        """Shards a rank computes in a step, or waits for others to."""
        return -(-self.count(items) // self.context.world)

    def span(self, shard: int, items: int | None = None) -> range:
        """Its prompts, or its items of so many."""
        most = self.prompts if items is None else items
        return range(shard * self.size, min((shard + 1) * self.size, most))

    def run(
        self,
        name: str,
        phase: str,
        compute: Callable[[int], Rows],
        measure: Callable[[Rows], Mapping[str, float]] | None = None,
        items: int | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """Compute and keep `name` of every shard that is not there yet; this rank its share. A collective.

        Args:
            name: under which rows are kept.
            phase: that takes the time.
            compute: a shard's rows; what they have under `ids` counts as tokens.
            measure: metrics of a shard's rows, whether they were computed now or kept.
            items: how many items there are, where they are no prompts.
            alone: rank 0 computes all, and the others wait.

        Raises:
            Stopped: asked to stop; the shards done are kept.
        """
        world, rank = (1, self.context.rank) if alone else (self.context.world, self.context.rank)
        for turn in range(self.count(items) if alone else self.rounds(items)):
            if self.context.stop_requested():
                done = f"{self._done} of {self._rounds} rounds"
                raise Stopped(f"stopped on request after {done}; what was sampled is kept")
            shard = turn * world + (0 if alone else rank)
            metrics: Mapping[str, float] = {}
            with self.context.metrics.phase(phase) as timed:
                self._timed = timed
                if shard < self.count(items) and not (alone and rank):
                    rows = self._read(name, shard)
                    if rows is None:
                        rows = compute(shard)
                        self._write(name, shard, rows)
                        timed.tokens += sum(row.get("tokens", len(row.get("ids", ()))) for row in rows)
                    metrics = measure(rows) if measure is not None else {}
            self._done += 1
            self.context.metrics.log(self._done, metrics)
            self.context.progress.advance(self._done, tokens=timed.tokens)

    def report(self, share: float) -> None:
        """Tell how much of the shard that is being computed is done, 0 to 1."""
        self._timed.report(share)

    def rows(self, name: str, shard: int) -> Rows:
        """What `run` kept.

        Raises:
            FileNotFoundError: nothing of that name.
        """
        rows = self._read(name, shard)
        if rows is None:
            raise FileNotFoundError(f"{self._path(name, shard)}: not there, or of another evaluation")
        return rows

    def all(self, name: str, items: int | None = None) -> Iterator[dict[str, Any]]:
        """The rows of every shard, in the order of prompts or items."""
        for shard in range(self.count(items)):
            yield from self.rows(name, shard)

    def _path(self, name: str, shard: int) -> Path:
        return self.context.work / "shards" / name / f"{shard:06d}.json"

    def _read(self, name: str, shard: int) -> Rows | None:
        path = self._path(name, shard)
        if not path.exists():
            return None
        try:
            content = orjson.loads(path.read_bytes())
            intact = content.get("key") == self.key and content["digest"] == digest_of(content["rows"])
        except (orjson.JSONDecodeError, AttributeError, KeyError):
            log.warning("shard %s cannot be read: it is computed anew", path)
            return None
        return content["rows"] if intact else None

    def _write(self, name: str, shard: int, rows: Rows) -> None:
        with explain_full_disk(self.context.work, f"keeping shard {shard} of {name}"):
            content = orjson.dumps({"key": self.key, "digest": digest_of(rows), "rows": rows})
            write_atomically(self._path(name, shard), content)
