"""A pod's termination message may be anything: it is shown, and hinders nothing."""

from __future__ import annotations

import json

import orjson
import pytest

from fakes.cluster_model import Cluster, Raw, job
from rlhf_operator.reconcile.observed.pods import Pod, TerminationSummary


def summary_of(message: str) -> TerminationSummary:
    state = {"terminated": {"exitCode": 1, "message": message}}
    raw: Raw = {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"name": "trainer", "state": state}]}}
    return Pod(raw).summary


@pytest.mark.parametrize(
    "message",
    [
        '{"raised": 1e400}',
        '{"raised": ' + "9" * 400 + "}",
        '{"a": ' * 700,
        '{"message": "\\ud800"}',
        '{"step": NaN}',
        '{"reason": "Crashed", "mess',
    ],
)
def test_a_summary_that_cannot_be_read_is_shown_and_said_to_be_that(message: str) -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 0}))
    cluster.settle(lambda _: None)
    cluster.end_pod(cluster.pods()[0]["metadata"]["name"], 1, message=message)
    cluster.settle()
    assert cluster.status["phase"] == "Failed"
    attempt = cluster.stage("prepare")["attempts"][0]
    assert attempt["message"].startswith("its summary cannot be read: " + message[:100])
    orjson.dumps(cluster.status)  # what the API server is sent


@pytest.mark.parametrize("message", ["[" * 4000, "[2026-03-01 12:00:00] killed", "killed", ""])
def test_the_last_lines_of_a_log_are_no_summary(message: str) -> None:
    assert summary_of(message) == TerminationSummary(message=message)


@pytest.mark.parametrize("step", [True, -1, 2**53, 2**64 - 1, 2**70, 1.5, "7"])
def test_a_step_that_is_none_is_not_taken_over(step: object) -> None:
    assert summary_of(json.dumps({"step": step, "reason": "Crashed"})) == TerminationSummary(reason="Crashed")
