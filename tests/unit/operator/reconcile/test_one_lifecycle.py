"""Operator and local runner take a job the same way: driven through the same events, they hand the same stage files to the
trainer, and their stages end in the same states, for the same reasons, with a report of the same digest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fakes.cluster_model import DIGEST, Cluster, Raw, job, stage_file
from rlhf_api.contract import BUSY
from rlhf_api.load import parse_job
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.product import Manifest
from rlhf_api.store import write_atomically, write_resolved
from rlhf_sdk.local import runner as of_runner
from rlhf_sdk.local.finish import take_resolved
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.locks import FileLock
from rlhf_sdk.local.run import Options
from rlhf_sdk.local.runner import Runner
from rlhf_sdk.local.scheduler import Budget
from rlhf_sdk.local.signals import Signals
from rlhf_sdk.local.view import View
from rlhf_sdk.local.watch import RunningStages

WORDS = {
    0: ("Done", ""),
    1: ("KeyError", "rank 0: no such key"),
    2: ("InvalidInput", "row 7 has no answer"),
    3: ("KL", "mean KL 50"),
}
"""What the trainer says at its end, by exit code."""
DEADLINE = 60


@dataclass(frozen=True)
class Happens:
    """Something that happens to a job: an attempt ends, the user suspends it and lets it go on, its deadline passes."""

    what: str
    code: int = 0
    stage: int = 0
    """Which of the running stages."""


def summary(code: int, result: Raw | None = None) -> str:
    reason, message = WORDS.get(code, ("Stopped", "stopped on request"))
    return json.dumps({"code": code, "reason": reason, "message": message, **({"result": result} if result else {})})


class OnCluster:
    """The operator, in the model of a cluster."""

    def __init__(self, raw: Raw) -> None:
        self.cluster = Cluster(raw)
        self._settle()

    def _settle(self, **codes: int) -> None:
        """Let everything run; stages end with these codes, at their first pods' end."""

        def ends(pod: Raw) -> int | None:
            stage = pod["metadata"]["labels"]["rlhf.dev/stage"]
            code = codes.pop(stage, None)
            if code is not None:
                result = self.cluster.result() if stage == "prepare" and code == 0 else None
                self.cluster.end_pod(pod["metadata"]["name"], code, message=summary(code, result))
            return None

        self.cluster.settle(ends, rounds=400)

    def running(self) -> list[str]:
        return [stage["name"] for stage in self.cluster.status["stages"] if stage["state"] in BUSY]

    def happens(self, event: Happens, stage: str) -> None:
        if event.what == "end":
            self._settle(**{stage: event.code})
        elif event.what == "suspend":
            self.cluster.edit(suspend=True)
            self._settle()
            self.cluster.edit(suspend=False)
            self._settle()
        else:
            self.cluster.job["status"]["activeSeconds"] = float(2 * DEADLINE)
            self.cluster.edit(activeDeadlineSeconds=DEADLINE)
            self._settle()

    @property
    def states(self) -> dict[str, str]:
        return {stage["name"]: stage["state"] for stage in self.cluster.status["stages"]}

    @property
    def report(self) -> str | None:
        return next(stage.get("product") for stage in self.cluster.status["stages"] if stage["name"] == "report")

    @property
    def files(self) -> list[Raw]:
        return [stage_file(obj) for obj in self.cluster.asked if obj["kind"] == "Job"]


class Process:
    """A FAKE stage process: ends when it is told to."""

    def __init__(self, command: Any, path: Path, log: Path, **_: Any) -> None:
        self.path = path
        self.code: int | None = None
        self.stopping = False
        OnLaptop.processes[json.loads(path.read_text())["stage"]] = self
        OnLaptop.files.append(json.loads(path.read_text()))

    def poll(self) -> int | None:
        return self.code

    def stop(self) -> None:
        self.stopping = True
        self.end(75)

    def end(self, code: int) -> None:
        (self.path.parent / "termination.json").write_text(summary(code))
        self.code = code


class Silent(View):
    """Shows nothing."""


class OnLaptop:
    """The local runner, whose processes are fakes, turned by hand."""

    processes: ClassVar[dict[str, Process]] = {}
    files: ClassVar[list[Raw]] = []

    def __init__(self, raw: Raw, folder: Path) -> None:
        type(self).processes, type(self).files = {}, []
        metadata = {name: raw["metadata"][name] for name in ("name", "namespace", "uid")}
        self._job = parse_job({**raw, "metadata": metadata})
        self._folder = folder
        self._layout = Layout(folder, "uid-1")
        self._deadline = False
        self._resume()

    def _resume(self) -> None:
        options = Options(Budget(64), wait=lambda _: 0.0)
        file, lock = self._folder / "job.yaml", FileLock(self._layout.lock)
        self._runner = Runner(self._job, file, self._layout, options, Silent(), lock)
        if hasattr(self, "_states"):
            self._runner._run.state = self._runner._run.state.model_copy(update={"stages": self._states})
        if self._deadline:
            self._limit()
        self._runner._signals = Signals(lambda _: None)
        self._runner._alive = 0
        self._runner._running = RunningStages(self._runner._signals, Silent())
        self._runner._lock.acquire()
        self._runner._run.resolving = FileLock(self._folder / "gc")
        self._runner._run.resolving.acquire(wait=True)
        if self._runner._run.state.stages["prepare"].complete:
            take_resolved(self._runner._run)
        self._turn()

    def _limit(self) -> None:
        job = self._runner._run.job
        limited = job.spec.model_copy(update={"active_deadline_seconds": DEADLINE})
        self._runner._run.job = job.model_copy(update={"spec": limited})
        self._runner._run.plan = plan(self._runner._run.job, self._runner._run.resolved)
        self._runner._run.state = self._runner._run.state.model_copy(update={"active_seconds": 2.0 * DEADLINE})

    def _turn(self) -> None:
        """As `Runner.run` does, until nothing changes."""
        for _ in range(50):
            before = self._runner._run.state.stages
            self._runner._collect()
            decision = self._runner._decide()
            self._runner._act(decision)
            self._runner._collect()
            if self._runner._run.state.stages == before:
                return
        raise AssertionError("it did not settle")

    def running(self) -> list[str]:
        return [name for name, stage in self._runner._run.state.stages.items() if stage.running]

    def happens(self, event: Happens, stage: str) -> None:
        if event.what == "end":
            process = self.processes[stage]
            if event.code == 0:
                self._finish(stage, process)
            process.end(event.code)
        elif event.what == "suspend":
            self._runner._signals.received.append(15)
            self._turn()
            self._states = self._runner._run.state.stages
            self._runner._lock.release()
            self._runner._run.resolving.release()
            self._resume()
            return
        else:
            self._deadline = True
            self._limit()
        self._turn()

    def _finish(self, stage: str, process: Process) -> None:
        """Leave what a stage that ends well leaves: what prepare found, or a product."""
        file = json.loads(process.path.read_text())
        if file["type"] == "prepare":
            inputs = {entry.name: ResolvedInput(DIGEST, "") for entry in self._job.spec.inputs}
            write_resolved(self._layout.resolved, Resolved(inputs))
            return
        manifest = {name: file[name] for name in ("type", "digest", "job", "stage", "spec", "seed")}
        parsed = Manifest.model_validate(
            {**manifest, "recipe": 1, "versions": {}, "inputs": {}, "files": {}, "metrics": {}}
        )
        folder = self._layout.product(f"{file['type']}-{file['digest']}")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "manifest.json", parsed.model_dump_json().encode())

    @property
    def states(self) -> dict[str, str]:
        return {name: stage.state for name, stage in self._runner._run.state.stages.items()}

    @property
    def report(self) -> str | None:
        return self._runner._run.state.stages["report"].product


def portable(file: Raw) -> Raw:
    """A stage file without what an executor alone knows: paths, processes, its count of attempts."""
    document = json.loads(json.dumps(file))
    for name in ("directories", "nodes", "ranksPerNode", "threads", "metricsPort", "master", "attempt"):
        document.pop(name, None)
    for name, source in document.get("inputs", {}).items():
        source["path"] = source["path"].rpartition("/")[2] if name.startswith("stage:") else ""
    return document


MODEL = {"model": {"input": "base"}, "data": [{"input": "rows"}]}


@st.composite
def jobs(draw: st.DrawFn) -> list[Raw]:
    """Chains and forks of up to five stages, some of them repeated with two seeds."""
    stages: list[Raw] = []
    for index in range(draw(st.integers(1, 5))):
        policies = [stage["name"] for stage in stages if "sft" in stage and "repeat" not in stage]
        source = draw(st.sampled_from([{"input": "base"}, *({"stage": name} for name in policies)]))
        kind = draw(st.sampled_from(["sft", "rewardModel", "costModel"]))
        spec = {**MODEL, "model": source}
        if draw(st.booleans()):
            stages.append({"name": f"s{index}", "repeat": {"seeds": [2 * index + 10, 2 * index + 11]}, kind: spec})
        else:
            stages.append({"name": f"s{index}", kind: {**spec, "seed": index}})  # no two make one product
    return stages


EVENTS = st.one_of(
    st.builds(Happens, st.just("end"), st.sampled_from([0, 0, 0, 0, 1, 2, 3]), st.integers(0, 4)),
    st.builds(Happens, st.sampled_from(["suspend", "suspend", "deadline"])),
)


@given(jobs(), st.integers(0, 2), st.lists(EVENTS, max_size=14))
@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.generate])  # to shrink takes minutes
def test_a_job_goes_the_same_way_on_a_cluster_and_on_a_laptop(
    stages: list[Raw], restarts: int, events: list[Happens]
) -> None:
    raw = job(stages=stages, runPolicy={"maxRestarts": restarts})
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(of_runner.process, "StageProcess", Process)
        executors = OnCluster(raw), OnLaptop(raw, Path(folder))
        for event in [*events, *[Happens("end")] * 20]:
            running = executors[0].running()
            assert running == executors[1].running()
            if not running:
                break
            for executor in executors:
                executor.happens(event, running[event.stage % len(running)])
        cluster, laptop = executors
        assert cluster.states == laptop.states
        assert cluster.report == laptop.report
        assert [portable(file) for file in by_stage(cluster.files)] == [
            portable(file) for file in by_stage(laptop.files)
        ]


def by_stage(files: list[Raw]) -> list[Raw]:
    return sorted(files, key=lambda file: (str(file["stage"]), file.get("attempt", 0)))
