"""The launcher as a process: exit codes, signals, crashes, and resume after SIGKILL at points seen on the disk."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from patience import PATIENCE
from toys import launch, start, toy_file

from cluster.control_plane import free_port

NAME = "sft-" + "d" * 64
LIMITED = """
import resource, sys
from rlhf_trainer.runtime.launcher import main
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))
sys.exit(main())
"""


def summary(file) -> dict:
    return json.loads((Path(file.directories.work) / "termination.json").read_text())


def product(storage: Path) -> tuple[bytes, bytes]:
    folder = storage / "products" / NAME
    return (folder / "weights.bin").read_bytes(), (folder / "metrics.jsonl").read_bytes()


def wait_for(process: subprocess.Popen, appeared) -> None:
    """Until something is on the disk, or the process is gone."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if appeared():
            return
        time.sleep(0.002)
    raise AssertionError(f"never seen; the launcher ended with {process.poll()}: {process.stdout.read()}")


def ranks_of(file) -> list[int]:
    """Process ids of a stage's ranks: they have its stage file on their command line."""
    path = str(Path(file.directories.work) / "stage.json").encode()
    process_ids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"rlhf_trainer.runtime.worker" in words and path in words:
            process_ids.append(int(folder.name))
    return process_ids


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By number of ranks: the storage of a run that nothing disturbed."""
    storages = {}
    for ranks in (1, 2):
        storage = tmp_path_factory.mktemp(f"whole{ranks}")
        code, output = launch(toy_file(storage, {"steps": 40}, ranks_per_node=ranks))
        assert code == 0, output
        storages[ranks] = storage
    return storages


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stage_that_ends_well(undisturbed, ranks):
    storage = undisturbed[ranks]
    file = toy_file(storage, {}, ranks_per_node=ranks)
    outcome = summary(file)
    assert {name: outcome[name] for name in ("code", "reason", "stage", "type", "step")} == {
        "code": 0,
        "reason": "Done",
        "stage": "toy",
        "type": "sft",
        "step": 40,
    }
    assert set(outcome["headline"]) == {"loss", "lambda.toy"}
    manifest = json.loads((storage / "products" / NAME / "manifest.json").read_text())
    assert (manifest["world"], manifest["counts"]) == (ranks, {"seen": 200})
    assert {"torch", "deepspeed", "python"} <= set(manifest["versions"])
    work = Path(file.directories.work)
    assert sorted(path.name for path in (work / "logs/a0").iterdir()) == [f"rank{rank}.log" for rank in range(ranks)]
    assert len((work / "metrics.jsonl").read_text().splitlines()) == 40
    assert list((work / "events").iterdir())
    assert ranks_of(file) == []


def test_a_product_that_exists_is_reused_without_ranks(undisturbed, tmp_path):
    file = toy_file(undisturbed[1], {"steps": 40}, uid="another-job")
    code, output = launch(file)
    assert code == 0
    assert "reused" in output
    assert summary(file)["reason"] == "Reused"
    assert not (Path(file.directories.work) / "logs").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_with_everything_at_moments_seen_on_the_disk_the_result_is_the_same(undisturbed, tmp_path, ranks):
    file = toy_file(tmp_path, {"steps": 40}, ranks_per_node=ranks)
    folder = Path(file.directories.work) / "checkpoints"
    moments = [lambda: (folder / "step-00000006").exists(), lambda: list(folder.glob("step-000000[23]?.tmp"))]
    for attempt, moment in enumerate(moments):
        process = start(file.model_copy(update={"attempt": attempt}))
        wait_for(process, moment)
        process.kill()  # the kernel ends its ranks with it
        process.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while ranks_of(file) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ranks_of(file) == []
    code, output = launch(file.model_copy(update={"attempt": len(moments)}))
    assert code == 0, output
    assert "resuming after step" in output
    assert product(tmp_path) == product(undisturbed[ranks])


def test_sigterm_saves_a_checkpoint_and_the_job_made_again_ends_the_same(undisturbed, tmp_path):
    """A job that is deleted and made again has another UID, and so another work folder."""
    file = toy_file(tmp_path, {"steps": 40}, ranks_per_node=2, every=1)
    process = start(file)
    folder = Path(file.directories.work) / "checkpoints"
    wait_for(process, lambda: (folder / "step-00000004").exists())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, output
    outcome = summary(file)
    assert (outcome["code"], outcome["reason"]) == (75, "Stopped")
    assert 4 <= outcome["step"] < 40
    assert (folder / f"step-{outcome['step']:08d}" / "manifest.json").exists()
    code, output = launch(toy_file(tmp_path, {"steps": 40}, ranks_per_node=2, every=1, uid="made-again"))
    assert code == 0, output
    assert f"goes on from step {outcome['step']} of {file.directories.work}" in output
    assert f"resuming after step {outcome['step']} of 40" in output
    assert product(tmp_path) == product(undisturbed[2])


@pytest.mark.parametrize(
    ("how", "code", "reason", "words"),
    [
        ("raise", 1, "ValueError", "rank 0: ValueError: a bug (toy_stage.py:"),
        ("guard", 3, "KL", "KL 40 is above its limit 30"),
    ],
)
def test_one_ranks_end_is_the_stages(tmp_path, how, code, reason, words):
    file = toy_file(tmp_path, {"steps": 5, "how": how, "at": 4})
    assert launch(file)[0] == code
    outcome = summary(file)
    assert (outcome["code"], outcome["reason"]) == (code, reason)
    assert words in outcome["message"]
    assert outcome["step"] == 4
    assert not (tmp_path / "products" / NAME).exists()
    assert (Path(file.directories.work) / "checkpoints" / "step-00000003").exists()


def test_a_rank_killed_for_memory_is_named_and_the_others_that_wait_for_it_are_ended(tmp_path):
    file = toy_file(tmp_path, {"steps": 5, "how": "SIGKILL", "at": 2, "rank": 1}, ranks_per_node=2)
    assert launch(file)[0] == 1  # a collective waits for a day: that it ended at all is the launcher's doing
    outcome = summary(file)
    assert outcome["reason"] == "Killed"
    assert "rank 1 was killed by SIGKILL, most often because memory ran out" in outcome["message"]
    assert ranks_of(file) == []


def test_a_light_stage_runs_without_a_process_group(tmp_path):
    code, output = launch(toy_file(tmp_path, {}, type="report", ranks_per_node=2))
    assert code == 0, output
    assert (tmp_path / "products" / ("report-" + "d" * 64) / "report.html").exists()


def test_a_stage_that_never_publishes_is_not_done(tmp_path):
    file = toy_file(tmp_path, {"publish": False}, type="report")
    assert launch(file)[0] == 1
    assert summary(file)["reason"] == "NoProduct"


def test_a_full_disk_names_the_folder_and_leaves_nothing_half_written(tmp_path):
    file = toy_file(tmp_path, {"steps": 5, "ballast": 20000}, every=1)
    process = start(file, interpreter=("-c", LIMITED))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    outcome = summary(file)
    assert outcome["reason"] == "StorageFull"
    checkpoints = Path(file.directories.work) / "checkpoints"
    assert f"no space left while saving the checkpoint of step 1 in {checkpoints}" in outcome["message"]
    assert "MiB free" in outcome["message"]
    assert list(checkpoints.iterdir()) == []


def test_two_runs_that_need_the_same_product_at_once_make_it_once(tmp_path):
    files = [toy_file(tmp_path, {"steps": 200}, uid=f"uid-{number}") for number in range(2)]
    first = start(files[0])
    wait_for(first, lambda: list((tmp_path / "locks" / NAME).glob("*")))
    code, waited = launch(files[1])
    output, _ = first.communicate(timeout=PATIENCE)
    assert (first.returncode, code) == (0, 0), output + waited
    assert [summary(file)["reason"] for file in files] == ["Done", "Reused"]
    assert "waiting: stage toy of job job" in waited


def test_two_nodes_meet_at_node_0(tmp_path, undisturbed):
    port = free_port()
    file = toy_file(tmp_path, {"steps": 40}, nodes=2, ranks_per_node=1, master=f"127.0.0.1:{port}")
    second = start(file, JOB_COMPLETION_INDEX="1")
    first_line = second.stdout.readline()
    first = start(file, JOB_COMPLETION_INDEX="0")
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert f"waiting for node 0 at 127.0.0.1:{port}" in first_line
    assert product(tmp_path) == product(undisturbed[2])


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({}, "GOMP_SPINCOUNT = '20000'"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "GOMP_SPINCOUNT = '0'"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT = '7'"),
    ],
)
def test_openmp_spins_shortly_at_barriers_unless_the_environment_says_otherwise(tmp_path, environment, shown):
    _, output = launch(toy_file(tmp_path, {"steps": 1}), OMP_DISPLAY_ENV="VERBOSE", **environment)
    assert shown in output
