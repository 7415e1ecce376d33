"""How an attempt on this machine ended."""

from __future__ import annotations

import pytest

from rlhf_api.contract import DEADLINE, SIBLING_FAILED, SUSPENDED
from rlhf_api.lifecycle import AttemptResult
from rlhf_sdk.local.attempts import result_of
from rlhf_sdk.local.files import Termination

SILENT = Termination()
STOP = (SUSPENDED, "stopped on request")


def test_exit_0_with_its_product_is_complete() -> None:
    assert result_of(0, SILENT) == AttemptResult("Complete", exit_code=0)


def test_a_product_that_another_run_made_meanwhile_is_reused() -> None:
    assert result_of(0, Termination("Reused")) == AttemptResult("Complete", "Reused", exit_code=0)


def test_exit_0_without_a_product_is_a_failure() -> None:
    result = result_of(0, SILENT, wrong="it made no product")
    assert (result.state, result.reason, result.message) == ("Failed", "NoProduct", "it made no product")


@pytest.mark.parametrize("code", [2, 3])
@pytest.mark.parametrize("stop", [None, STOP])
def test_wrong_input_and_guards_are_final_also_while_it_stops(code: int, stop: tuple[str, str] | None) -> None:
    result = result_of(code, Termination("KL", "mean KL 50 > 40"), stop=stop)
    assert result == AttemptResult("Failed", "KL", "mean KL 50 > 40", code, final=True)


def test_a_checkpoint_of_other_ranks_may_be_put_right() -> None:
    assert not result_of(2, Termination("WorldSizeChanged", "x")).final


@pytest.mark.parametrize("code", [1, 75, 137, 139])
def test_any_other_end_is_a_failure_that_another_attempt_may_mend(code: int) -> None:
    result = result_of(code, SILENT)
    assert (result.state, result.final, result.exit_code) == ("Failed", False, code)


@pytest.mark.parametrize("code", [75, 143, 1])
@pytest.mark.parametrize("reason", [SUSPENDED, SIBLING_FAILED])
def test_one_that_was_asked_to_stop_has_stopped(code: int, reason: str) -> None:
    assert result_of(code, SILENT, stop=(reason, "words")).state == "Stopped"


def test_one_that_finished_when_asked_to_stop_is_complete() -> None:
    assert result_of(0, SILENT, stop=STOP).state == "Complete"


def test_the_deadline_is_a_failure_however_the_stage_took_it() -> None:
    result = result_of(75, SILENT, stop=(DEADLINE, "activeDeadlineSeconds"))
    assert result == AttemptResult("Failed", DEADLINE, "activeDeadlineSeconds", final=True)


def test_a_kill_is_explained() -> None:
    result = result_of(137, SILENT)
    assert result.reason == "SIGKILL"
    assert "memory" in result.message
