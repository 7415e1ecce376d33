"""One exit code of many ranks, and a summary that fits a termination message."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.stage_file import StageFile
from rlhf_trainer.exits import GuardTripped, InputError, StageError, Stopped, StorageFull
from rlhf_trainer.runtime.termination import MAX_BYTES, RankEnd, StageResult, judge, of_error, summary, write_summary


def end(rank: int, code: int, reason: str = "", message: str = "", time: float = 1.0, **more) -> RankEnd:
    report = {"code": code, "reason": reason, "message": message, "time": time, **more} if reason else None
    return RankEnd(rank, code, report)


def verdict(*ends: RankEnd, stop_requested: bool = False, grace_over: bool = False) -> StageResult:
    return judge(list(ends), stop_requested=stop_requested, grace_over=grace_over, grace=60)


DONE = {"code": 0, "reason": "Done", "message": "done"}
KILLED_BY_US = RankEnd(1, -signal.SIGKILL, None, killed_by_us=True)


def test_all_done_is_0():
    out = verdict(end(0, 0, "Done", step=7, headline={"loss": 0.5}), end(1, 0, "Done"))
    assert (out.code, out.step, out.headline) == (0, 7, {"loss": 0.5})


@pytest.mark.parametrize(("code", "reason"), [(2, "InvalidInput"), (3, "KL")])
def test_wrong_input_and_guards_on_any_rank_win_over_what_follows_from_them(code, reason):
    out = verdict(end(1, 1, "RuntimeError", "connection closed by peer", 0.5), end(0, code, reason, "why"))
    assert (out.code, out.reason, out.message) == (code, reason, "why")


def test_an_exit_code_of_2_without_a_message_is_a_crash_not_wrong_input():
    assert verdict(end(0, 2)).code == 1


def test_a_rank_killed_by_the_system_is_named_before_the_ranks_that_lost_it():
    out = verdict(end(0, 1, "RuntimeError", "connection closed by peer"), end(1, -signal.SIGKILL))
    assert (out.code, out.reason) == (1, "Killed")
    assert "rank 1 was killed by SIGKILL" in out.message
    assert "OOMKilled" in out.message


def test_of_two_exceptions_the_earlier_is_the_cause():
    out = verdict(end(0, 1, "RuntimeError", "connection closed", 20.0), end(1, 1, "KeyError", "'x'", 10.0))
    assert out.message == "rank 1: 'x'"


def test_when_it_was_raised_is_told_so_that_a_gang_finds_who_began_and_a_killed_rank_raised_nothing():
    lost = end(0, 1, "RuntimeError", "connection closed", 20.0)
    assert verdict(lost, end(1, 1, "KeyError", "'x'", 10.0)).raised == 10.0
    assert verdict(lost, end(1, -signal.SIGKILL)).raised is None


def test_a_segmentation_fault_is_named():
    assert "killed by SIGSEGV" in verdict(end(0, -signal.SIGSEGV)).message


def test_stopped_on_every_rank_is_75():
    out = verdict(end(0, 75, "Stopped", "stopped after step 3", step=3), end(1, 75, "Stopped"), stop_requested=True)
    assert (out.code, out.message, out.step) == (75, "stopped after step 3", 3)


def test_a_rank_that_sigterm_ended_before_its_handler_was_in_place_is_stopped():
    assert verdict(end(0, -signal.SIGTERM), stop_requested=True).code == 75
    assert verdict(end(0, -signal.SIGTERM), stop_requested=False).code == 1


def test_ranks_that_hang_after_a_rank_failed_do_not_hide_it():
    out = verdict(end(0, 1, "ValueError", "a bug"), KILLED_BY_US)
    assert (out.code, out.message) == (1, "rank 0: a bug")


def test_a_rank_that_did_not_follow_the_others_is_a_failure_not_done():
    assert verdict(end(0, 0, "Done"), KILLED_BY_US).code == 1


def test_no_checkpoint_within_the_grace_period_is_a_failure():
    out = verdict(RankEnd(0, -9, None, True), KILLED_BY_US, stop_requested=True, grace_over=True)
    assert (out.code, out.reason) == (1, "GraceExceeded")
    assert "60 s" in out.message


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("x"), 2), (GuardTripped("x"), 3), (Stopped("x"), 75), (StageError("x"), 1), (StorageFull("x"), 1)],
)
def test_every_error_carries_its_exit_code(error, code):
    assert of_error(error).code == code


@pytest.fixture
def file(tmp_path) -> StageFile:
    work = tmp_path / "work"
    work.mkdir()
    directories = {"storage": str(tmp_path), "work": str(work), "job": str(tmp_path)}
    return StageFile.model_validate(
        {
            "version": "1",
            "job": "job",
            "uid": "uid",
            "stage": "s" * 40,
            "type": "rewardModel",
            "digest": "d",
            "spec": {},
            "seed": 0,
            "execution": {},
            "directories": directories,
        }
    )


@pytest.mark.parametrize("labels", [0, 5, 200])
@given(message=st.text(max_size=5000))
def test_the_summary_fits_a_termination_message(labels, message):
    file = StageFile.model_construct(stage="s" * 40, type="rewardModel", attempt=3)
    headline = {f"cost.{'x' * 30}{number}": 1 / 3 for number in range(labels)}
    content = summary(file, StageResult(1, "Crashed", message, 12, headline))
    assert len(content) <= MAX_BYTES
    termination = json.loads(content)
    assert (termination["code"], termination["step"]) == (1, 12)
    shortened = termination["message"]
    assert shortened == message or (shortened.endswith(" ...") and message.startswith(shortened.removesuffix(" ...")))
    assert shortened == message or len(message) > 150


def test_what_prepare_resolved_is_kept_before_a_long_message(file):
    termination = json.loads(summary(file, StageResult(0, "Done", "m" * 5000, result={"inputs": "i" * 1200})))
    assert termination["result"] == {"inputs": "i" * 1200}


def test_the_summary_is_written_where_the_executor_reads_it(file, tmp_path):
    message = tmp_path / "termination-log"
    message.touch()
    directories = file.directories.model_copy(update={"termination_message": str(message)})
    write_summary(file.model_copy(update={"directories": directories}), StageResult(3, "KL", "too far"))
    assert json.loads(message.read_bytes())["reason"] == "KL"
    assert (tmp_path / "work" / "termination.json").read_bytes() == message.read_bytes()


def test_every_pod_tells_how_it_ended_and_the_first_writes_what_they_share(file, tmp_path):
    """A gang's other pods fail for what one of them knows, and that may be any."""
    message = tmp_path / "termination-log"
    directories = file.directories.model_copy(update={"termination_message": str(message)})
    write_summary(
        file.model_copy(update={"directories": directories}), StageResult(1, "Killed", "by SIGKILL"), lead=False
    )
    assert json.loads(message.read_bytes())["reason"] == "Killed"
    assert not (tmp_path / "work" / "termination.json").exists()


def test_a_summary_that_cannot_be_written_is_in_the_log(file, caplog):
    gone = file.directories.model_copy(update={"work": str(Path(file.directories.work) / "stage.json")})
    Path(gone.work).write_text("a file where a folder should be")
    write_summary(file.model_copy(update={"directories": gone}), StageResult(1, "Crashed", "the reason"))
    assert "the reason" in caplog.text
