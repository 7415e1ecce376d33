"""`rlhf run` end to end, with real processes and a fake in place of the trainer."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from fakes.local_job import CHAIN, SIDE_BY_SIDE, job, product, run, running, start, started, starts, work
from rlhf_sdk.local.state import load


def test_a_job_runs_to_its_report(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    ran = run(path)
    assert ran.code == 0, ran.said
    assert set(ran.phases().values()) == {"Complete"}
    assert Path(ran.result["report"]).read_text().startswith("report ")
    index = json.loads(next((tmp_path / ".rlhf/runs/default/beaver").iterdir()).read_text())
    assert sorted(index["products"]) == ["cost", "report", "reward", "sft"]
    assert sorted(index["inputs"]) == ["base", "chat", "prefs"]


def test_run_again_reuses_every_product_after_verifying_it(tmp_path: Path) -> None:
    path = job(tmp_path)
    first, second = run(path), run(path)
    assert second.code == 0, second.said
    assert second.phases() == {"prepare": "Complete", "sft": "Reused", "report": "Reused"}
    assert second.result["report"] == first.result["report"]
    assert len(starts(path, "sft")) == 1
    assert "sft: reused sft-" in second.said


@pytest.mark.parametrize("damage", ["byte", "missing", "added", "manifest", "forged"])
def test_a_damaged_or_forged_product_is_made_anew_and_said(tmp_path: Path, damage: str) -> None:
    path = job(tmp_path)
    run(path)
    folder = product(path, "sft")
    weights, manifest = folder / "weights.txt", folder / "manifest.json"
    if damage == "byte":
        content = bytearray(weights.read_bytes())
        content[3] ^= 1
        weights.write_bytes(bytes(content))
    elif damage == "missing":
        weights.unlink()
    elif damage == "added":
        (folder / "more.bin").write_bytes(b"x")
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace('"digest": "', '"digest": "0'))
    ran = run(path)
    assert ran.code == 0, ran.said
    assert ran.phases()["sft"] == "Complete"
    assert "sft: product is damaged and rebuilt: sft-" in ran.said
    assert len(starts(path, "sft")) == 2


def test_side_by_side_stages_share_the_cores(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    gate = tmp_path / "gate"
    process = start(path, {"reward": {"wait": str(gate)}, "cost": {"wait": str(gate)}}, cores=6)
    process.until(lambda: started(path, "reward") and started(path, "cost"))
    gate.touch()
    assert process.end().code == 0
    threads = {stage: starts(path, stage)[0]["threads"] for stage in ("prepare", "sft", "reward", "cost", "report")}
    assert threads == {"prepare": 6, "sft": 6, "reward": 3, "cost": 3, "report": 6}


def test_only_prepare_gets_credentials_and_the_network(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    assert starts(path, "prepare")[0]["env"] == {"HF_TOKEN": "secret", "HF_HUB_OFFLINE": None}
    assert starts(path, "sft")[0]["env"] == {"HF_TOKEN": None, "HF_HUB_OFFLINE": "1"}


def test_a_failure_is_tried_again_from_the_checkpoint(tmp_path: Path) -> None:
    path = job(tmp_path)
    ran = run(path, {"sft": {"exit": 1, "fails": 2, "reason": "OutOfSpace", "message": "the disk is full"}})
    assert ran.code == 0, ran.said
    assert ran.result["stages"]["sft"]["attempt"] == 3
    assert ran.result["stages"]["sft"]["restarts"] == 2
    assert "sft: OutOfSpace (exit 1): the disk is full" in ran.said
    assert "restart 2 of 3" in ran.said
    assert sorted(path.name for path in (work(path) / "sft/logs").iterdir()) == ["a1", "a2", "a3"]


def test_restarts_come_to_an_end(tmp_path: Path) -> None:
    path = job(tmp_path, more="  runPolicy: {maxRestarts: 1}\n")
    ran = run(path, {"sft": {"exit": -9, "log": "a last line\n"}})
    assert ran.code == 1
    assert len(starts(path, "sft")) == 2
    assert "sft: failed: SIGKILL (exit 137): killed by the system (SIGKILL), most often for want of memory" in ran.said
    assert "  | a last line" in ran.said
    assert "logs/a2/rank0.log" in ran.said


@pytest.mark.parametrize(("code", "reason"), [(2, "InvalidInput"), (3, "KL")])
def test_wrong_input_and_guards_end_the_run_with_their_code(tmp_path: Path, code: int, reason: str) -> None:
    path = job(tmp_path)
    ran = run(path, {"sft": {"exit": code, "reason": reason, "message": "row 7 of chat.jsonl has no answer"}})
    assert ran.code == code
    assert len(starts(path, "sft")) == 1
    assert f"sft: failed: {reason} (exit {code}): row 7 of chat.jsonl has no answer" in ran.said


def test_the_report_of_a_failed_run_tells_what_failed_and_is_not_the_good_one(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    gate = tmp_path / "gate"
    failing = {"reward": {"exit": 2, "reason": "InvalidInput", "message": "no pairs"}, "cost": {"wait": str(gate)}}
    ran = run(path, failing)
    assert ran.code == 2
    assert ran.phases() == {
        "prepare": "Complete", "sft": "Complete", "reward": "Failed", "cost": "Skipped", "report": "Complete"
    }  # fmt: skip
    outcomes = starts(path, "report")[0]["outcomes"]
    assert outcomes["reward"] == {"state": "failed", "exitCode": 2, "reason": "InvalidInput", "message": "no pairs"}
    assert outcomes["cost"] == {"state": "stopped"}
    bad = ran.result["report"]
    good = run(path)
    assert good.code == 0, good.said
    assert good.result["report"] != bad
    assert good.phases()["sft"] == "Reused"


def test_a_failed_gate_is_exit_3_also_when_its_product_is_found_again(tmp_path: Path) -> None:
    stages = (
        CHAIN
        + """
  - name: evaluate
    evaluate: {candidates: [{stage: sft}], baseline: {input: base}, prompts: [{input: prefs}]}"""
    )
    path = job(tmp_path, stages)
    message = "cost.harm 0.4 > 0"
    orders = {"evaluate": {"exit": 3, "reason": "GateFailed", "message": message, "failure": message}}
    assert run(path, orders).code == 3
    again = run(path, orders)
    assert again.code == 3
    assert len(starts(path, "evaluate")) == 1
    assert f"evaluate: failed: GateFailed: {message}" in again.said


def test_a_stage_that_ends_well_without_a_product_has_failed(tmp_path: Path) -> None:
    path = job(tmp_path, more="  runPolicy: {maxRestarts: 0}\n")
    ran = run(path, {"sft": {"forget": True}})
    assert ran.code == 1
    assert "sft: failed: NoProduct" in ran.said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_one_signal_stops_with_checkpoints_and_running_again_resumes(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    gate = str(tmp_path / "gate")
    process = start(path, {"reward": {"wait": gate}, "cost": {"wait": gate}})
    process.until(lambda: started(path, "reward") and started(path, "cost"))
    process.send_signal(number)
    ran = process.end()
    assert ran.code == code, ran.said
    assert {ran.phases()[stage] for stage in ("reward", "cost")} == {"Suspended"}
    assert (work(path) / "cost/checkpoints/fake").exists()
    assert "stopping: stages save their checkpoints" in ran.said
    again = run(path)
    assert again.code == 0, again.said
    assert again.result["uid"] == ran.result["uid"]
    assert again.result["stages"]["cost"]["attempt"] == 2
    assert starts(path, "cost")[1]["threads"] == starts(path, "cost")[0]["threads"] == 1
    assert not (work(path) / "cost/checkpoints").exists(), "a finished stage's checkpoints are freed"


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    path = job(tmp_path)
    gate = tmp_path / "gate"
    process = start(path, {"sft": {"wait": str(gate)}}, ignore=signal.SIGHUP)
    process.until(lambda: started(path, "sft"))
    process.send_signal(signal.SIGHUP)
    gate.touch()
    assert process.end().code == 0


def test_a_second_signal_kills(tmp_path: Path) -> None:
    path = job(tmp_path)
    process = start(path, {"sft": {"wait": str(tmp_path / "gate"), "hang": True, "children": 2}})
    process.until(lambda: started(path, "sft") and (work(path) / "sft/children").exists())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # two of a kind may arrive as one
    ran = process.end()
    assert ran.code == 130
    assert not running(starts(path, "sft")[0]["pid"])
    assert not any(running(int(pid)) for pid in (work(path) / "sft/children").read_text().split())


def test_a_killed_runner_leaves_no_orphan_and_its_stages_save(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    waiting = {"wait": str(tmp_path / "gate"), "children": 2}
    process = start(path, {"reward": waiting, "cost": waiting})
    process.until(lambda: all((work(path) / stage / "children").exists() for stage in ("reward", "cost"))
          if started(path, "cost") else False)  # fmt: skip
    ranks = [int(pid) for stage in ("reward", "cost") for pid in (work(path) / stage / "children").read_text().split()]
    process.kill()
    again = run(path)  # waits until they have saved
    assert again.code == 0, again.said
    assert not any(running(pid) for pid in ranks)
    assert again.result["stages"]["reward"]["attempt"] == 2
    assert len(starts(path, "sft")) == 1


def test_a_second_run_of_the_same_job_is_refused_while_one_lives(tmp_path: Path) -> None:
    path = job(tmp_path)
    gate = tmp_path / "gate"
    process = start(path, {"sft": {"wait": str(gate)}})
    process.until(lambda: started(path, "sft"))
    second = run(path)
    gate.touch()
    assert process.end().code == 0
    assert second.code == 1
    assert f"process {process.pid} is running this job" in second.said


def test_lost_memory_costs_nothing_but_a_look(tmp_path: Path) -> None:
    """Without state.json the products are found by their digests, and attempts go on counting from their traces."""
    path = job(tmp_path)
    run(path)
    (work(path) / "state.json").unlink()
    ran = run(path)
    assert ran.code == 0, ran.said
    assert ran.phases()["sft"] == "Reused"
    assert ran.result["stages"]["prepare"]["attempt"] == 2


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("pending", "Waiting"),
        ("running", "Running"),
        ("done", "Complete"),
        ("stopped", "Suspended"),
        ("blocked", "Skipped"),
    ],
)
def test_what_an_earlier_version_wrote_is_read(tmp_path: Path, phase: str, state: str) -> None:
    path = tmp_path / "state.json"
    stage = {"phase": phase, "attempt": 2, "threads": 3}
    path.write_text(json.dumps({"job": "beaver", "uid": "beaver-0a", "jobFile": "job.yaml", "stages": {"sft": stage}}))
    run_state = load(path)
    assert run_state is not None
    assert (run_state.stages["sft"].state, run_state.stages["sft"].attempt) == (state, 2)


@pytest.mark.parametrize(
    ("earlier", "phase"),
    [("running", "Running"), ("done", "Complete"), ("failed", "Failed"), ("stopped", "Suspended")],
)
def test_how_a_run_of_an_earlier_version_stands_is_read(tmp_path: Path, earlier: str, phase: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"job": "beaver", "uid": "beaver-0a", "jobFile": "job.yaml", "phase": earlier}))
    run_state = load(path)
    assert run_state is not None
    assert run_state.phase == phase


def test_an_unreadable_state_is_explained(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    (work(path) / "state.json").write_text("{")
    ran = run(path)
    assert ran.code == 1
    assert "state.json: not a state this version can read" in ran.said


def test_an_edited_job_computes_only_what_changed(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    run(path)
    path.write_text(path.read_text().replace("costModel: {", "costModel: {epochs: 2, "))
    ran = run(path)
    assert ran.phases() == {
        "prepare": "Complete", "sft": "Reused", "reward": "Reused", "cost": "Complete", "report": "Complete"
    }  # fmt: skip


def test_what_was_computed_for_another_digest_is_not_mixed_with_the_new(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    assert (work(path) / "sft/metrics.jsonl").read_text().count("\n") == 2
    path.write_text(path.read_text().replace("sft: {", "sft: {epochs: 2, "))
    run(path)
    assert (work(path) / "sft/metrics.jsonl").read_text().count("\n") == 2
    assert (work(path) / "sft/logs/a1/rank0.log").exists()


def test_fresh_makes_anew_what_only_this_job_uses(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    ran = run(path, fresh=True)
    assert ran.code == 0, ran.said
    assert ran.phases()["sft"] == "Complete"


def test_the_deadline_stops_the_stages_and_fails_the_job(tmp_path: Path) -> None:
    path = job(tmp_path, more="  activeDeadlineSeconds: 12\n")
    ran = run(path, {"sft": {"wait": str(tmp_path / "gate")}})
    assert ran.code == 1
    assert ran.phases() == {"prepare": "Complete", "sft": "Failed", "report": "Complete"}
    assert ran.result["stages"]["sft"]["reason"] == "DeadlineExceeded"
    assert "activeDeadlineSeconds: 12 s of running time have passed" in ran.said


def test_a_suspended_job_is_not_run(tmp_path: Path) -> None:
    ran = run(job(tmp_path, more="  suspend: true\n"))
    assert ran.code == 2
    assert "spec.suspend is true" in ran.said
    assert not (tmp_path / ".rlhf" / "products").exists()


@pytest.mark.parametrize("keep", ["products", "everything"])
def test_what_the_run_policy_keeps(tmp_path: Path, keep: str) -> None:
    path = job(tmp_path, more=f"  runPolicy: {{keep: {keep}}}\n")
    process = start(path, {"sft": {"wait": str(tmp_path / "gate")}})
    process.until(lambda: started(path, "sft"))
    process.send_signal(signal.SIGTERM)
    process.end()
    assert (work(path) / "sft/checkpoints").exists()
    run(path)
    assert (work(path) / "sft/checkpoints").exists() is (keep == "everything")
    assert (work(path) / "sft/states.bin").exists() is (keep == "everything")
    assert (work(path) / "sft/logs/a1/rank0.log").exists()
    assert (work(path) / "sft/metrics.jsonl").exists()


def test_killed_again_and_again_at_any_moment_it_converges(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    for seconds in (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        process = start(path, {"*": {"steps": 3, "pace": 0.01}})
        process.wait(seconds)
        process.kill()
    ran = run(path)
    assert ran.code == 0, ran.said
    assert all(phase in ("Complete", "Reused") for phase in ran.phases().values())
    undisturbed = job(tmp_path / "other", SIDE_BY_SIDE)
    run(undisturbed)
    products = sorted(folder.name for folder in (path.parent / ".rlhf/products").glob("[a-z]*"))
    assert products == sorted(folder.name for folder in (undisturbed.parent / ".rlhf/products").glob("[a-z]*"))
