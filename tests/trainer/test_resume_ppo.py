"""PPO-Lagrangian cut off at any step and resumed is bit-identical; two ranks learn what one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import base, case, metrics, weights
from stage_gang import Case, alone, gang

FULL: dict[str, Any] = {
    "ptx": {"data": [{"input": "chat"}], "coefficient": 1.0, "batchSize": 3},
    "kl": {"coefficient": 0.05, "target": 1.0, "horizon": 50.0},
    "lagrange": {"window": 2},
    "guards": {"gold": {"function": "ppo_judges:length"}, "goldGap": {"max": 1e9}},
    "steps": 4,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "passes": FULL | {"epochs": 2, "miniBatches": 2, "whitenAdvantages": True, "trainableLayers": 1},
    "lora": FULL | {"lora": {"rank": 2, "dropout": 0.1}, "critics": {"trunk": "separate"}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("resume"))


def same(first: Case, second: Case) -> None:
    assert (first.work / "metrics.jsonl").read_bytes() == (second.work / "metrics.jsonl").read_bytes()
    files = sorted(path.relative_to(first.product) for path in first.product.rglob("*.safetensors"))
    assert Path("critics") in {path.parents[-2] for path in files if len(path.parents) > 1}
    for file in files:
        assert (first.product / file).read_bytes() == (second.product / file).read_bytes(), file


def pair(home: Path, name: str, fields: dict[str, Any], execution: dict[str, Any] | None = None) -> tuple[Case, Case]:
    undisturbed = case(home, name=f"{name}-whole", execution=execution, **fields)
    parted = case(home, name=f"{name}-parted", execution=execution, **fields)
    return undisturbed, parted


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_cut_off_twice_and_resumed_it_ends_bit_identical(home: Path, variant: str) -> None:
    undisturbed, parted = pair(home, variant, VARIANTS[variant])
    alone(undisturbed, replace(parted, cut_after=1), replace(parted, cut_after=3), parted)
    same(undisturbed, parted)


def test_two_ranks_under_zero_2_and_3_are_exact_too_and_learn_what_one_does(home: Path, tmp_path: Path) -> None:
    small = {"microBatchTokens": 40}
    fields = {key: value for key, value in FULL.items() if key != "guards"} | {"steps": 3}
    runs = {zero: pair(home, f"zero{zero}", fields, {"zero": zero, **small}) for zero in (2, 3)}
    cut = VARIANTS["passes"] | {"steps": 3, "rollout": {"prompts": 3, "samples": 2, "maxNewTokens": 6}}
    runs[9] = pair(home, "zero3-passes", cut, {"zero": 3, **small})
    lone = case(
        home, name="zero3-few", execution={"zero": 3}, **fields | {"rollout": {"prompts": 1, "maxNewTokens": 6}}
    )
    cases = []
    for undisturbed, parted in runs.values():
        cases += [undisturbed, replace(parted, cut_after=2), parted]
    gang(2, [*cases, lone], tmp_path)
    for undisturbed, parted in runs.values():
        same(undisturbed, parted)
    assert len(metrics(lone)) == 3  # one answer for two ranks: the other ran a dummy

    single = case(home, name="single", execution=small, **fields)
    alone(single)
    for zero in (2, 3):
        for single_row, gang_row in zip(metrics(single), metrics(runs[zero][0]), strict=True):
            assert single_row == pytest.approx(gang_row, rel=2e-3, abs=2e-4)
        for name, weight in weights(single).items():
            torch.testing.assert_close(weights(runs[zero][0])[name], weight, atol=1e-4, rtol=1e-3)
