"""Which checkpoints of another run a stage takes over, and which it leaves where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlhf_api.job import Execution
from rlhf_api.stage_file import Directories, StageFile
from rlhf_trainer.storage.adoption import COPIED, adopt
from rlhf_trainer.storage.checkpoints import sharding_of

DIGEST = "d" * 64


def stage(storage: Path, uid: str = "new", ranks: int = 1) -> StageFile:
    work = storage / "work" / uid / "sft"
    work.mkdir(parents=True, exist_ok=True)
    return StageFile(
        version="1",
        job="job",
        uid=uid,
        stage="sft",
        type="sft",
        digest=DIGEST,
        spec={},
        seed=1,
        execution=Execution(),
        ranksPerNode=ranks,
        directories=Directories(storage=str(storage), work=str(work), job=str(storage)),
    )


def leave(
    storage: Path, uid: str, step: int, *, digest: str = DIGEST, world: int = 1, name: str = "sft", zero: int | None = 0
) -> Path:
    """What a run left: a checkpoint, and the rows before it."""
    work = storage / "work" / uid / name
    folder = work / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    sharding = None if zero is None else sharding_of(Execution(zero=zero))
    manifest = {"version": "1", "digest": digest, "step": step, "world": world, "sharding": sharding, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (work / "metrics.jsonl").write_text(f"rows of {uid}\n")
    (work / "events").mkdir(exist_ok=True)
    return work


def steps(file: StageFile) -> list[str]:
    return sorted(path.name for path in Path(file.directories.work).glob("checkpoints/*"))


def test_the_furthest_checkpoint_of_the_same_digest_is_taken_with_its_rows(tmp_path: Path) -> None:
    leave(tmp_path, "other", 90, digest="e" * 64)
    leave(tmp_path, "first", 10)
    source = leave(tmp_path, "second", 20, name="renamed")
    file = stage(tmp_path)
    assert adopt(file) == source
    assert steps(file) == ["step-00000020"]
    assert (Path(file.directories.work) / "metrics.jsonl").read_text() == "rows of second\n"
    assert (source / "metrics.jsonl").read_text() == "rows of second\n", "its report tells of them"
    assert (source / "checkpoints/step-00000020/manifest.json").exists(), "it may go on itself"
    assert (tmp_path / "work/first/sft/checkpoints/step-00000010").exists()
    assert adopt(file) is None, "it has its own now"


def test_own_checkpoints_come_first(tmp_path: Path) -> None:
    leave(tmp_path, "first", 99)
    leave(tmp_path, "new", 5)
    file = stage(tmp_path)
    assert adopt(file) is None
    assert steps(file) == ["step-00000005"]


def test_those_of_other_ranks_stay_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(tmp_path, "first", 30, world=4)
    assert adopt(stage(tmp_path, ranks=2)) is None
    assert (
        "has a checkpoint of step 30, of 4 ranks with zero 0, offloadOptimizer false; not used: this run" in caplog.text
    )
    leave(tmp_path, "second", 20, world=2)
    file = stage(tmp_path, ranks=2)
    assert adopt(file) is not None
    assert steps(file) == ["step-00000020"]


@pytest.mark.parametrize("killed_after", range(4))
def test_a_kill_on_the_way_begins_again(tmp_path: Path, killed_after: int) -> None:
    source = leave(tmp_path, "first", 10)
    (source / "timings.jsonl").write_text("seconds\n")
    file = stage(tmp_path)
    work = Path(file.directories.work)
    (work / "metrics.jsonl").write_text("rows of a beginning\n")
    for name in COPIED[:killed_after]:
        if not (source / name).is_dir():
            (work / name).write_text("half")
    if killed_after == 3:
        (work / "checkpoints/step-00000010.tmp").mkdir(parents=True)
        (work / "checkpoints/step-00000010.tmp/half").touch()
    assert adopt(file) == source
    assert steps(file) == ["step-00000010"]
    assert sorted(path.name for path in (work / "checkpoints/step-00000010").iterdir()) == ["manifest.json"]
    assert (work / "metrics.jsonl").read_text() == "rows of first\n"
    assert (work / "timings.jsonl").read_text() == "seconds\n"


def test_what_the_other_run_writes_later_is_its_own(tmp_path: Path) -> None:
    source = leave(tmp_path, "first", 10)
    file = stage(tmp_path)
    adopt(file)
    with (source / "metrics.jsonl").open("a") as rows:
        rows.write("more\n")
    assert (Path(file.directories.work) / "metrics.jsonl").read_text() == "rows of first\n"


@pytest.mark.parametrize("zero", [1, None])
def test_those_of_another_zero_stage_stay(tmp_path: Path, zero: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """DeepSpeed loads a checkpoint with the stage that wrote it alone; an earlier trainer did not say which."""
    leave(tmp_path, "first", 30, zero=zero)
    assert adopt(stage(tmp_path)) is None
    assert "not used: this run has 1 ranks with zero 0, offloadOptimizer false" in caplog.text


def test_every_checkpoint_of_the_run_is_taken_should_the_newest_be_damaged(tmp_path: Path) -> None:
    leave(tmp_path, "first", 10)
    leave(tmp_path, "first", 20)
    file = stage(tmp_path)
    adopt(file)
    assert steps(file) == ["step-00000010", "step-00000020"]


def test_what_cannot_be_copied_ends_no_stage_and_the_next_run_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other run may remove its checkpoint meanwhile; a pipe stands for a file that cannot be read."""
    broken = leave(tmp_path, "first", 20)
    os.mkfifo(broken / "metrics.jsonl.pipe")
    (broken / "metrics.jsonl").unlink()
    (broken / "metrics.jsonl.pipe").rename(broken / "metrics.jsonl")
    intact = leave(tmp_path, "second", 10)
    file = stage(tmp_path)
    assert adopt(file) == intact
    assert "first/sft: its checkpoints are not used: they cannot be copied" in caplog.text
    assert steps(file) == ["step-00000010"]


def test_a_folder_whose_name_is_not_its_step_is_taken_as_it_is(tmp_path: Path) -> None:
    work = leave(tmp_path, "first", 10)
    (work / "checkpoints/step-00000010").rename(work / "checkpoints/step-00000099")
    file = stage(tmp_path)
    assert adopt(file) == work
    assert steps(file) == ["step-00000099"]


def test_damaged_ones_and_links_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = leave(tmp_path, "first", 10)
    (work / "checkpoints/step-00000010/manifest.json").write_text("{")
    outside = leave(tmp_path / "outside", "foreign", 50)
    (tmp_path / "work/linked").mkdir(parents=True)
    (tmp_path / "work/linked/sft").symlink_to(outside)
    assert adopt(stage(tmp_path)) is None
    assert "its manifest cannot be read" in caplog.text
    assert (outside / "checkpoints").exists()
