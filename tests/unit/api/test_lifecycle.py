"""How a job goes on, and what the end of an attempt means: what operator and local runner both ask."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.plans import SAFE, planned, plans, stage
from rlhf_api import lifecycle
from rlhf_api.contract import BUSY, COMPLETE, STARTABLE
from rlhf_api.lifecycle import (
    DECISIONS,
    AttemptResult,
    RetryBudget,
    StageRecord,
    Wish,
    decide,
    describe_exit,
    next_actions,
    restores_budget,
)
from rlhf_api.plan import Plan

ALL = ("prepare", "sft", "reward", "cost", "ppo", "report")


def records(plan: Plan = SAFE, **states: Any) -> dict[str, StageRecord]:
    return {
        stage.name: StageRecord(
            states.get(stage.name, "Waiting"), 0 if states.get(stage.name) in (None, "Skipped") else 1
        )
        for stage in plan.stages
    }


def test_a_failure_stops_the_others_then_the_report_tells() -> None:
    failed = records(prepare="Complete", sft="Complete", reward="Failed", cost="Running")
    actions = next_actions(SAFE, failed, "run")
    assert (list(actions.stop), list(actions.skip), actions.start) == (["cost"], ["ppo"], ())
    assert actions.stop["cost"] == ("SiblingFailed", "stopped, because reward failed")
    assert actions.skip["ppo"] == ("Blocked", "not run, because reward failed")
    after = records(prepare="Complete", sft="Complete", reward="Failed", cost="Skipped", ppo="Skipped")
    assert next_actions(SAFE, after, "run").start == ("report",)
    reported = records(
        prepare="Complete", sft="Complete", reward="Failed", cost="Skipped", ppo="Skipped", report="Complete"
    )
    assert next_actions(SAFE, reported, "run").end == "Failed"


def test_a_stage_that_waited_for_its_restart_when_another_failed_was_stopped_not_blocked() -> None:
    waiting = records(prepare="Complete", sft="Complete", reward="Failed") | {"cost": StageRecord("Waiting", 2, 1)}
    assert {name: reason for name, (reason, _) in next_actions(SAFE, waiting, "run").skip.items()} == {
        "cost": "Stopped",
        "ppo": "Blocked",
    }


def test_without_what_prepare_found_there_is_nothing_to_report() -> None:
    actions = next_actions(SAFE, records(prepare="Failed"), "run")
    assert (actions.start, list(actions.skip)) == ((), ["sft", "reward", "cost", "ppo", "report"])
    skipped = records(prepare="Failed", **dict.fromkeys(ALL[1:], "Skipped"))
    assert next_actions(SAFE, skipped, "run").end == "Failed"


def test_a_stop_starts_nothing_and_rests_when_nothing_runs() -> None:
    running = next_actions(SAFE, records(prepare="Complete", sft="Complete", reward="Running"), "suspend")
    assert (running.start, list(running.stop), running.end) == ((), ["reward"], None)
    assert next_actions(SAFE, records(prepare="Complete", sft="Suspended"), "suspend").end == "Suspended"


@pytest.mark.parametrize("wish", ["run", "suspend", "fail"])
def test_when_all_is_complete_nothing_changes_it(wish: Wish) -> None:
    assert next_actions(SAFE, records(**dict.fromkeys(ALL, "Complete")), wish).end == "Complete"


def test_a_deadline_stops_what_runs_and_the_report_tells_of_it() -> None:
    actions = next_actions(SAFE, records(prepare="Complete", sft="Running"), "fail", 60)
    assert actions.stop == {"sft": ("DeadlineExceeded", "activeDeadlineSeconds: 60 s of active time have passed")}
    assert (actions.start, actions.fail) == ((), {})
    after = records(prepare="Complete", sft="Failed", **dict.fromkeys(("reward", "cost", "ppo"), "Skipped"))
    assert next_actions(SAFE, after, "fail").start == ("report",)


def test_a_deadline_that_passes_between_two_stages_fails_the_next_one() -> None:
    actions = next_actions(SAFE, records(prepare="Complete", sft="Complete"), "fail", 60)
    assert (list(actions.fail), actions.start) == (["reward"], ())


def test_a_product_that_prepare_found_needs_no_attempt() -> None:
    from dataclasses import replace

    stages = tuple(replace(stage, hit=stage.name in ("sft", "ppo")) for stage in SAFE.stages)
    assert next_actions(Plan("job", stages), records(prepare="Complete"), "run").reuse == ("sft", "ppo")


@given(plans(), st.data())
def test_every_job_comes_to_its_end_whatever_happens(plan: Plan, data: st.DataObject) -> None:
    """Stages end in any order and any way, the user suspends and resumes, the deadline passes at any moment."""
    now = {stage.name: StageRecord("Waiting") for stage in plan.stages}
    wish: Wish = "run"
    for turn in range(12 * len(plan.stages)):
        if turn < 6 * len(plan.stages):
            wish = data.draw(st.sampled_from(["run", "run", "run", "suspend", "fail" if turn else "run"]))
        elif wish == "suspend":
            wish = "run"
        actions = next_actions(plan, now, wish)
        assert not (set(actions.start) & {name for name, stage in now.items() if stage.state not in STARTABLE})
        assert set(actions.stop) <= {name for name, stage in now.items() if stage.state in BUSY}
        for name in actions.skip:
            now[name] = StageRecord("Skipped", now[name].attempts)
        for name in actions.fail:
            now[name] = StageRecord("Failed")
        if actions.skip or actions.fail:
            continue
        if actions.end in ("Complete", "Failed"):
            assert all(stage.state in (*COMPLETE, "Failed", "Skipped") for stage in now.values())
            assert (actions.end == "Failed") == any(stage.state == "Failed" for stage in now.values())
            report = now[plan.stages[-1].name].state
            assert report != "Skipped" or not now["prepare"].complete, "a job that prepared has its report"
            return
        for name in actions.start:
            failing = any(stage.state == "Failed" for stage in now.values())
            needed = plan.stage(name).needs
            assert name == "report" if failing else all(now[need].complete for need in needed)
            now[name] = StageRecord("Running", now[name].attempts + 1)
        busy = [name for name, stage in now.items() if stage.state in BUSY]
        if not busy:
            assert actions.end == "Suspended", "nothing runs, and it does not end"
            continue
        name = data.draw(st.sampled_from(busy))
        stop = actions.stop.get(name, ("", ""))[0]
        results: dict[str, list[Literal["Complete", "Failed", "Disrupted", "Stopped"]]] = {
            "": ["Complete", "Complete", "Failed", "Disrupted"],
            "DeadlineExceeded": ["Failed"],
        }
        result = AttemptResult(data.draw(st.sampled_from(results.get(stop, ["Stopped", "Complete"]))))
        still_needed = name == "report" or not any(
            stage.state == "Failed" for key, stage in now.items() if key != "report"
        )
        budget = RetryBudget(
            now[name].restarts, 1, disruptions=now[name].attempts, max_disruptions=4, needed=still_needed
        )
        if stop == "DeadlineExceeded":
            result = AttemptResult("Failed", final=True)
        states: Any = {"complete": "Complete", "suspend": "Suspended", "skip": "Skipped"}
        verdict = decide(result, budget)
        retried = verdict in ("retry", "retry uncounted")
        restarts = now[name].restarts + (verdict == "retry")
        now[name] = StageRecord(states.get(verdict, "Waiting" if retried else "Failed"), now[name].attempts, restarts)
    raise AssertionError("the job has not come to its end")


def test_two_stages_of_a_chain_are_never_ready_together() -> None:
    chain = planned(stage("a", "prepare"), stage("b", "prepare", "a"))
    assert next_actions(chain, records(chain, prepare="Complete"), "run").start == ("a",)


# What the end of an attempt means

FRESH = RetryBudget(restarts=0, max_restarts=3, disruptions=1, max_disruptions=8)


@pytest.mark.parametrize(
    ("result", "budget", "verdict"),
    [
        (AttemptResult("Complete"), FRESH, "complete"),
        (AttemptResult("Stopped"), FRESH, "suspend"),
        (AttemptResult("Stopped"), RetryBudget(0, 3, needed=False), "skip"),
        (AttemptResult("Disrupted"), FRESH, "retry uncounted"),
        (AttemptResult("Disrupted"), RetryBudget(3, 3, 7, 8), "retry uncounted"),
        (AttemptResult("Disrupted"), RetryBudget(0, 3, 8, 8), "fail: disrupted too often"),
        (AttemptResult("Disrupted"), RetryBudget(0, 3, 8, 8, needed=False), "skip"),
        (AttemptResult("Failed"), FRESH, "retry"),
        (AttemptResult("Failed"), RetryBudget(3, 3), "fail"),
        (AttemptResult("Failed"), RetryBudget(0, 0), "fail"),
        (AttemptResult("Failed", final=True), FRESH, "fail"),
        (AttemptResult("Failed"), RetryBudget(0, 3, needed=False), "fail"),
    ],
)
def test_what_follows_the_end_of_an_attempt(result: AttemptResult, budget: RetryBudget, verdict: str) -> None:
    assert decide(result, budget) == verdict


ENDS: tuple[Literal["Complete", "Failed", "Disrupted", "Stopped"], ...] = ("Complete", "Failed", "Disrupted", "Stopped")
CASES = [
    (AttemptResult(state, final=final), RetryBudget(restarts, 1, disruptions, 2, needed))
    for state in ENDS
    for final in (False, True)
    for restarts in (0, 1)
    for disruptions in (0, 2)
    for needed in (True, False)
]


@pytest.mark.parametrize("row", range(len(DECISIONS)))
def test_no_row_of_the_table_hides_another(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the row some end has another verdict, or none."""
    before = [decide(result, budget) for result, budget in CASES]
    monkeypatch.setattr(lifecycle, "DECISIONS", DECISIONS[:row] + DECISIONS[row + 1 :])

    def verdict(result: AttemptResult, budget: RetryBudget) -> str | None:
        try:
            return decide(result, budget)
        except StopIteration:
            return None

    assert [verdict(result, budget) for result, budget in CASES] != before


@pytest.mark.parametrize(
    ("seconds", "step", "furthest", "restored"),
    [
        (7200, 200, 100, True),
        (7200, 200, None, True),
        (700, 200, 100, False),
        (7200, 100, 100, False),
        (7200, None, None, False),
    ],
)
def test_long_progress_gives_the_restarts_back(
    seconds: float, step: int | None, furthest: int | None, restored: bool
) -> None:
    assert restores_budget(seconds, step, furthest) is restored


@pytest.mark.parametrize(
    ("code", "words"), [(137, "SIGKILL"), (139, "SIGSEGV"), (1, "exit code 1"), (250, "exit code 250")]
)
def test_an_end_without_a_word_is_described(code: int, words: str) -> None:
    assert words in describe_exit(code)
