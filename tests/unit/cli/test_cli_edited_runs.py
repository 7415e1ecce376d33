"""Run, edit, run again: both runs stay, by name, until one is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.command import rlhf
from fakes.local_job import CHAIN, SIDE_BY_SIDE, job, run
from rlhf_api.store import Run, forget_run, runs_of, write_run

ESTIMATE = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}
BETTER = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 50}


def listed(path: Path) -> list[dict[str, Any]]:
    return list(rlhf("runs", path, "--output", "json").json["runs"])


def edit(path: Path, before: str, after: str) -> None:
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was run, edited and run again."""
    path = job(tmp_path_factory.mktemp("edited"), SIDE_BY_SIDE)
    run(path, {"reward": {"metrics": {"accuracy": ESTIMATE}}})
    edit(path, "rewardModel: {", "rewardModel: {epochs: 2, ")
    run(path, {"reward": {"metrics": {"accuracy": BETTER}}})
    return path


def test_both_runs_are_listed_with_what_changed(edited: Path) -> None:
    first, second = listed(edited)
    assert [first["name"], second["name"]] == ["beaver@1", "beaver@2"]
    assert [first["latest"], second["latest"]] == [False, True]
    assert [first["phase"], second["phase"]] == ["Complete", "Complete"]
    assert (first["changes"], second["changes"]) == (None, {"stages.reward.rewardModel.epochs": [1.0, 2.0]})
    assert 0 < first["started"] < second["started"]
    assert first["missing"] == second["missing"] == []
    text = rlhf("runs", "beaver", "--storage", edited.parent / ".rlhf").out
    assert "beaver@1" in text
    assert "stages.reward.rewardModel.epochs: 1.0 -> 2.0" in text


def test_runs_are_compared_by_name(edited: Path) -> None:
    compared = rlhf("compare", f"{edited}@1", edited, "--output", "json").json
    assert compared["names"] == ["beaver@1", "beaver"]
    assert compared["metrics"]["reward.accuracy"] == [ESTIMATE, BETTER]
    assert compared["spec"] == {"stages.reward.rewardModel.epochs": [1.0, 2.0]}
    by_name = rlhf("compare", "beaver@1", "beaver@2", "--storage", edited.parent / ".rlhf", "--output", "json").json
    assert by_name["metrics"] == compared["metrics"]


def test_an_earlier_run_has_its_report_and_models(edited: Path, tmp_path: Path) -> None:
    reports = [rlhf("report", name, "--output", "json").json for name in (f"{edited}@1", f"{edited}@2", edited)]
    assert reports[0]["report"] != reports[1]["report"] == reports[2]["report"]
    exported = rlhf("export", "reward", tmp_path / "model", "--job", f"{edited}@1", "--output", "json").json
    assert exported["product"] == listed(edited)[0]["products"]["reward"]
    assert (tmp_path / "model" / "weights.txt").exists()


@pytest.mark.parametrize("command", [("report",), ("compare", "beaver"), ("gc", "--forget")])
def test_a_run_that_is_not_there_is_answered_with_those_that_are(edited: Path, command: tuple[str, ...]) -> None:
    ended = rlhf(*command, "beaver@7", "--storage", edited.parent / ".rlhf")
    assert ended.code == 2
    assert "beaver@7: no such run; found beaver@1, beaver@2" in ended.err


def test_products_of_earlier_runs_are_kept_until_they_are_forgotten(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    run(path)
    edit(path, "costModel: {", "costModel: {epochs: 2, ")
    run(path)
    storage = tmp_path / ".rlhf"
    assert rlhf("gc", "--storage", storage, "--output", "json").json["items"] == []
    first, second = listed(path)
    forget = ("gc", "--storage", storage, "--forget", f"{path}@1", "--output", "json")
    expected = sorted(first["products"][stage] for stage in ("cost", "report"))
    free = rlhf(*forget).json
    assert sorted(Path(item["path"]).name for item in free["items"]) == expected
    assert free["bytes"] == sum(item["bytes"] for item in free["items"]) > 0
    assert "2 things" in rlhf(*forget[:-2]).out
    assert listed(path) == [first, second], "without --yes it is only listed"
    assert rlhf(*forget, "--yes").json["freed"] is True
    (remaining,) = listed(path)
    assert (remaining["name"], remaining["missing"], remaining["changes"]) == ("beaver@2", [], None)
    assert run(path).phases()["cost"] == "Reused"


def test_a_job_edited_back_goes_on_with_its_first_run(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    edit(path, "sft: {", "sft: {epochs: 2, ")
    run(path)
    edit(path, "sft: {epochs: 2, ", "sft: {")
    assert set(run(path).phases().values()) == {"Complete", "Reused"}
    assert [(entry["name"], entry["latest"]) for entry in listed(path)] == [("beaver@1", True), ("beaver@2", False)]


def test_an_edit_that_makes_no_other_product_is_the_same_run(tmp_path: Path) -> None:
    path = job(tmp_path, more="  runPolicy: {maxRestarts: 1}\n")
    run(path)
    edit(path, "maxRestarts: 1", "maxRestarts: 2")
    run(path)
    assert [entry["name"] for entry in listed(path)] == ["beaver@1"]


def test_a_run_that_failed_is_one_run_with_the_one_that_goes_on(tmp_path: Path) -> None:
    path = job(tmp_path)
    assert run(path, {"sft": {"exit": 1, "reason": "Broken", "message": "no"}}).code != 0
    (failed,) = listed(path)
    assert (failed["phase"], failed["missing"]) == ("Failed", ["sft"])
    run(path)
    (done,) = listed(path)
    assert (done["name"], done["phase"], done["missing"]) == ("beaver@1", "Complete", [])


def test_fresh_forgets_the_run_of_this_spec_alone(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    run(path)
    edit(path, "costModel: {", "costModel: {epochs: 2, ")
    again = run(path, fresh=True)
    assert again.phases()["sft"] == "Reused", "the first run names it"
    first, _ = listed(path)
    assert first["missing"] == []
    again = run(path, fresh=True)
    assert again.phases()["cost"] == "Complete"
    assert [entry["name"] for entry in listed(path)] == ["beaver@1", "beaver@2"]


def test_jobs_of_one_name_in_a_storage_are_named_by_uid(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    for uid in ("uid-a", "uid-b"):
        write_run(storage, Run(job="beaver", uid=uid, products={"sft": f"sft-{uid}"}))
    names = [entry["name"] for entry in rlhf("runs", "--storage", storage, "--output", "json").json["runs"]]
    assert names == ["uid-a@1", "uid-b@1"]
    ambiguous = rlhf("runs", "beaver", "--storage", storage)
    assert ambiguous.code == 2
    assert "say which by UID: uid-a, uid-b" in ambiguous.err
    assert rlhf("runs", "uid-a", "--storage", storage).code == 0


def test_nothing_was_run(tmp_path: Path) -> None:
    assert "no runs in" in rlhf("runs", "--storage", tmp_path).out
    assert "never run" in rlhf("runs", job(tmp_path / "job", CHAIN)).err


def test_an_interrupted_write_of_an_index_shows_each_run_once(tmp_path: Path) -> None:
    first = write_run(tmp_path, Run(job="beaver", uid="uid", products={"sft": "sft-a"}))
    write_run(tmp_path, Run(job="beaver", uid="uid", products={"sft": "sft-b"}))
    folder = tmp_path / "runs" / "default" / "beaver"
    (folder / "uid.2.json").write_bytes((folder / "uid.json").read_bytes())  # kept, and not yet replaced
    assert [each.number for each in runs_of(tmp_path, "default", "beaver", "uid")] == [2, 1]
    again = write_run(tmp_path, Run(job="beaver", uid="uid", products={"sft": "sft-a"}))
    assert again.number == first.number
    assert [each.number for each in runs_of(tmp_path, "default", "beaver", "uid")] == [1, 2]


def test_the_run_before_a_forgotten_one_is_the_latest(tmp_path: Path) -> None:
    for product in ("sft-a", "sft-b"):
        latest = write_run(tmp_path, Run(job="beaver", uid="uid", products={"sft": product}))
    forget_run(tmp_path, latest)
    (entry,) = runs_of(tmp_path, "default", "beaver", "uid")
    assert entry.products == {"sft": "sft-a"}
    assert write_run(tmp_path, Run(job="beaver", uid="uid", products={"sft": "sft-c"})).number == 2
