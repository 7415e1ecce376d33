"""The `sft` stage as a whole, on a tiny model: what it learns, counts and leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
import torch
from safetensors.torch import load_file
from stage_gang import Case, alone
from tiny import tiny_granite, tiny_policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_trainer.data.chat import encode_conversation
from rlhf_trainer.data.rows import Conversation, Where
from rlhf_trainer.data.splits import split_by_prompt
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.stages.sft import heldout_metrics
from rlhf_trainer.stages.sft_rows import linked

SPEC = {
    "model": {"input": "base"},
    "data": [{"input": "chat"}],
    "epochs": 2.0,
    "batchSize": 4,
    "maxLength": 64,
    "holdout": 0.2,
    "learningRate": 5e-3,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    tiny_policy(folder / "base", layers=3)
    small_data.chat(folder / "chat.jsonl")
    return folder


def case(
    root: Path, digest: str, execution: dict[str, Any] | None = None, chat: str = "chat.jsonl", **spec: Any
) -> Case:
    inputs = {"input:base": str(root / "base"), "input:chat": str(root / chat)}
    return Case(
        str(root / "storage"),
        "sft",
        {**SPEC, **spec},
        inputs,
        execution or {},
        digest=digest.rjust(64, "0"),
        uid=digest,
    )


def manifest(finished: Case) -> dict[str, Any]:
    return json.loads((finished.product / "manifest.json").read_text())  # type: ignore[no-any-return]


def steps(finished: Case) -> list[dict[str, float]]:
    return [json.loads(line) for line in (finished.work / "metrics.jsonl").read_text().splitlines()]


def loss_by_hand(folder: Path, rows: list[dict[str, Any]], max_length: int = 64) -> float:
    """Mean -log p of a learned token, one conversation at a time, all logits at once, in float64."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder).double().eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            encoded = encode_conversation(tokenizer, row["messages"], max_length, tools=row.get("tools", ()))
            logp = model(input_ids=torch.tensor([encoded.ids])).logits[0, :-1].log_softmax(-1)
            for position, token in enumerate(encoded.ids[1:]):
                if encoded.mask[position + 1]:
                    total -= float(logp[position, token])
                    count += 1
    return total / count


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_first_loss_is_the_mean_over_the_assistants_tokens_of_the_rows(root: Path) -> None:
    sft_case = case(root, "a1", batchSize=24, holdout=0.0, maxSteps=1)
    alone(sft_case)
    assert steps(sft_case)[0]["loss"] == pytest.approx(
        loss_by_hand(root / "base", rows_of(root / "chat.jsonl")), rel=1e-4
    )


def test_the_heldout_loss_falls_and_the_product_has_the_loss_that_is_told(root: Path) -> None:
    sft_case = case(root, "a2", epochs=6.0, evalEvery=10)
    alone(sft_case)
    published = manifest(sft_case)
    assert published["metrics"]["heldout_loss_change"]["high"] < -0.5
    assert published["counts"]["rows.train"] + published["counts"]["rows.heldout"] == 24
    lines = steps(sft_case)
    assert [line["step"] for line in lines if "heldout_loss" in line] == [10, 20, 30]
    assert len(lines) == published["counts"]["steps"] == 30
    everything = loss_by_hand(sft_case.product, rows_of(root / "chat.jsonl"))
    assert everything < loss_by_hand(root / "base", rows_of(root / "chat.jsonl")) - 1.0


def test_the_heldout_loss_is_that_of_the_product_on_the_rows_it_never_saw(root: Path) -> None:
    sft_case = case(root, "a8", maxSteps=4)
    alone(sft_case)
    metrics = manifest(sft_case)["metrics"]
    everything = rows_of(root / "chat.jsonl")
    conversations = [Conversation(tuple(row["messages"]), Where("chat.jsonl", 1)) for row in everything]
    _, unseen = split_by_prompt(conversations, 0.2, sft_case.seed)
    rows = [{"messages": list(row.messages)} for row in unseen]
    assert metrics["heldout_loss"]["n"] == len(rows) == 5
    assert metrics["heldout_loss"]["value"] == pytest.approx(loss_by_hand(sft_case.product, rows), rel=1e-4)
    assert metrics["heldout_loss_before"]["value"] == pytest.approx(loss_by_hand(root / "base", rows), rel=1e-4)
    assert metrics["heldout_perplexity"] == pytest.approx(math.exp(metrics["heldout_loss"]["value"]))


def test_a_change_that_may_be_chance_is_said_to_show_nothing() -> None:
    random = np.random.default_rng(0)
    before, tokens = random.normal(30, 5, 40), np.full(40, 10.0)
    same, notes = heldout_metrics(before, before + random.normal(0, 2, 40), tokens, range(40), 0)
    assert same["heldout_loss_change"]["low"] < 0 < same["heldout_loss_change"]["high"]
    assert "shows nothing" in notes[0]
    better, notes = heldout_metrics(before, before - 5 + random.normal(0, 2, 40), tokens, range(40), 0)
    assert better["heldout_loss_change"]["high"] < -0.3
    assert notes == []
    assert "rose" in heldout_metrics(before, before + 5, tokens, range(40), 0)[1][0]


def test_rows_of_one_dialogue_count_together() -> None:
    """Each dialogue given four times: intervals as wide as of the dialogues alone."""
    random = np.random.default_rng(1)
    before, tokens = random.normal(30, 5, 40), random.integers(5, 15, 40).astype(np.float64)
    after = before + random.normal(-0.5, 2, 40)
    alone, _ = heldout_metrics(before, after, tokens, range(40), 0)
    repeated, _ = heldout_metrics(*(np.tile(values, 4) for values in (before, after, tokens)), [*range(40)] * 4, 0)
    for name in ("heldout_loss", "heldout_loss_change"):
        assert repeated[name]["n"] == 40
        assert repeated[name]["low"] == pytest.approx(alone[name]["low"])
        assert repeated[name]["high"] == pytest.approx(alone[name]["high"])


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        ([["a"], ["b"], ["a"]], [0, 1, 0]),
        ([["a"], ["b"], ["a", "b"], ["c"]], [0, 0, 0, 3]),
        ([["a"], ["b"], ["c"], ["b", "c"], ["a", "c"]], [0, 0, 0, 0, 0]),
        ([], []),
    ],
)
def test_packs_that_share_a_dialogue_are_one_group(rows: list[list[str]], groups: list[int]) -> None:
    numbers = linked(rows)
    assert [numbers.index(number) for number in numbers] == groups


def test_packing_learns_the_same_tokens_as_one_conversation_a_row(root: Path) -> None:
    """All rows in one step: packed or not, the loss and the step are the same."""
    plain = case(root, "a3", batchSize=24, holdout=0.0, maxSteps=1)
    packed = case(root, "a4", batchSize=24, holdout=0.0, maxSteps=1, packing=True)
    alone(plain, packed)
    assert manifest(packed)["counts"]["packs"] < 24
    assert manifest(packed)["counts"]["tokens.learned"] == manifest(plain)["counts"]["tokens.learned"]
    assert steps(packed)[0]["loss"] == pytest.approx(steps(plain)[0]["loss"], rel=1e-5)
    assert steps(packed)[0]["grad_norm"] == pytest.approx(steps(plain)[0]["grad_norm"], rel=1e-4)


def test_micro_batches_of_any_size_give_the_same_run(root: Path) -> None:
    large, small = (case(root, f"b{n}", {"microBatchTokens": n}, maxSteps=4) for n in (4096, 64))
    alone(large, small)
    for first, second in zip(steps(large), steps(small), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    "fields", [{"trainableLayers": 1}, {"lora": {"rank": 4}}, {"trainableLayers": 1, "packing": True}]
)
def test_frozen_weights_come_out_as_they_went_in_and_the_product_stands_alone(
    root: Path, fields: dict[str, Any]
) -> None:
    sft_case = case(
        root, "c" + "".join(format(ord(c), "x") for c in str(sorted(fields))[2:8]) + "1" * len(fields), **fields
    )
    alone(sft_case)
    before, after = (load_file(folder / "model.safetensors") for folder in (root / "base", sft_case.product))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if "trainableLayers" in fields:
        assert changed <= {name for name in before if ".layers.2." in name or name == "model.norm.weight"}
    else:
        assert all(".mlp." in name or ".self_attn." in name for name in changed)
    assert changed
    metrics = manifest(sft_case)["metrics"]
    assert metrics["heldout_loss"]["value"] < metrics["heldout_loss_before"]["value"]
    assert not list(sft_case.work.glob("states.*"))


def test_remembered_states_change_nothing_but_the_time(root: Path) -> None:
    """Two passes remember the frozen layers' states, one pass computes them: the first pass is the same."""
    once = case(root, "d1", trainableLayers=1, epochs=1.0, schedule="constant", warmupRatio=0.0)
    twice = case(root, "d2", trainableLayers=1, epochs=2.0, schedule="constant", warmupRatio=0.0)
    alone(once, twice)
    for first, second in zip(steps(once), steps(twice), strict=False):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)


def test_what_was_cut_is_counted(root: Path) -> None:
    small_data.write(
        root / "long.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "what is this"},
                    {"role": "assistant", "content": "water " * 90},
                ]
            },
            {"messages": [{"role": "user", "content": "say " * 90}, {"role": "assistant", "content": "no"}]},
            {"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "yes"}]},
        ],
    )
    sft_case = case(root, "e1", chat="long.jsonl", holdout=0.0, maxSteps=1)
    alone(sft_case)
    counts = manifest(sft_case)["counts"]
    assert counts["rows.cut_prompt"] == 1
    assert counts["rows.cut_answer"] == 1
    assert counts["tokens.cut"] > 40
    assert any("nothing is held out" in note for note in manifest(sft_case)["notes"])


CALLING = """{% for tool in tools or [] %}{{ 'Use ' + tool['function']['name'] }}{% endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
{%- for call in message['tool_calls'] or [] %}{{ 'call ' + call['function']['name'] }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""A template that writes tools and calls."""


def calling_rows() -> list[dict[str, Any]]:
    function = {"name": "look", "parameters": {}}
    calling = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return [
        {
            "messages": [
                {"role": "user", "content": f"how is it {number}"},
                calling,
                {"role": "tool", "content": "water"},
                {"role": "assistant", "content": "it is well"},
            ][: 4 - 2 * (number % 2)],  # every other row ends with the call
            "tools": [{"type": "function", "function": function}],
        }
        for number in range(8)
    ]


def test_calls_of_tools_are_learned(root: Path) -> None:
    small_data.write(root / "calls.jsonl", calling_rows())
    (tiny_policy(root / "calling") / "chat_template.jinja").write_text(CALLING)
    sft_case = case(root, "e4", chat="calls.jsonl", batchSize=8, holdout=0.0, maxSteps=1)
    sft_case.inputs["input:base"] = str(root / "calling")
    alone(sft_case)
    assert manifest(sft_case)["counts"]["rows.used"] == 8
    assert steps(sft_case)[0]["loss"] == pytest.approx(loss_by_hand(root / "calling", calling_rows()), rel=1e-4)


def test_calls_that_the_template_does_not_write_are_refused(root: Path) -> None:
    small_data.write(root / "calls.jsonl", calling_rows())
    with pytest.raises(InputError, match=r"messages\[1\].tool_calls: the chat template .*does not write it"):
        alone(case(root, "e5", chat="calls.jsonl"))


def test_a_loss_that_is_not_finite_ends_the_stage_without_a_product(root: Path) -> None:
    sft_case = case(root, "e2", learningRate=1e30, maxGradNorm=1e30, schedule="constant", warmupRatio=0.0)
    with pytest.raises(GuardTripped) as caught:
        alone(sft_case)
    assert caught.value.reason == "NaN"
    assert not sft_case.product.exists()


def test_a_model_that_scales_its_logits_is_refused(root: Path) -> None:
    sft_case = case(root, "granite")
    sft_case.inputs["input:base"] = str(tiny_granite(root / "granite"))
    with pytest.raises(InputError, match=r"model \(input:base\): GraniteForCausalLM changes its logits"):
        alone(sft_case)


def test_data_without_conversations_is_refused(root: Path) -> None:
    small_data.write(root / "prompts.jsonl", [{"prompt": "what is this"}])
    with pytest.raises(InputError, match="give no conversations"):
        alone(case(root, "e3", chat="prompts.jsonl"))


def test_bfloat16_products_are_bfloat16(root: Path) -> None:
    sft_case = case(root, "f1", dtype="bfloat16", maxSteps=3)
    alone(sft_case)
    assert {value.dtype for value in load_file(sft_case.product / "model.safetensors").values()} == {torch.bfloat16}
