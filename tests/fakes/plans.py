"""Plans for tests of what starts when: built by hand, and drawn at random."""

from __future__ import annotations

from hypothesis import strategies as st

from rlhf_api.job import Execution
from rlhf_api.plan import Plan, PlannedStage


def stage(name: str, *needs: str, type: str = "sft", ranks: int = 1, nodes: int = 1) -> PlannedStage:
    return PlannedStage(name, type, needs, (), {}, Execution(), 0, None, nodes, ranks)


def planned(*stages: PlannedStage) -> Plan:
    names = [stage.name for stage in stages]
    return Plan(
        "job",
        (stage("prepare", type="prepare"), *stages, stage("report", "prepare", *names, type="report")),
    )


SAFE = planned(
    stage("sft", "prepare"),
    stage("reward", "prepare", "sft"),
    stage("cost", "prepare", "sft"),
    stage("ppo", "prepare", "sft", "reward", "cost"),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    stages: list[PlannedStage] = []
    for index in range(draw(st.integers(1, 7))):
        before = [stage.name for stage in stages]
        needs = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        wide, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        stages.append(stage(f"s{index}", "prepare", *needs, ranks=wide, nodes=nodes))
    return planned(*stages)
