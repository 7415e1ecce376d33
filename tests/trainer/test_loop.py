"""Exact resume: killed at any line, on any rank, a run ends with the bytes of an undisturbed one.

Runs are forked from one warm process, so that each takes milliseconds; a forked run counts the lines it executes in
the runtime's modules and kills itself with SIGKILL at the line it is told to. That process is not this one: here other
tests leave process groups and threads of torch, which no fork may inherit.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from patience import PATIENCE
from toy.toy_stage import ToyTask, build
from toys import toy_file

import rlhf_trainer
from rlhf_trainer import rng
from rlhf_trainer.context import StageContext
from rlhf_trainer.exits import GuardTripped, Stopped
from rlhf_trainer.loop import train
from rlhf_trainer.storage.checkpoints import Checkpoints
from rlhf_trainer.telemetry import metrics
from rlhf_trainer.telemetry.metrics import Metrics
from rlhf_trainer.telemetry.progress import Progress

STEPS = 7
EVERY = 3
WATCHED = {
    str(Path(rlhf_trainer.__file__).parent / (name + ".py"))
    for name in (
        *("loop", "storage/checkpoints", "telemetry/metrics", "storage/products", "storage/fsync", "context", "rng"),
    )
}
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


def make_context(storage: Path, *, rank: int = 0, world: int = 1, every: int = EVERY, digest: str = "d" * 64):
    file = toy_file(storage, {"steps": STEPS}, every=every, digest=digest)
    work = Path(file.directories.work)
    work.mkdir(parents=True, exist_ok=True)
    rng.seed_all(file.seed + rank)
    return StageContext(
        file=file,
        rank=rank,
        world=world,
        local_rank=rank,
        device=torch.device("cpu"),
        work=work,
        metrics=Metrics(work, rank=rank),
        progress=Progress(),
        checkpoints=Checkpoints(work / "checkpoints", digest=digest, rank=rank, world=world),
        stop=threading.Event(),
    )


class KillAt:
    """Notes the lines executed in the watched modules; SIGKILL at the one of this number."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        self.seen: list[tuple[str, int]] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            self.seen.append((Path(frame.f_code.co_filename).stem, frame.f_lineno))
            if len(self.seen) == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def forked(storage: Path, number: int | None, rank: int, world: int, meet: Path, report: Path) -> None:
    killer = KillAt(number)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    sys.settrace(killer)
    run(storage, rank, world)
    sys.settrace(None)
    report.write_text(json.dumps(killer.seen))
    os._exit(0)


def run(storage: Path, rank: int = 0, world: int = 1) -> None:
    """One rank of the toy stage, from start or checkpoint to product."""
    context = make_context(storage, rank=rank, world=world)
    task = ToyTask(context.file.spec, rank)
    train(context, task)
    context.publish(lambda folder: build(folder, task))


def serve(orders: Connection, warm: Path) -> None:
    """Fork the ranks of each run that is ordered and answer with the exit code of the one it is about."""
    torch.set_num_threads(1)
    metrics.FLUSH_SECONDS = 0.0  # lines are written at once, ahead of checkpoints
    run(warm)  # what torch imports late is imported before forking
    while (order := orders.recv()) is not None:
        storage, number, on, world, meet, reports = order
        ranks = [
            FORK.Process(target=forked, args=(storage, number if rank == on else None, rank, world, meet, report))
            for rank, report in enumerate(reports)
        ]
        for process in ranks:
            process.start()
        if number is not None:
            ranks[on].join(PATIENCE)
            for process in ranks:  # as the launcher does: the others hang in a collective
                process.kill()
        for process in ranks:
            process.join(PATIENCE)
        orders.send(ranks[on].exitcode)


class Runs:
    """Runs the toy stage in forked ranks."""

    server: Connection

    def __init__(self, storage: Path, world: int = 1) -> None:
        self.storage, self.world, self.count = storage, world, 0
        storage.mkdir(parents=True, exist_ok=True)

    def once(self, number: int | None = None, on: int = 0) -> list[tuple[str, int]] | None:
        """Run to the end and give the lines that rank `on` executed; None: it was killed at its line of this number."""
        self.count += 1
        meet = self.storage / f"meet-{self.count}"
        reports = [self.storage / f"lines-{self.count}-{rank}" for rank in range(self.world)]
        self.server.send((self.storage, number, on, self.world, meet, reports))
        assert self.server.recv() == (0 if number is None else -signal.SIGKILL)
        return None if number is not None else [tuple(line) for line in json.loads(reports[on].read_text())]

    def result(self) -> tuple[bytes, bytes, dict[str, Any]]:
        """What must be the same: weights, metrics.jsonl, facts."""
        (product,) = (self.storage / "products").glob("sft-*")
        manifest = json.loads((product / "manifest.json").read_text())
        logged = (product / "metrics.jsonl").read_bytes()
        assert logged == (self.storage / "work/uid-1/toy/metrics.jsonl").read_bytes()
        return (product / "weights.bin").read_bytes(), logged, {**manifest["metrics"], **manifest["counts"]}

    def untidy(self) -> list[str]:
        """What should not be left."""
        checkpoints = (self.storage / "work/uid-1/toy/checkpoints").iterdir()
        return [path.name for path in checkpoints if path.suffix]


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    Runs.server, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(theirs, tmp_path_factory.mktemp("warm")))
    process.start()
    theirs.close()  # its death is then an EOFError here, not a wait for ever
    yield
    Runs.server.send(None)
    process.join()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By world size: the result, and the lines each rank executes."""
    results = {}
    for world in (1, 2):
        runs = [Runs(tmp_path_factory.mktemp("whole"), world) for _ in range(world)]
        lines = [run.once(on=rank) for rank, run in enumerate(runs)]
        assert len({run.result()[:2] for run in runs}) == 1
        results[world] = runs[0].result(), lines
    return results


def moments(lines: list[tuple[str, int]], modules: set[str]) -> list[int]:
    """For each distinct line of the modules, the number of its middle execution, in order."""
    numbers: dict[tuple[str, int], list[int]] = {}
    for number, line in enumerate(lines, 1):
        if line[0] in modules:
            numbers.setdefault(line, []).append(number)
    return sorted(occurrences[len(occurrences) // 2] for occurrences in numbers.values())


def check_killed(storage: Path, undisturbed, world: int, number: int, on: int = 0) -> None:
    runs = Runs(storage, world)
    runs.once(number, on)
    runs.once()
    where = undisturbed[world][1][on][number - 1]
    assert runs.result() == undisturbed[world][0], f"killed at {where}, the {number}th line of rank {on}"
    assert runs.untidy() == []


def test_the_undisturbed_run_learns_and_logs_every_step(undisturbed):
    (weights, logged, facts), _ = undisturbed[1]
    rows = [json.loads(row) for row in logged.splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert facts["seen"] == 5 * STEPS
    assert len(weights) == 12 * 4
    assert len({row["loss"] for row in rows}) == STEPS


@pytest.mark.parametrize("modules", [{"checkpoint", "durable"}, {"loop", "metrics", "rng", "store", "context"}])
def test_killed_at_any_line_of_the_runtime_the_result_is_the_same(tmp_path, undisturbed, modules):
    every = 1 if "checkpoint" in modules else 3
    for number in moments(undisturbed[1][1][0], modules)[::every]:
        check_killed(tmp_path / str(number), undisturbed, 1, number)


def test_killed_again_while_resuming_the_result_is_the_same(tmp_path, undisturbed):
    last = len(undisturbed[1][1][0])
    for number in range(20, 200, 30):
        runs = Runs(tmp_path / str(number))
        runs.once(last // 2)
        runs.once(number)
        runs.once()
        assert runs.result() == undisturbed[1][0], number


@pytest.mark.parametrize("on", [0, 1])
def test_of_two_ranks_one_killed_at_any_line_the_result_is_the_same(tmp_path, undisturbed, on):
    for number in moments(undisturbed[2][1][on], {"checkpoint", "loop"})[::6]:
        check_killed(tmp_path / str(number), undisturbed, 2, number, on)


def train_here(storage: Path, steps: int = STEPS, **fields: Any) -> tuple[StageContext, ToyTask]:
    context = make_context(storage, **fields)
    task = ToyTask({"steps": steps})
    train(context, task)
    return context, task


def test_a_request_to_stop_ends_the_run_after_its_step_with_a_checkpoint_and_it_goes_on_from_there(tmp_path):
    class Asked(ToyTask):
        def step(self, step):
            if step == 4:
                stopped.stop.set()
            return super().step(step)

    stopped = make_context(tmp_path / "stopped")
    with pytest.raises(Stopped, match="after step 5 of 7") as caught:
        train(stopped, Asked({"steps": STEPS}))
    assert caught.value.code == 75
    context, task = train_here(tmp_path / "stopped")
    _, unstopped = train_here(tmp_path / "whole")
    assert torch.equal(task.engine.weights, unstopped.engine.weights)
    assert context.metrics.path.read_bytes() == (tmp_path / "whole/work/uid-1/toy/metrics.jsonl").read_bytes()


def test_asked_to_stop_at_its_last_step_a_run_is_done(tmp_path):
    context = make_context(tmp_path)
    context.stop.set()
    train(context, ToyTask({"steps": 1}))


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_loss_that_is_not_finite_ends_the_run_and_the_checkpoint_before_it_is_kept(tmp_path, bad):
    class Breaks(ToyTask):
        def step(self, step):
            values = super().step(step)
            return {**values, "loss": bad} if step == 4 else values

    context = make_context(tmp_path)
    with pytest.raises(GuardTripped, match=r"loss is (nan|inf) at step 5") as caught:
        train(context, Breaks({"steps": STEPS}))
    assert (caught.value.code, caught.value.reason) == (3, "NaN")
    assert context.checkpoints.latest().step == 3
    rows = context.metrics.path.read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]


def test_a_finished_run_that_is_started_again_computes_no_step(tmp_path):
    _, first = train_here(tmp_path)

    class Refuses(ToyTask):
        def step(self, step):
            raise AssertionError("a step was computed again")

    task = Refuses({"steps": STEPS})
    train(make_context(tmp_path), task)
    assert torch.equal(task.engine.weights, first.engine.weights)


def test_checkpoint_every_0_saves_at_the_end_only(tmp_path):
    context, _ = train_here(tmp_path, every=0)
    assert [path.name for path in (context.work / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]


def test_a_changed_spec_starts_from_the_beginning(tmp_path, caplog):
    train_here(tmp_path, digest="a" * 64)
    context, task = train_here(tmp_path, digest="b" * 64)
    _, fresh = train_here(tmp_path / "whole", digest="b" * 64)
    assert "was made for digest aaaaaaaaaaaa" in caplog.text
    assert torch.equal(task.engine.weights, fresh.engine.weights)
    assert len(context.metrics.path.read_text().splitlines()) == STEPS
