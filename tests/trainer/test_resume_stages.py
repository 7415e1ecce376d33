"""A stage that is killed and started again ends as if nothing had happened, bit for bit; two ranks end as one does.

Every case is run undisturbed, and once more cut off inside a step after a checkpoint (nothing saved, closed or
flushed then) and started again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_data
from safetensors.torch import load_file
from stage_gang import Case, gang
from tiny import tiny_policy

SFT = {
    "model": {"input": "base"},
    "data": [{"input": "chat"}],
    "epochs": 2.0,
    "batchSize": 4,
    "maxLength": 64,
    "holdout": 0.2,
    "learningRate": 5e-3,
}
PREFERENCE = {**SFT, "data": [{"input": "prefs"}], "batchSize": 6}
LABELLED = {**SFT, "data": [{"input": "labelled"}], "batchSize": 6}
SPECS = {"sft": SFT, "rewardModel": PREFERENCE, "costModel": PREFERENCE, "moderation": LABELLED}
SEPARATE = {"members": 2, "ensemble": {"trunk": "separate"}, "trainableLayers": 1}
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("sft", {}, {"zero": 0}),
    ("sft", {"packing": True, "trainableLayers": 1, "batchSize": 1}, {"zero": 2}),
    ("sft", {"trainableLayers": 1, "evalEvery": 3}, {"zero": 3}),
    ("sft", {"lora": {"rank": 2, "dropout": 0.2}}, {"zero": 2, "gradientCheckpointing": True}),
    ("sft", {"dtype": "bfloat16"}, {"zero": 3, "offloadOptimizer": True}),
    ("rewardModel", {"members": 2}, {"zero": 1}),
    ("costModel", SEPARATE, {"zero": 0}),
    ("costModel", {}, {"zero": 3}),
    ("moderation", {"classWeights": "balanced", "thresholds": "bestF1", "evalEvery": 3}, {"zero": 0}),
    ("moderation", {"trainableLayers": 1}, {"zero": 3}),
)
KILLED = [*((2, number) for number in range(len(CASES))), (1, 0), (1, 3), (1, 6), (1, 8)]
NAMES = [f"{kind}-{json.dumps({**spec, **execution})}" for kind, spec, execution in CASES]


def undisturbed(root: Path, world: int, number: int) -> Case:
    kind, spec, execution = CASES[number]
    return Case(
        str(root / f"storage-{world}"),
        kind,
        {**SPECS[kind], **spec},
        {
            "input:base": str(root / "base"),
            "input:chat": str(root / "chat.jsonl"),
            "input:prefs": str(root / "prefs.jsonl"),
            "input:labelled": str(root / "labelled.jsonl"),
        },
        {**execution, "microBatchTokens": 96},
        digest=f"{number:064x}",
        uid=f"u{number}",
    )


def killed(case: Case) -> tuple[Case, Case]:
    """Cut off within the fourth step, after the checkpoint of the second; and started again."""
    rerun = replace(case, digest="f" + case.digest[1:], uid="k" + case.uid)
    return replace(rerun, cut_after=3), rerun


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    tiny_policy(folder / "base")
    small_data.chat(folder / "chat.jsonl")
    small_data.preferences(folder / "prefs.jsonl", rows=36)
    small_data.labelled(folder / "labelled.jsonl", rows=36)
    for world in (1, 2):
        cases = []
        for number in range(len(CASES)):
            case = undisturbed(folder, world, number)
            cases += [case, *(killed(case) if (world, number) in KILLED else ())]
        ranks = folder / f"ranks-{world}"
        ranks.mkdir()
        gang(world, cases, ranks)
    return folder


def lines(case: Case) -> list[dict[str, float]]:
    return [json.loads(line) for line in (case.work / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("world", "number"), KILLED, ids=[f"{world}-{NAMES[number]}" for world, number in KILLED])
def test_killed_and_started_again_ends_bit_for_bit_as_undisturbed(root: Path, world: int, number: int) -> None:
    case = undisturbed(root, world, number)
    _, again = killed(case)
    weights = sorted(path.relative_to(case.product) for path in case.product.rglob("*.safetensors"))
    assert len(weights) == (2 if CASES[number][1] is SEPARATE else 1)
    for name in weights:
        assert (again.product / name).read_bytes() == (case.product / name).read_bytes()
    assert (again.work / "metrics.jsonl").read_bytes() == (case.work / "metrics.jsonl").read_bytes()
    manifest, manifest_again = (
        json.loads((finished.product / "manifest.json").read_text()) for finished in (case, again)
    )
    assert manifest["metrics"] == manifest_again["metrics"]
    assert manifest["counts"] == manifest_again["counts"]


@pytest.mark.parametrize("number", [n for n, case in enumerate(CASES) if "lora" not in case[1]])
def test_two_ranks_take_the_steps_of_one(root: Path, number: int) -> None:
    """Sums over ranks add up in another order: float tolerance, loose where bfloat16 rounds. (Dropout draws a rank.)"""
    one_rank, two_ranks = (undisturbed(root, world, number) for world in (1, 2))
    loose = CASES[number][1].get("dtype") == "bfloat16"
    assert len(lines(one_rank)) == len(lines(two_ranks)) > 4
    for first, second in zip(lines(one_rank), lines(two_ranks), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=3e-2 if loose else 1e-3)
        assert second["tokens"] == first["tokens"]
    if loose:
        return
    for path in one_rank.product.rglob("*.safetensors"):
        before, after = load_file(path), load_file(two_ranks.product / path.relative_to(one_rank.product))
        for name, value in before.items():
            assert (after[name] - value).abs().max() < 2e-3, name


def test_a_checkpoint_holds_no_frozen_layers(root: Path) -> None:
    """Three float32 numbers a trained weight: the weight and both moments of AdamW."""
    case = undisturbed(root, 1, 1)
    weights = load_file(case.product / "model.safetensors")
    trained = sum(
        value.numel() for name, value in weights.items() if ".layers.1." in name or name == "model.norm.weight"
    )
    newest = max((case.work / "checkpoints").glob("step-*"))
    stored = sum(file.stat().st_size for file in newest.rglob("engine-*/**/*.pt"))
    assert 12 * trained < stored < 4 * 4 * trained + 60_000
