"""The scheduler: which stages start and stop, with how many threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fakes.plans import SAFE, planned, plans, stage
from rlhf_api.plan import Plan
from rlhf_sdk.exits import Exit
from rlhf_sdk.local.scheduler import Budget, Start, backoff, decide, exit_code, ranks
from rlhf_sdk.local.state import LocalStage


def states(plan: Plan, **phases: str) -> dict[str, LocalStage]:
    return {
        stage.name: LocalStage.model_validate({"state": phases.get(stage.name, "Waiting")}) for stage in plan.stages
    }


def test_prepare_comes_first_and_alone_with_all_cores() -> None:
    assert decide(SAFE, states(SAFE), Budget(8)).start == (Start("prepare", 8),)


def test_ready_stages_run_side_by_side_and_share_the_cores() -> None:
    decision = decide(SAFE, states(SAFE, prepare="Complete", sft="Reused"), Budget(4))
    assert decision.start == (Start("reward", 2), Start("cost", 2))


def test_a_stage_waits_for_all_it_needs() -> None:
    assert (
        decide(
            SAFE, states(SAFE, prepare="Complete", sft="Complete", reward="Complete", cost="Running"), Budget(4)
        ).start
        == ()
    )


def test_one_that_finds_no_core_waits_for_the_other() -> None:
    decision = decide(SAFE, states(SAFE, prepare="Complete", sft="Complete"), Budget(1))
    assert decision.start == (Start("reward", 1),)
    assert decision.actions.end is None


def test_threads_are_per_rank() -> None:
    plan = planned(stage("a", "prepare", ranks=2), stage("b", "prepare"))
    assert decide(plan, states(plan, prepare="Complete"), Budget(6)).start == (Start("a", 1), Start("b", 4))


def test_all_nodes_of_a_stage_run_here() -> None:
    assert ranks(stage("a", nodes=2, ranks=3)) == 6


def test_a_stage_with_more_ranks_than_cores_runs_alone() -> None:
    plan = planned(stage("wide", "prepare", ranks=4), stage("b", "prepare"))
    assert decide(plan, states(plan, prepare="Complete"), Budget(2)).start == (Start("wide", 1),)
    busy = states(plan, prepare="Complete", b="Running")
    assert decide(plan, busy, Budget(2)).start == ()


def test_stages_that_do_not_fit_in_memory_together_run_one_after_the_other() -> None:
    budget = Budget(4, memory=10, needs={"reward": 6, "cost": 5})
    ready = states(SAFE, prepare="Complete", sft="Complete")
    assert decide(SAFE, ready, budget).start == (Start("reward", 4),)
    roomy = Budget(4, memory=11, needs={"reward": 6, "cost": 5})
    assert decide(SAFE, ready, roomy).start == (Start("reward", 2), Start("cost", 2))


def test_with_a_gpu_stages_run_one_after_the_other_since_each_takes_the_first_device() -> None:
    ready = states(SAFE, prepare="Complete", sft="Complete")
    assert decide(SAFE, ready, Budget(4, gpu=True)).start == (Start("reward", 4),)
    assert (
        decide(SAFE, states(SAFE, prepare="Complete", sft="Complete", reward="Running"), Budget(4, gpu=True)).start
        == ()
    )


def test_a_stage_too_large_for_the_machine_is_tried_alone() -> None:
    """The estimate may be wrong; what is said before is said, and only trying tells."""
    budget = Budget(4, memory=10, needs={"sft": 99})
    assert decide(SAFE, states(SAFE, prepare="Complete"), budget).start == (Start("sft", 4),)


def test_a_stopped_stage_goes_on_with_the_threads_it_had() -> None:
    """Another number of threads adds up in another order, so the resumed run would differ in its last bits."""
    current = states(SAFE, prepare="Complete", sft="Complete", reward="Complete")
    current["cost"] = LocalStage(state="Waiting", attempt=1, threads=1)
    assert decide(SAFE, current, Budget(4)).start == (Start("cost", 1),)


def test_the_report_runs_last_and_then_the_run_is_done() -> None:
    most = dict.fromkeys(("prepare", "sft", "reward", "cost", "ppo"), "Complete")
    assert decide(SAFE, states(SAFE, **most), Budget(2)).start == (Start("report", 2),)
    assert decide(SAFE, states(SAFE, **most, report="Reused"), Budget(2)).actions.end == "Complete"


def test_a_restart_waits_for_its_time() -> None:
    current = states(SAFE, prepare="Complete")
    early = decide(SAFE, current, Budget(2), now=10.0, not_before={"sft": 12.0})
    assert (early.start, early.wake) == ((), 12.0)
    assert decide(SAFE, current, Budget(2), now=12.0, not_before={"sft": 12.0}).start == (Start("sft", 2),)


def test_backoff_doubles_up_to_half_a_minute() -> None:
    assert [backoff(count) for count in (1, 2, 3, 6, 60)] == [1.0, 2.0, 4.0, 30.0, 30.0]


def test_the_first_failed_stage_in_the_plan_gives_the_exit_code() -> None:
    current = states(SAFE, reward="Failed", cost="Failed")
    current["reward"] = LocalStage(state="Failed", exitCode=3)
    current["cost"] = LocalStage(state="Failed", exitCode=2)
    assert exit_code(SAFE, current) is Exit.REFUSED
    current["reward"] = LocalStage(state="Failed", exitCode=137)
    assert exit_code(SAFE, current) is Exit.FAILED


@given(plans(), st.integers(1, 8), st.data())
def test_any_run_ends_and_never_takes_more_cores_than_it_may(plan: Plan, budget: int, data: st.DataObject) -> None:
    """Stages end in any order, well or not; a run is a sequence of decisions that comes to an end."""
    needs = {stage.name: data.draw(st.integers(0, 9)) for stage in plan.stages}
    limits = Budget(budget, memory=data.draw(st.integers(1, 20)), needs=needs)
    now = {stage.name: LocalStage() for stage in plan.stages}
    for _ in range(8 * len(plan.stages)):
        decision = decide(plan, now, limits)
        assert decision == decide(plan, now, limits)
        for name in decision.actions.skip:
            now[name] = LocalStage(state="Skipped")
        if decision.actions.skip:
            continue
        for start in decision.start:
            assert start.name in decision.actions.start
            now[start.name] = LocalStage(state="Running", threads=start.threads, attempt=1)
        running = [stage for stage in plan.stages if now[stage.name].running]
        used = sum(ranks(stage) * now[stage.name].threads for stage in running)
        assert used <= budget or len(running) == 1
        assert sum(needs[stage.name] for stage in running) <= (limits.memory or 0) or len(running) == 1
        if decision.actions.end is not None:
            failed = any(stage.state == "Failed" for stage in now.values())
            assert decision.actions.end == ("Failed" if failed else "Complete")
            assert not running
            return
        assert running, "nothing runs and the run does not end"
        ended = data.draw(st.sampled_from([stage.name for stage in running]))
        stopped = ended in decision.actions.stop
        states_after = ["Skipped", "Complete", "Failed"] if stopped else ["Complete", "Complete", "Complete", "Failed"]
        now[ended] = LocalStage.model_validate({"state": data.draw(st.sampled_from(states_after)), "attempt": 1})
    raise AssertionError("the run has not ended")
