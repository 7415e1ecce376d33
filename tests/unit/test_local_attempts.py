"""What the end of an attempt means."""

from __future__ import annotations

import pytest

from rlhf_sdk.local.attempts import judge
from rlhf_sdk.local.files import Termination
from rlhf_sdk.local.state import StageState

RUNNING = StageState(phase="running", attempt=1)
SILENT = Termination()


def test_exit_0_with_its_product_is_done() -> None:
    verdict = judge(RUNNING, 0, SILENT, None, asked=False, restarts=3)
    assert (verdict.changes["phase"], verdict.restart) == ("done", False)


def test_a_product_that_another_run_made_meanwhile_is_reused() -> None:
    assert judge(RUNNING, 0, Termination("Reused"), None, asked=False, restarts=3).changes["phase"] == "reused"


def test_exit_0_without_a_product_is_a_failure() -> None:
    verdict = judge(RUNNING, 0, SILENT, "it made no product", asked=False, restarts=0)
    assert verdict.changes["phase"] == "failed"
    assert verdict.changes["message"] == "it made no product"


@pytest.mark.parametrize("code", [2, 3])
def test_wrong_input_and_guards_are_never_tried_again(code: int) -> None:
    verdict = judge(RUNNING, code, Termination("KL", "mean KL 50 > 40"), None, asked=False, restarts=9)
    assert (verdict.changes["phase"], verdict.restart) == ("failed", False)
    assert (verdict.changes["reason"], verdict.changes["message"]) == ("KL", "mean KL 50 > 40")


@pytest.mark.parametrize("code", [1, 75, 137, 139])
def test_any_other_end_is_tried_again_as_often_as_allowed(code: int) -> None:
    first = judge(RUNNING, code, SILENT, None, asked=False, restarts=1)
    assert (first.changes["phase"], first.changes["restarts"], first.restart) == ("pending", 1, True)
    again = RUNNING.model_copy(update={"restarts": 1})
    assert judge(again, code, SILENT, None, asked=False, restarts=1).changes["phase"] == "failed"


@pytest.mark.parametrize("code", [75, 143, 1])
def test_one_that_was_asked_to_stop_has_stopped(code: int) -> None:
    assert judge(RUNNING, code, SILENT, None, asked=True, restarts=3).changes["phase"] == "stopped"


def test_one_that_finished_when_asked_to_stop_is_done() -> None:
    assert judge(RUNNING, 0, SILENT, None, asked=True, restarts=3).changes["phase"] == "done"


def test_a_guard_that_trips_while_stopping_has_tripped() -> None:
    assert judge(RUNNING, 3, Termination("KL", "x"), None, asked=True, restarts=3).changes["phase"] == "failed"


def test_a_kill_is_explained() -> None:
    changes = judge(RUNNING, 137, SILENT, None, asked=False, restarts=0).changes
    assert changes["reason"] == "SIGKILL"
    assert "memory" in changes["message"]
