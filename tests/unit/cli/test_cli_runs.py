"""`rlhf status`, `logs`, `report` and `compare`, over runs that were made with the fake trainer."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.command import rlhf
from fakes.local_job import CHAIN, FAKE, SIDE_BY_SIDE, job, product, run, start, started, starts


def status(path: Path) -> dict[str, Any]:
    return dict(rlhf("status", path, "--output", "json").json)


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that ran to its end."""
    estimate = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}
    path = job(tmp_path_factory.mktemp("done"), SIDE_BY_SIDE)
    run(path, {"reward": {"metrics": {"accuracy": estimate, "bins": [{"low": 0}]}}, "sft": {"log": "one\ntwo\n"}})
    return path


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Much the same job, with another reward model and no cost model."""
    stages = (
        CHAIN
        + """
  - {name: reward, rewardModel: {model: {stage: sft}, data: [{input: prefs}], epochs: 2}}"""
    )
    path = job(tmp_path_factory.mktemp("other"), stages, name="otter")
    run(path, {"reward": {"metrics": {"accuracy": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 50}}}})
    return path


def test_status_of_a_run(done: Path) -> None:
    output = rlhf("status", done, "--output", "json").json
    assert (output["job"], output["phase"], output["exitCode"], output["live"]) == ("beaver", "Complete", 0, False)
    assert {name: stage["phase"] for name, stage in output["stages"].items()} == dict.fromkeys(
        ("prepare", "sft", "reward", "cost", "report"), "Complete"
    )
    assert output["stages"]["sft"]["step"] == 2
    assert output["stages"]["sft"]["headline"] == {"loss": 0.5}
    text = rlhf("status", done).out
    assert text.startswith("beaver: Complete  uid beaver-")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "STAGE",
        "prepare",
        "sft",
        "reward",
        "cost",
        "report",
        "sft:",
        "reward:",
        "cost:",
    ]


def test_status_finds_a_run_by_name_or_uid_in_a_storage(done: Path) -> None:
    storage = done.parent / ".rlhf"
    uid = rlhf("status", done, "--output", "json").json["uid"]
    for what in ("beaver", uid):
        assert rlhf("status", what, "--storage", storage, "--output", "json").json["uid"] == uid
    (listed,) = rlhf("status", "--storage", storage, "--output", "json").json["runs"]
    assert listed["uid"] == uid
    assert "beaver" in rlhf("status", "--storage", storage).out


def test_status_of_what_was_never_run(tmp_path: Path) -> None:
    result = rlhf("status", job(tmp_path))
    assert result.code == 2
    assert "never run" in result.err
    assert rlhf("status", "nobody", "--storage", tmp_path).code == 2
    assert "no runs in" in rlhf("status", "--storage", tmp_path).out


def test_status_of_a_run_while_it_runs_and_after_it_was_killed(tmp_path: Path) -> None:
    path = job(tmp_path)
    process = start(path, {"sft": {"wait": str(tmp_path / "gate"), "serve": True, "steps": 7}})
    polls: list[Any] = []

    def served() -> bool:
        polls[:] = [status(path)] if started(path, "sft") else []
        return bool(polls) and [polls[0]["stages"]["sft"][key] for key in ("step", "total")] == [7, 7]

    process.until(served)
    assert (polls[0]["live"], polls[0]["phase"]) == (True, "Running")
    process.kill()
    until(lambda: not status(path)["live"])  # once the stage has saved
    assert rlhf("status", path).out.startswith("beaver: Killed; run it again to go on")


def test_watch_shows_until_the_run_ends(done: Path) -> None:
    result = rlhf("status", done, "--watch")
    assert result.code == 0
    assert "beaver: Complete" in result.out


def test_logs_of_a_rank(done: Path) -> None:
    assert rlhf("logs", done, "sft").out == "sft attempt 1\none\ntwo\n"
    assert rlhf("logs", done, "sft", "--tail", "1").out == "two\n"
    output = rlhf("logs", done, "sft", "--output", "json").json
    assert (output["attempt"], output["lines"]) == (1, ["sft attempt 1", "one", "two"])
    assert rlhf("logs", done, "sft", "--follow").out.endswith("two\n"), "it ends when the stage has ended"
    assert rlhf("logs", done, "sft", "--rank", "launcher").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("spt",), "no such stage; the run has prepare, sft, reward, cost, report"),
        (("sft", "--rank", "7"), "no log of rank 7 in attempt 1; there are: 0, launcher"),
        (("sft", "--attempt", "3"), "no attempt 3; there are logs of attempt 1"),
    ],
)
def test_logs_that_are_not_there_are_answered_with_those_that_are(
    done: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = rlhf("logs", done, *arguments)
    assert result.code == 2
    assert words in result.err


def test_report(done: Path) -> None:
    output = rlhf("report", done, "--output", "json").json
    assert Path(output["report"]).name == "report.html"
    assert rlhf("report", done).out.strip() == output["report"]


def test_a_report_that_was_changed_is_made_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job(tmp_path)
    run(path)
    (product(path, "report") / "report.html").write_text("changed")
    orders = tmp_path / "orders.json"
    orders.write_text("{}")
    monkeypatch.setattr("rlhf_sdk.local.process.TRAINER", (sys.executable, "-S", "-E", str(FAKE), str(orders)))
    result = rlhf("report", path)
    assert result.code == 0, result.err
    assert "report.html was changed" in result.err and "it is rebuilt" in result.err
    assert Path(result.out.strip()).read_text().startswith("report ")
    assert len(starts(path, "sft")) == 1


def test_a_report_is_not_made_again_by_training_again(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    shutil.rmtree(product(path, "report"))
    shutil.rmtree(product(path, "sft"))
    result = rlhf("report", path)
    assert result.code == 1
    assert f"the products of sft are gone; `rlhf run {path}`" in result.err


def test_a_report_of_a_job_that_was_edited_since_is_not_made_again(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    shutil.rmtree(product(path, "report"))
    path.write_text(path.read_text().replace("sft: {", "sft: {epochs: 2, "))
    result = rlhf("report", path)
    assert result.code == 1
    assert "is not what was run" in result.err


def test_a_run_that_made_no_report_is_said(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path, {"prepare": {"exit": 2, "reason": "InvalidInput", "message": "no such file"}})
    result = rlhf("report", path)
    assert result.code == 1
    assert "no report: stage report is Skipped" in result.err


def test_compare_shows_metrics_with_intervals_and_where_specs_differ(done: Path, variant: Path) -> None:
    output = rlhf("compare", done, variant, "--output", "json").json
    assert output["names"] == ["beaver", "otter"]
    assert output["metrics"]["reward.accuracy"] == [
        {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50},
        {"value": 0.9, "low": 0.85, "high": 0.95, "n": 50},
    ]
    assert output["metrics"]["sft.loss"] == [0.5, 0.5]
    assert not any("bins" in name for name in output["metrics"])
    assert output["spec"] == {"stages.cost": ["there", None], "stages.reward.rewardModel.epochs": [1.0, 2.0]}
    text = rlhf("compare", done, variant).out
    assert "reward.accuracy  0.700 [0.600, 0.800]  0.900 [0.850, 0.950]  apart" in text
    assert "cost.loss" not in text
    assert "cost.loss" in rlhf("compare", done, variant, "--all").out
    assert "sft.loss" not in rlhf("compare", done, variant, "--metric", "reward.*").out


def test_compare_products(done: Path, variant: Path) -> None:
    output = rlhf("compare", product(done, "rewardModel"), product(variant, "rewardModel"), "--output", "json").json
    assert [name.split("-")[0] for name in output["names"]] == ["rewardModel", "rewardModel"]
    assert output["spec"] == {"epochs": [1.0, 2.0]}


def test_compare_refuses_what_it_cannot_compare(done: Path, tmp_path: Path) -> None:
    assert rlhf("compare", done).code == 2
    assert rlhf("compare", done, product(done, "sft")).code == 2
    assert rlhf("compare", done, job(tmp_path)).code == 2


def test_a_run_is_compared_although_a_product_is_gone(done: Path, variant: Path, tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE, name="third")
    run(path)
    product(path, "costModel").rename(tmp_path / "away")
    assert rlhf("compare", path, variant, "--output", "json").json["missing"] == [["cost"], []]
