"""Wrong stage files are refused in words, before torch is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf_api.job import RLHFJob
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.store import Run, read_runs, write_run
from rlhf_trainer.exits import InputError
from rlhf_trainer.runtime.launcher import Signals, grace_seconds, node_rank, read_stage_file, run
from rlhf_trainer.storage import products

STORED = Path(__file__).parents[2] / "corpus" / "stored"
"""stage-<release>-<stage>.json as the operator of that release wrote it. Never edited."""
GOOD = {
    "version": "1",
    "job": "job",
    "uid": "uid",
    "stage": "sft",
    "type": "sft",
    "digest": "abc",
    "spec": {},
    "seed": 0,
    "execution": {},
    "directories": {"storage": "/s", "work": "/w", "job": "/j"},
}


def changed(**fields) -> str:
    return json.dumps({**GOOD, **fields})


def test_a_good_one_is_read(tmp_path):
    (tmp_path / "stage.json").write_text(changed())
    assert read_stage_file(tmp_path / "stage.json").stage == "sft"


@pytest.mark.parametrize("path", sorted(STORED.glob("stage-*.json")), ids=lambda path: path.stem)
def test_one_that_an_earlier_release_wrote_is_read(path):
    file = read_stage_file(path)
    kind = RLHFJob if file.type in ("prepare", "report") else STAGE_TYPES[file.type].spec
    kind.model_validate_json(json.dumps(file.spec))
    assert file.digest == json.loads(path.read_bytes())["digest"]


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (None, "InvalidStageFile", "No such file"),
        ("{", "InvalidStageFile", "not readable as JSON"),
        ("[]", "UnknownVersion", "version: found None; this trainer reads version '1'"),
        (changed(version="0"), "UnknownVersion", "version: found '0'; this trainer reads version '1'"),
        (changed(version="2"), "UnknownVersion", "version: found '2'; this trainer reads version '1'. Use the image"),
        (changed(version=1), "UnknownVersion", "version: found 1"),
        (changed(type="levitate"), "UnknownStageType", "type: found 'levitate'; this trainer knows costModel,"),
        (changed(seed="7"), "InvalidStageFile", "seed: Input should be a valid integer"),
        (changed(extra=1), "InvalidStageFile", "extra: Extra inputs are not permitted"),
        (changed(directories={"storage": "/s"}), "InvalidStageFile", "directories.work: Field required"),
    ],
)
def test_a_wrong_one_is_refused_with_path_and_reason(tmp_path, content, reason, words):
    path = tmp_path / "stage.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_stage_file(path)
    assert (caught.value.code, caught.value.reason) == (2, reason)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_the_process_ends_with_2_and_never_loads_torch(tmp_path):
    (tmp_path / "stage.json").write_text(changed(version="9"))
    code = "import sys; from rlhf_trainer.runtime.launcher import main; code = main(); print('torch' in sys.modules); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "stage.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "UnknownVersion" in done.stdout
    assert done.stdout.endswith("False\n")


def test_an_error_of_the_launcher_itself_is_told_too(tmp_path, monkeypatch):
    """Such as storage that cannot be written."""
    (tmp_path / "products").write_text("a file where a folder should be")
    work = tmp_path / "work"
    directories = {"storage": str(tmp_path), "work": str(work), "job": str(tmp_path)}
    work.mkdir()
    (work / "stage.json").write_text(changed(directories=directories))
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_trainer.launch", str(work / "stage.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    termination = json.loads((work / "termination.json").read_text())
    assert (termination["code"], termination["reason"]) == (1, "NotADirectoryError")
    assert "products" in termination["message"]
    assert "Traceback" in done.stdout


def test_a_reused_product_is_named_in_the_runs_index_before_it_is_taken(tmp_path):
    """The same failure of another job made the same report: without a name it could be freed."""
    directories = {"storage": str(tmp_path), "work": str(tmp_path / "work"), "job": str(tmp_path)}
    content = changed(stage="report", type="report", digest="failed", directories=directories)
    file = StageFile.model_validate_json(content)
    manifest = {"type": "report", "digest": "failed", "recipe": 1, "job": "another", "stage": "report", "spec": {}}
    product_manifest = Manifest.model_validate({**manifest, "seed": 0, "inputs": {}, "files": {}, "versions": {}})
    products.publish(tmp_path, file, lambda folder: product_manifest)
    write_run(tmp_path, Run(job="job", uid="uid", products={"report": "report-plan"}))
    assert run(file, tmp_path / "stage.json", Signals(threading.Event())).reason == "Reused"
    assert [indexed_run.products for indexed_run in read_runs(tmp_path)] == [{"report": "report-failed"}]


def test_the_pods_index_is_the_node(monkeypatch):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    monkeypatch.delenv("NODE_RANK", raising=False)
    assert node_rank() == 0
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert node_rank() == 3


def test_the_grace_period_can_be_set(monkeypatch):
    monkeypatch.setenv("RLHF_GRACE_SECONDS", "7.5")
    assert grace_seconds() == 7.5
