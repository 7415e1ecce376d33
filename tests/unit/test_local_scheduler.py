"""The scheduler: which stages start and stop, with how many threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.job import Execution
from rlhf_api.plan import Plan, PlannedStage
from rlhf_sdk.exits import Exit
from rlhf_sdk.local.scheduler import Budget, Start, backoff, decide, exit_code, ranks
from rlhf_sdk.local.state import StageState


def stage(name: str, *needs: str, type: str = "sft", ranks: int = 1, nodes: int = 1) -> PlannedStage:
    return PlannedStage(name, type, needs, (), {}, Execution(), 0, None, nodes, ranks)


def planned(*stages: PlannedStage) -> Plan:
    names = [one.name for one in stages]
    return Plan(
        "job",
        (stage("prepare", type="prepare"), *stages, stage("report", "prepare", *names, type="report")),
    )


def states(plan: Plan, **phases: str) -> dict[str, StageState]:
    return {one.name: StageState.model_validate({"phase": phases.get(one.name, "pending")}) for one in plan.stages}


SAFE = planned(
    stage("sft", "prepare"),
    stage("reward", "prepare", "sft"),
    stage("cost", "prepare", "sft"),
    stage("ppo", "prepare", "sft", "reward", "cost"),
)


def test_prepare_comes_first_and_alone_with_all_cores() -> None:
    assert decide(SAFE, states(SAFE), Budget(8)).start == (Start("prepare", 8),)


def test_ready_stages_run_side_by_side_and_share_the_cores() -> None:
    decision = decide(SAFE, states(SAFE, prepare="done", sft="reused"), Budget(4))
    assert decision.start == (Start("reward", 2), Start("cost", 2))


def test_a_stage_waits_for_all_it_needs() -> None:
    assert decide(SAFE, states(SAFE, prepare="done", sft="done", reward="done", cost="running"), Budget(4)).start == ()


def test_one_that_finds_no_core_waits_for_the_other() -> None:
    decision = decide(SAFE, states(SAFE, prepare="done", sft="done"), Budget(1))
    assert decision.start == (Start("reward", 1),)
    assert decision.end is None


def test_threads_are_per_rank() -> None:
    plan = planned(stage("a", "prepare", ranks=2), stage("b", "prepare"))
    assert decide(plan, states(plan, prepare="done"), Budget(6)).start == (Start("a", 1), Start("b", 4))


def test_all_nodes_of_a_stage_run_here() -> None:
    assert ranks(stage("a", nodes=2, ranks=3)) == 6


def test_a_stage_with_more_ranks_than_cores_runs_alone() -> None:
    plan = planned(stage("wide", "prepare", ranks=4), stage("b", "prepare"))
    assert decide(plan, states(plan, prepare="done"), Budget(2)).start == (Start("wide", 1),)
    busy = states(plan, prepare="done", b="running")
    assert decide(plan, busy, Budget(2)).start == ()


def test_stages_that_do_not_fit_in_memory_together_run_one_after_the_other() -> None:
    budget = Budget(4, memory=10, needs={"reward": 6, "cost": 5})
    ready = states(SAFE, prepare="done", sft="done")
    assert decide(SAFE, ready, budget).start == (Start("reward", 4),)
    roomy = Budget(4, memory=11, needs={"reward": 6, "cost": 5})
    assert decide(SAFE, ready, roomy).start == (Start("reward", 2), Start("cost", 2))


def test_with_a_gpu_stages_run_one_after_the_other_since_each_takes_the_first_device() -> None:
    ready = states(SAFE, prepare="done", sft="done")
    assert decide(SAFE, ready, Budget(4, gpu=True)).start == (Start("reward", 4),)
    assert decide(SAFE, states(SAFE, prepare="done", sft="done", reward="running"), Budget(4, gpu=True)).start == ()


def test_a_stage_too_large_for_the_machine_is_tried_alone() -> None:
    """The estimate may be wrong; what is said before is said, and only trying tells."""
    budget = Budget(4, memory=10, needs={"sft": 99})
    assert decide(SAFE, states(SAFE, prepare="done"), budget).start == (Start("sft", 4),)


def test_a_stopped_stage_goes_on_with_the_threads_it_had() -> None:
    """Another number of threads adds up in another order, so the resumed run would differ in its last bits."""
    there = states(SAFE, prepare="done", sft="done", reward="done")
    there["cost"] = StageState(phase="pending", attempt=1, threads=1)
    assert decide(SAFE, there, Budget(4)).start == (Start("cost", 1),)


def test_the_report_runs_last_and_then_the_run_is_done() -> None:
    most = dict.fromkeys(("prepare", "sft", "reward", "cost", "ppo"), "done")
    assert decide(SAFE, states(SAFE, **most), Budget(2)).start == (Start("report", 2),)
    assert decide(SAFE, states(SAFE, **most, report="reused"), Budget(2)).end == "done"


def test_a_failure_stops_the_others_then_the_report_tells() -> None:
    failed = states(SAFE, prepare="done", sft="done", reward="failed", cost="running")
    decision = decide(SAFE, failed, Budget(2))
    assert (decision.stop, decision.start, decision.blocked) == (("cost",), (), ("ppo",))
    after = states(SAFE, prepare="done", sft="done", reward="failed", cost="stopped", ppo="blocked")
    assert decide(SAFE, after, Budget(2)).start == (Start("report", 2),)
    told = states(SAFE, prepare="done", sft="done", reward="failed", cost="stopped", ppo="blocked", report="done")
    assert decide(SAFE, told, Budget(2)).end == "failed"


def test_without_what_prepare_found_there_is_nothing_to_report() -> None:
    decision = decide(SAFE, states(SAFE, prepare="failed"), Budget(2))
    assert (decision.end, decision.start) == ("failed", ())
    assert decision.blocked == ("sft", "reward", "cost", "ppo", "report")


def test_a_stop_starts_nothing_and_ends_when_nothing_runs() -> None:
    running = decide(
        SAFE, states(SAFE, prepare="done", sft="done", reward="running", cost="pending"), Budget(4), intent="stop"
    )
    assert (running.start, running.stop, running.end) == ((), ("reward",), None)
    assert decide(SAFE, states(SAFE, prepare="done", sft="stopped"), Budget(4), intent="stop").end == "stopped"


def test_a_stop_that_comes_when_all_is_done_changes_nothing() -> None:
    all_done = states(SAFE, **dict.fromkeys(("prepare", "sft", "reward", "cost", "ppo", "report"), "done"))
    assert decide(SAFE, all_done, Budget(2), intent="stop").end == "done"


def test_a_deadline_fails_the_run_after_its_report() -> None:
    decision = decide(SAFE, states(SAFE, prepare="done", sft="running"), Budget(2), intent="fail")
    assert (decision.stop, decision.blocked) == (("sft",), ("reward", "cost", "ppo"))
    stopped = states(SAFE, prepare="done", sft="stopped", reward="blocked", cost="blocked", ppo="blocked")
    assert decide(SAFE, stopped, Budget(2), intent="fail").start == (Start("report", 2),)


def test_a_restart_waits_for_its_time() -> None:
    there = states(SAFE, prepare="done")
    early = decide(SAFE, there, Budget(2), now=10.0, not_before={"sft": 12.0})
    assert (early.start, early.wake) == ((), 12.0)
    assert decide(SAFE, there, Budget(2), now=12.0, not_before={"sft": 12.0}).start == (Start("sft", 2),)


def test_backoff_doubles_up_to_half_a_minute() -> None:
    assert [backoff(count) for count in (1, 2, 3, 6, 60)] == [1.0, 2.0, 4.0, 30.0, 30.0]


def test_the_first_failed_stage_in_the_plan_gives_the_exit_code() -> None:
    there = states(SAFE, reward="failed", cost="failed")
    there["reward"] = StageState(phase="failed", exitCode=3)
    there["cost"] = StageState(phase="failed", exitCode=2)
    assert exit_code(SAFE, there) is Exit.REFUSED
    there["reward"] = StageState(phase="failed", exitCode=137)
    assert exit_code(SAFE, there) is Exit.FAILED


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    made: list[PlannedStage] = []
    for index in range(draw(st.integers(1, 7))):
        before = [one.name for one in made]
        needs = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        made.append(stage(f"s{index}", "prepare", *needs, ranks=draw(st.integers(1, 4)), nodes=draw(st.integers(1, 2))))
    return planned(*made)


@given(plans(), st.integers(1, 8), st.data())
def test_any_run_ends_and_never_takes_more_cores_than_it_may(plan: Plan, budget: int, data: st.DataObject) -> None:
    """Stages end in any order, well or not; a run is a sequence of decisions that comes to an end."""
    needs = {one.name: data.draw(st.integers(0, 9)) for one in plan.stages}
    limits = Budget(budget, memory=data.draw(st.integers(1, 20)), needs=needs)
    now = {one.name: StageState() for one in plan.stages}
    by_name = {one.name: one for one in plan.stages}
    for _ in range(6 * len(plan.stages)):
        decision = decide(plan, now, limits)
        assert decision == decide(plan, now, limits)
        for name in decision.blocked:
            assert now[name].phase == "pending"
            now[name] = StageState(phase="blocked")
        for begun in decision.start:
            failing = any(state.phase == "failed" for state in now.values())
            assert now[begun.name].phase == "pending"
            assert begun.name == "report" if failing else all(now[need].complete for need in by_name[begun.name].needs)
            now[begun.name] = StageState(phase="running", threads=begun.threads, attempt=1)
        running = [one for one in plan.stages if now[one.name].phase == "running"]
        used = sum(ranks(one) * now[one.name].threads for one in running)
        assert used <= budget or len(running) == 1
        assert sum(needs[one.name] for one in running) <= (limits.memory or 0) or len(running) == 1
        if decision.end is not None:
            failed = any(state.phase == "failed" for state in now.values())
            assert decision.end == ("failed" if failed else "done")
            assert not running
            return
        assert running, "nothing runs and the run does not end"
        ended = data.draw(st.sampled_from([one.name for one in running]))
        stopped = ended in decision.stop
        outcomes = ["stopped", "done", "failed"] if stopped else ["done", "done", "done", "failed"]
        now[ended] = StageState.model_validate({"phase": data.draw(st.sampled_from(outcomes))})
    raise AssertionError("the run has not ended")
