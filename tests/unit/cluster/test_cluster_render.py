"""What `rlhf status` makes of a job's .status."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from fakes.cluster_jobs import GAVE_UP, INVALID, QUEUED, RUNNING, SUCCEEDED, Status, failed, job
from rlhf_sdk.cluster import render
from rlhf_sdk.cluster.jobs import ClusterJob
from rlhf_sdk.cluster.watch import lines
from rlhf_sdk.exits import CommandError, Exit

NOW = datetime(2026, 1, 31, 12, 15, 30, tzinfo=UTC)


def shown(cluster_job: ClusterJob) -> list[str]:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(render.table(cluster_job, NOW))
    text = [*render.title(cluster_job, NOW), *captured.get().splitlines(), *render.messages(cluster_job)]
    return [line.rstrip() for line in text]


def test_a_running_job_is_a_tree_of_stages_and_attempts() -> None:
    assert shown(job(RUNNING)) == [
        "beaver: Running  1/3 stages  15:30  namespace team-a",
        "STAGE    STATE            STEP    TIME   ETA    NODE   WHY                     HEADLINE",
        "prepare  Complete",
        "└─ a0    Complete                 4:00          cpu-1",
        "sft      Running          40/120  15:30  10:02         1 restart               loss 0.312",
        "├─ a0    Disrupted                4:00          gpu-1  Evicted, 12 steps lost",
        "├─ a1    Failed (counts)  33      4:00          gpu-2  Crashed, exit 1",
        "└─ a2    Running                  5:30          gpu-3",
        "report   Waiting",
        "sft a0: Evicted: Preempting: for another",
        "sft a1: Crashed: rank 1 was killed (pod beaver-sft-1)",
    ]


def recorded(name: str) -> ClusterJob:
    """A job as the operator left it on a real API server."""
    return ClusterJob.of(json.loads((Path(__file__).parent / "cluster_statuses" / f"{name}.json").read_text()))


def test_a_recorded_failure() -> None:
    cluster_job = recorded("failed")
    assert (cluster_job.ended, cluster_job.exit) == (True, Exit.REFUSED)
    assert [
        line for line in shown(cluster_job) if not line.startswith(("├─ a1", "STAGE", "prepare", "reward", "report"))
    ] == [
        "beaver: Failed  4/5 stages  0:28  namespace t28676-0",
        "└─ a0    Complete         7     0:01       stand-in",
        "sft      Complete               0:18                 1 restart",
        "├─ a0    Failed (counts)  7     0:01       stand-in  Crashed, exit 1",
        "└─ a2    Complete         7     0:04       stand-in",
        "└─ a0    Complete         7     0:02       stand-in",
        "cost     Failed                 0:05                 Crashed",
        "└─ a0    Failed           7     0:03       stand-in  Crashed, exit 3",
        "└─ a0    Complete         7     0:01       stand-in",
        "sft a0: Crashed: code 1 (pod beaver-sft-490ab06e-a0-1-m5g4k)",
        "sft a1: Suspended: stopped on request (spec.suspend)",
        "cost: Crashed: code 3 (pod beaver-cost-8b65900c-a0-0-67prm on stand-in, exit code 3)",
    ]


@pytest.mark.parametrize(
    ("name", "ended", "first"),
    [
        ("restarted", False, "beaver: Running  1/5 stages"),
        ("suspended", False, "beaver: Suspended  1/5 stages"),
        ("succeeded", True, "beaver: Complete  5/5 stages  0:39"),
        ("invalid", True, "beaver: Invalid"),
    ],
)
def test_recorded_jobs(name: str, ended: bool, first: str) -> None:
    cluster_job = recorded(name)
    assert cluster_job.ended is ended
    assert shown(cluster_job)[0].startswith(first)
    assert set(render.as_json(cluster_job, NOW)["stages"]) == {stage.name for stage in cluster_job.status.stages}


def test_why_a_job_waits_is_said_whole() -> None:
    text = shown(job(QUEUED))
    assert text[0].startswith("beaver: Pending  0/3 stages")
    assert text[-1] == "prepare: Pending: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."


def test_a_failure_is_said_once() -> None:
    text = shown(job(GAVE_UP))
    assert sum("most often because memory ran out" in line for line in text) == 1
    assert text[-1].startswith("sft: OOMKilled: rank 0 was killed by SIGKILL")
    assert "└─ a3    Failed (counts)        4:00       n1     OOMKilled, exit 137" in text


def test_a_refused_spec_is_said_with_its_path() -> None:
    assert list(render.title(job(INVALID), NOW)) == [
        "beaver: Invalid  namespace team-a",
        "  InvalidSpec: spec.profile: there is no profile h100 (did you mean a100?)",
    ]


def test_a_job_that_nobody_has_seen_says_so() -> None:
    assert list(render.title(job(None), NOW)) == ["beaver: Pending, not seen by the operator yet  namespace team-a"]


def test_what_was_asked_for_and_not_done_yet_is_said() -> None:
    assert "beaver: Running, suspending" in next(render.title(job(RUNNING, suspend=True), NOW))
    assert "beaver: Failed, retry asked for" in next(render.title(job(GAVE_UP, retry="1"), NOW))


def test_json_has_the_keys_that_a_run_on_this_machine_has_and_the_attempts() -> None:
    output = render.as_json(job(RUNNING), NOW)
    assert (output["job"], output["phase"], output["exitCode"], output["live"]) == ("beaver", "Running", None, True)
    stage = output["stages"]["sft"]
    assert [attempt["state"] for attempt in stage["attempts"]] == ["Disrupted", "Failed", "Running"]
    assert (stage["attempt"], stage["step"], stage["total"], stage["etaSeconds"]) == (2, 40, 120, 602.0)
    assert stage["attempts"][1]["exitCode"] == 1
    assert output["conditions"]["Ready"]["status"] == "True"
    assert render.as_json(job(SUCCEEDED), NOW)["exitCode"] == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (SUCCEEDED, Exit.DONE),
        (INVALID, Exit.INVALID),
        (GAVE_UP, Exit.FAILED),
        (failed("InvalidInput", 2), Exit.INVALID),
        (failed("KL", 3), Exit.REFUSED),
        (failed("GateFailed", None), Exit.REFUSED),
        (failed("DeadlineExceeded", None), Exit.FAILED),
    ],
)
def test_an_end_has_the_exit_code_that_the_job_would_have_here(status: Status, code: Exit) -> None:
    assert job(status).ended
    assert job(status).exit is code


def test_what_the_operator_has_not_seen_is_no_end() -> None:
    assert not job(RUNNING).ended
    assert not job(INVALID, generation=2).ended, "the spec was changed since"
    assert not job(GAVE_UP, retry="2").ended, "a retry was asked for"
    assert job({**GAVE_UP, "retry": "2"}, retry="2").ended, "it failed again"


def test_a_status_of_a_newer_operator_is_refused_in_words() -> None:
    with pytest.raises(CommandError, match=r"beaver: status.phase: .*newer operator"):
        job({"phase": "Levitating"})


def test_changes_are_told_a_line_each() -> None:
    assert lines(job(RUNNING)) == {
        "": "beaver: Running",
        "prepare": "prepare: Complete",
        "sft": "sft: Running, attempt 2",
    }
    assert lines(job(QUEUED))["prepare"] == (
        "prepare: Pending: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."
    )
    assert lines(job(INVALID))["Stalled"].startswith("beaver: InvalidSpec: spec.profile: there is no profile h100")


@pytest.mark.parametrize(
    ("annotation", "expected"), [(None, False), ("3", True), ("2", False), ("1", False), ("0", False)]
)
def test_a_retry_is_asked_for_by_a_value_that_was_never_acted_on(annotation: str | None, expected: bool) -> None:
    """A GitOps tool that puts back an older value asks for nothing: the job has failed, and stays so."""
    raw = {"metadata": {"name": "beaver", "annotations": {} if annotation is None else {"rlhf.dev/retry": annotation}}}
    status = {"phase": "Failed", "retry": "2", "retries": ["0", "1", "2"]}
    assert ClusterJob.of({**raw, "status": status}).retrying is expected
