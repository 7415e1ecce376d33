"""`rlhf gc` on a cluster's claim: the operator is elsewhere, so what a job has left there decides what can be freed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.command import rlhf
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile
from rlhf_api.store import Run, gc_lock, write_run
from rlhf_sdk.local.gc import garbage
from rlhf_sdk.local.liveness import SILENT_SECONDS, clock
from rlhf_sdk.local.locks import FileLock
from rlhf_sdk.local.state import RunState, save
from rlhf_trainer.runtime.termination import StageResult, write_summary
from rlhf_trainer.storage import products
from rlhf_trainer.storage.lock import Holder, acquire

PRODUCTS = {"sft": "sft-" + "a" * 64, "ppo": "ppo-" + "b" * 64, "report": "report-" + "c" * 64}
OLD = 3 * SILENT_SECONDS
"""Seconds ago: nobody has written since."""


@dataclass
class Job:
    """A cluster's job, seen from its claim: the operator's stage files, and what the trainer does with them."""

    storage: Path
    uid: str = "2f6d3c1e-0b7a-4f6e-9a51-6d0c7e0f8a11"
    spec: dict[str, object] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.storage / "work" / self.uid

    def file(self, stage: str, attempt: int = 0) -> StageFile:
        directories = {"storage": str(self.storage), "work": str(self.work / stage), "job": "/rlhf/job"}
        kind, _, digest = PRODUCTS.get(stage, "prepare-d").partition("-")
        fields = {"job": "beaver", "uid": self.uid, "stage": stage, "type": kind, "attempt": attempt, "digest": digest}
        return StageFile.model_validate_json(
            json.dumps({"version": "1", **fields, "spec": {}, "seed": 0, "execution": {}, "directories": directories})
        )

    def start_stage(self, stage: str, attempt: int = 0) -> StageFile:
        file = self.file(stage, attempt)
        (self.work / stage / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.work / stage / "checkpoints" / "weights").write_bytes(b"12345")
        products.raise_fence(file)
        return file

    def end(self, stage: str, code: int = 0, reason: str = "Done", attempt: int = 0) -> None:
        write_summary(self.start_stage(stage, attempt), StageResult(code, reason, ""))

    def record(self) -> None:
        write_run(
            self.storage, Run(job="beaver", uid=self.uid, products=PRODUCTS, inputs={"chat": "c0"}, spec=self.spec)
        )

    def prepared(self) -> None:
        self.record()
        self.end("prepare")

    def make(self, stage: str, failure: str | None = None) -> None:
        put_product(self.storage, PRODUCTS[stage], failure)
        self.end(stage) if failure is None else self.end(stage, 3, "GateFailed")

    def done(self) -> None:
        self.prepared()
        for stage in PRODUCTS:
            self.make(stage)

    def listed(self, age: float = OLD) -> dict[str, str]:
        """What gc would free, and its kind, when nobody has written for so long."""
        aged(self.storage, age)
        return {item.path.name: item.kind for item in garbage(self.storage, clock(self.storage)).free}

    def why_kept(self, age: float = OLD) -> str:
        """Why gc keeps the job's work."""
        aged(self.storage, age)
        (item,) = garbage(self.storage, clock(self.storage)).uncertain
        return item.why


def put_product(storage: Path, name: str, failure: str | None = None) -> Path:
    """A product in its place."""
    kind, _, digest = name.partition("-")
    manifest = Manifest(
        type=kind, digest=digest, recipe=1, job="beaver", stage=kind, spec={}, seed=0, inputs={}, files={}, versions={},
        failure=failure,
    )  # fmt: skip
    path = storage / "products" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path


def aged(root: Path, seconds: float) -> None:
    """As if all was written so much earlier, in the same order."""
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        if time.time() - status.st_mtime < seconds:
            os.utime(path, (status.st_atime, status.st_mtime - seconds))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_work_of_a_done_job_is_freed_and_its_products_stay(job: Job) -> None:
    job.done()
    assert job.listed() == {job.uid: "work"}
    result = rlhf("gc", "--storage", job.storage, "--yes")
    assert (result.code, "its job is done, every product in place" in result.out) == (0, True)
    assert list((job.storage / "work").iterdir()) == []
    assert sorted(path.name for path in (job.storage / "products").iterdir()) == sorted(PRODUCTS.values())
    assert job.listed() == {}, "what the record names stays named"


def test_work_of_a_job_that_runs_or_is_suspended_is_kept_however_long_it_is_silent(job: Job) -> None:
    job.prepared()
    job.make("sft")
    job.start_stage("ppo")
    assert job.listed() == {}
    assert job.why_kept() == "ppo is not made: its job may run, be suspended or be tried again"
    job.end("ppo", 75, "Stopped")
    assert job.listed() == {}
    assert job.why_kept() == "ppo is not made (last: Stopped): its job may run, be suspended or be tried again"
    job.start_stage("ppo", attempt=1)
    assert job.why_kept() == "ppo is not made: its job may run, be suspended or be tried again"
    result = rlhf("gc", "--storage", job.storage, "--yes")
    assert "nothing to free" in result.out and "kept:" in result.out and job.uid in result.out
    assert (job.work / "ppo" / "checkpoints" / "weights").exists()
    (entry,) = rlhf("gc", "--storage", job.storage, "--output", "json").json["kept"]
    assert (entry["path"], entry["kind"], entry["bytes"] > 0) == (str(job.work), "work", True)


def test_work_of_a_failed_job_is_kept_for_another_try(job: Job) -> None:
    job.prepared()
    job.end("sft", 1, "OutOfMemory")
    job.make("report")
    assert job.listed() == {}
    assert "sft is not made (last: OutOfMemory)" in job.why_kept()


def test_work_of_a_job_whose_gate_failed_is_kept(job: Job) -> None:
    job.prepared()
    job.make("sft")
    job.make("ppo", failure="harmlessness 0.4 is below 0.5")
    job.make("report")
    assert job.listed() == {}
    assert job.why_kept() == "ppo failed a gate: its job may be tried again"


def test_a_report_of_an_earlier_try_does_not_end_the_job(job: Job) -> None:
    job.prepared()
    job.make("sft")
    job.make("report")
    aged(job.storage, 10)
    job.make("ppo")
    assert job.listed() == {}
    assert "its report has not ended well, after all else" in job.why_kept()
    job.end("report", attempt=1)
    assert job.listed() == {job.uid: "work"}


def test_work_written_to_lately_is_kept(job: Job) -> None:
    job.done()
    assert job.listed(age=SILENT_SECONDS / 2) == {}
    assert job.why_kept(age=SILENT_SECONDS / 2) == "it was written to in the last minutes"


def test_work_that_was_asked_to_stay_is_kept(job: Job) -> None:
    job.spec = {"runPolicy": {"keep": "everything"}}
    job.done()
    assert job.listed() == {}
    assert "runPolicy.keep: everything" in job.why_kept()


def test_while_a_prepare_looks_up_what_its_job_needs_nothing_is_freed(job: Job) -> None:
    put_product(job.storage, "sft-" + "f" * 64)
    (job.storage / "inputs" / ("e" * 40)).mkdir(parents=True)
    job.start_stage("prepare")
    with FileLock(gc_lock(job.storage), shared=True):  # as prepare holds it
        result = rlhf("gc", "--storage", job.storage, "--yes")
        assert (result.code, "try again in a moment" in result.err) == (1, True)
    assert sorted(job.listed().values()) == ["input", "product"], "one that was killed looks anew when it begins again"
    assert job.why_kept() == "no record in runs/ says what it makes: a cluster's job may not have come so far"


def test_a_product_in_the_making_under_a_lease_that_beats_is_kept(job: Job) -> None:
    job.record()
    file = job.start_stage("ppo")
    making = job.storage / "products" / f".{PRODUCTS['ppo']}.c0ffee"
    shutil.copytree(put_product(job.storage, PRODUCTS["sft"]), making)
    aged(job.storage, OLD)
    lease = acquire(
        job.storage / "locks" / PRODUCTS["ppo"],
        Holder.me(file),
        done=lambda: False,
        waiting=lambda holder: None,
        pause=lambda seconds: True,
    )
    assert lease is not None
    with lease:
        assert job.listed(age=0) == {}
        assert job.why_kept(age=0) == "it holds a product's lease: it may be making it now"
        assert job.listed(age=OLD) == {making.name: "unfinished"}, "its holder has been silent for long"
    assert job.listed(age=0) == {making.name: "unfinished"}, "released"


def test_what_was_dequantised_of_a_named_input_is_used_with_it(job: Job) -> None:
    job.prepared()
    inputs = job.storage / "inputs"
    for name in ("c0ffee", "gguf-" + "1" * 32, "gguf-" + "2" * 32):
        (inputs / name).mkdir(parents=True)
    (inputs / ".records").mkdir()
    (inputs / ".records" / "c0ffee.json").write_text(json.dumps({"files": {"model.gguf": ["1" * 64, 0, 0, 0, 0]}}))
    assert job.listed() == {"gguf-" + "2" * 32: "input"}


def test_an_interrupted_removal_is_gone_on_with(job: Job) -> None:
    job.done()
    job.work.rename(job.work.with_name(f".gone-{job.uid}"))
    assert job.listed() == {f".gone-{job.uid}": "work"}
    rlhf("gc", "--storage", job.storage, "--yes")
    assert list((job.storage / "work").iterdir()) == []


def test_a_run_whose_folder_this_machine_does_not_have_is_kept_unless_it_is_done(tmp_path: Path) -> None:
    state_file = tmp_path / "work" / "beaver-0a" / "state.json"
    state = RunState(job="beaver", uid="beaver-0a", jobFile="/home/elsewhere/job.yaml", phase="Suspended")
    save(state_file, state)
    (item,) = garbage(tmp_path, clock(tmp_path)).uncertain
    assert item.why == "its job file may lie on another machine: /home/elsewhere/job.yaml"
    save(state_file, state.model_copy(update={"phase": "Complete"}))
    assert [item.why for item in garbage(tmp_path, clock(tmp_path)).free] == [
        "its job file is gone: /home/elsewhere/job.yaml"
    ]


def test_a_storage_that_is_read_only_is_listed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.done()
    aged(job.storage, OLD)

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert [item["kind"] for item in rlhf("gc", "--storage", job.storage, "-o", "json").json["items"]] == ["work"]


# Whatever the layout

AGES = st.sampled_from([0, SILENT_SECONDS // 2, OLD])
MADE = st.sampled_from(["made", "failed", "damaged", "missing"])
ENDS = st.none() | st.tuples(st.sampled_from([0, 1, 2, 3, 75]), st.integers(0, 2), AGES)
STAGES = st.fixed_dictionaries(
    {}, optional={stage: st.tuples(st.integers(0, 2), ENDS) for stage in ("prepare", *PRODUCTS)}
)
LEASE = st.none() | st.tuples(st.sampled_from(sorted(PRODUCTS)), st.booleans(), AGES)


@dataclass
class Layout:
    """What was drawn."""

    recorded: bool
    products: dict[str, str]
    stages: dict[str, tuple[int, tuple[int, int, int] | None]]
    lease: tuple[str, bool, int] | None
    state: str | None
    """Phase of a state.json whose job file is gone."""
    lock: bool
    """Whether there is a run.lock, which nobody holds."""
    age: int


LAYOUTS = st.builds(
    Layout,
    recorded=st.booleans(),
    products=st.fixed_dictionaries(dict.fromkeys(PRODUCTS, MADE)),
    stages=STAGES,
    lease=LEASE,
    state=st.none() | st.sampled_from(["Running", "Suspended", "Failed", "Complete"]),
    lock=st.booleans(),
    age=AGES,
)


def built(storage: Path, layout: Layout) -> Job:
    job = Job(storage)
    job.work.mkdir(parents=True)
    for stage, how in layout.products.items():
        if how != "missing":
            product = put_product(storage, PRODUCTS[stage], "a gate" if how == "failed" else None)
            if how == "damaged":
                (product / "manifest.json").write_text("{")
    for stage, (attempt, end) in layout.stages.items():
        job.start_stage(stage, attempt)
        if end is not None:
            code, ended, age = end
            write_summary(job.file(stage, ended), StageResult(code, "Reason", ""))
            aged(job.work / stage / "termination.json", age)
    if layout.state is not None:
        gone = str(storage / "job.yaml")
        save(job.work / "state.json", RunState(job="beaver", uid=job.uid, jobFile=gone, phase=layout.state))
    if layout.lock:
        (job.work / "run.lock").touch()
    if layout.recorded:
        job.record()
    aged(storage, layout.age)
    if layout.lease is not None:
        stage, released, age = layout.lease
        lock = storage / "locks" / PRODUCTS[stage] / "000001.json"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps({**asdict(Holder.me(job.file(stage))), "released": released}))
        aged(lock, age)
    return job


def needed(layout: Layout) -> Iterator[str]:
    """Why the work must stay."""
    if layout.recorded and set(layout.products.values()) != {"made"}:
        yield "a job that is not done"
    if layout.lease is not None and not layout.lease[1] and layout.lease[2] < SILENT_SECONDS:
        yield "a lease that beats"
    if layout.state in (None, "Running") and layout.age < SILENT_SECONDS:
        yield "written to lately"
    if not layout.recorded and layout.state is None and not layout.lock:
        yield "nobody knows whose it is"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(LAYOUTS)
def test_work_that_someone_may_go_on_with_is_never_listed(layout: Layout) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = built(Path(folder), layout)
        garbage_now = garbage(job.storage, clock(job.storage))
        listed = {item.path for item in garbage_now.free}
        why = list(needed(layout))
        assert why == [] or job.work not in listed, why
        assert (job.work in listed) != (job.work in {item.path for item in garbage_now.uncertain}), (
            "listed once, or said why not"
        )
        named = {job.storage / "products" / name for name in PRODUCTS.values()} if layout.recorded else set()
        assert not named & listed
