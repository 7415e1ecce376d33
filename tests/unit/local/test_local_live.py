"""What a terminal shows of a run."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from rlhf_api.job import Execution
from rlhf_api.plan import Plan, PlannedStage
from rlhf_sdk.local.live import fitting, screen
from rlhf_sdk.local.progress import Progress, labelled
from rlhf_sdk.local.state import LocalStage, RunState


def stage(name: str, *needs: str) -> PlannedStage:
    return PlannedStage(name, "sft", needs, (), {}, Execution(), 0, None, 1, 1)


PLAN = Plan(
    "safe",
    (
        stage("prepare"), stage("sft"), stage("reward", "sft"), stage("cost", "sft"),
        stage("ppo", "reward", "cost"), stage("report"),
    ),
)  # fmt: skip
STATES = {
    "prepare": LocalStage(state="Complete", seconds=61),
    "sft": LocalStage(state="Reused", product="sft-" + "0a1b2c3d" * 8),
    "reward": LocalStage(state="Running"),
    "cost": LocalStage(state="Running", seconds=3),
    "ppo": LocalStage(),
    "report": LocalStage(),
}
SEEN = {
    "reward": Progress(step=45, total=120, eta=123.0, headline={"loss": 0.6123, "accuracy": 0.64}),
    "cost": Progress(
        step=3, total=9, eta=5, headline={"reward": 1.234, "cost.harm": 0.431, "lambda.harm": 1.25, "kl": 3.21}
    ),
}


def drawn(
    width: int, states: dict[str, LocalStage] | None = None, latest: dict[str, Progress] | None = None
) -> list[str]:
    state = RunState.model_validate(
        {"job": "safe", "uid": "u", "jobFile": "/j", "cores": 2, "stages": {}}
    ).model_copy(update={"stages": states or STATES})  # fmt: skip
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen(PLAN, state, SEEN if latest is None else latest, 125.0, width))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_at_80_columns_side_by_side_stages_have_bars_and_nothing_wraps() -> None:
    lines = drawn(80)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "safe  2/6 stages  2 cores  2:05"
    assert lines[1] == " ✓  prepare done in 1:01"
    assert lines[2] == " ✓  sft     reused sft-0a1b2c3d, verified"
    assert lines[3].startswith(" ▸  reward  ━") and lines[3].endswith("45/120 eta 2:03 loss 0.612  accuracy 0.640")
    assert lines[4].startswith(" ▸  cost    ━") and lines[4].endswith("3/9 eta 0:05")
    assert lines[5] == "            reward 1.23  cost 0.431  lambda 1.25  kl 3.21"
    assert lines[6:] == [" ·  ppo     waits for reward, cost", " ·  report  runs last"]


def test_at_120_columns_every_stage_has_one_line() -> None:
    lines = drawn(120)
    assert len(lines) == 1 + len(PLAN.stages)
    assert lines[4].endswith("eta 0:05 reward 1.23  cost 0.431  lambda 1.25  kl 3.21")


def test_what_a_step_does_stands_behind_its_metrics_where_there_is_room() -> None:
    reward = {**SEEN, "reward": dataclasses.replace(SEEN["reward"], activity="update", share=0.25)}
    assert drawn(80, latest=reward)[3].endswith("loss 0.612  accuracy 0.640")
    assert drawn(120, latest=reward)[3].endswith("loss 0.612  accuracy 0.640  update 25 %")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, drawn(width))) <= width


def test_a_stage_that_does_not_count_yet_says_what_it_does() -> None:
    states = {**STATES, "reward": LocalStage(state="Running", seconds=4)}
    assert drawn(80, states, {})[3] == " ▸  reward  starting  0:04"
    assert drawn(80, states, {"reward": Progress(activity="waiting for the lock")})[3].endswith(
        "waiting for the lock  0:04"
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (LocalStage(state="Failed", reason="KL"), " ✗  reward  failed: KL"),
        (LocalStage(state="Suspended", exitCode=75), " ■  reward  stopped, with its checkpoint"),
        (LocalStage(state="Suspended", exitCode=137), " ■  reward  stopped"),
        (LocalStage(state="Skipped"), " -  reward  not run"),
        (LocalStage(restarts=1, reason="SIGKILL"), " ·  reward  failed (SIGKILL), to be restarted"),
    ],
)
def test_every_state_has_words(state: LocalStage, words: str) -> None:
    assert drawn(80, {**STATES, "reward": state})[3] == words


def test_metrics_are_shown_whole_or_not_at_all() -> None:
    headline = {"loss": 0.25, "accuracy": 0.5}
    assert fitting(headline, 11) == "loss 0.250"
    assert fitting(headline, 30) == "loss 0.250  accuracy 0.500"
    assert fitting(headline, 5) == ""


def test_a_cost_is_named_where_there_are_several() -> None:
    assert labelled({"cost.a": 1.0, "cost.b": 2.0, "lambda.a": 3.0}) == {"cost.a": 1.0, "cost.b": 2.0, "lambda": 3.0}
