"""Tools of rows reach the chat template in every stage: one that does not write them is refused."""

from __future__ import annotations

import json
from pathlib import Path

import ppo_cases
import pytest
import small_data
from stage_gang import Case, alone

from rlhf_trainer.exits import InputError

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
SAMPLES = {"maxNewTokens": 4}
SPECS = {
    "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "tools"}]},
    "costModel": {"model": {"stage": "sft"}, "data": [{"input": "tools"}]},
    "evaluate": {
        "candidates": [{"stage": "sft"}],
        "baseline": {"stage": "other"},
        "prompts": [{"input": "tools"}],
        "rewards": [{"stage": "rm"}],
        "generation": SAMPLES,
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = ppo_cases.base(tmp_path_factory.mktemp("tools"))
    small_data.preferences(folder / "prefs.jsonl", rows=8)
    for name, source in (("tools", "prefs"), ("tools-chat", "chat")):
        rows = [json.loads(line) | {"tools": TOOLS} for line in (folder / f"{source}.jsonl").read_text().splitlines()]
        small_data.write(folder / f"{name}.jsonl", rows)
    return folder


@pytest.mark.parametrize("stage", SPECS)
def test_rewards_costs_and_evaluations_give_tools_to_the_template(home: Path, stage: str) -> None:
    inputs = {f"stage:{name}": str(home / name) for name in ("sft", "other", "rm")}
    stage_case = Case(
        str(home), stage, SPECS[stage], {**inputs, "input:tools": str(home / "tools.jsonl")}, {}, uid=stage
    )
    with pytest.raises(InputError, match=r"tools: the chat template .* does not write them"):
        alone(stage_case)


@pytest.mark.parametrize(
    ("fields", "data"),
    [({"prompts": [{"input": "tools"}]}, "tools"), ({"ptx": {"data": [{"input": "tools"}]}}, "tools-chat")],
)
def test_ppo_gives_tools_of_prompts_and_ptx_to_the_template(home: Path, fields: dict[str, object], data: str) -> None:
    ppo_case = ppo_cases.case(home, name=data, **fields)
    ppo_case.inputs["input:tools"] = str(home / f"{data}.jsonl")
    with pytest.raises(InputError, match=r"tools: the chat template .* does not write them"):
        alone(ppo_case)
