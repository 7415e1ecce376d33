"""Products in others' hands: what plain transformers does with them is what the trainer does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_data
import torch
from ppo_cases import base as ppo_base
from ppo_cases import case as ppo_case
from stage_gang import Case, alone
from test_vocabulary import declare, gpt2_without_pad
from tiny import TEMPLATE, tiny_policy, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    pipeline,
)

from rlhf_trainer.data.chat import FALLBACK_TEMPLATE, encode_row, prepare_tokenizer
from rlhf_trainer.data.scored import scored_template
from rlhf_trainer.generation.sample import Sampling, sample
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.models.scorer import load_scorer
from rlhf_trainer.models.vocabulary import end_ids, fit_vocabulary

ASKED: Any = [{"role": "user", "content": "what should I do"}]
LLAMA = {"model": {"input": "base"}, "batchSize": 4, "maxSteps": 2, "maxLength": 64, "learningRate": 5e-3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("products")
    ppo_base(folder)
    tiny_policy(folder / "base")
    declare(folder / "base", [2, 41], [2, 40])
    sampling = {"temperature": 0.3, "top_k": 5, "do_sample": False, "repetition_penalty": 1.0}
    file = folder / "base" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **sampling}))
    gpt2_without_pad(folder / "gpt2")
    small_data.chat(folder / "dialogues.jsonl")
    small_data.preferences(folder / "prefs.jsonl")
    return folder


def policy(root: Path, kind: str) -> Path:
    """A policy of a kind, trained for a step or two."""
    if kind == "ppo":
        declare(root / "sft", [2, 41], [2, 40])
        stage_case = ppo_case(root, steps=1)
    else:
        spec = {**LLAMA, "data": [{"input": "chat"}], **({"lora": {"rank": 2}} if kind == "lora" else {})}
        base = root / ("gpt2" if kind == "gpt2" else "base")
        inputs = {"input:base": str(base), "input:chat": str(root / "dialogues.jsonl")}
        stage_case = Case(str(root), "sft", spec, inputs, digest=kind.encode().hex().ljust(64, "0"), uid=kind)
    alone(stage_case)
    return stage_case.product


@pytest.mark.parametrize("kind", ["sft", "lora", "gpt2", "ppo"])
def test_a_policy_stops_and_says_the_same_under_plain_transformers(root: Path, kind: str) -> None:
    product = policy(root, kind)
    model, tokenizer = load_policy(product, "float32")
    prepare_tokenizer(tokenizer)
    fit_vocabulary(model, tokenizer)
    ends = end_ids(model, tokenizer)
    declared = GenerationConfig.from_pretrained(product)
    assert declared.eos_token_id == list(ends)
    assert {"sft": {2, 40, 41}, "lora": {2, 40, 41}, "ppo": {2, 40, 41}, "gpt2": {0}}[kind] == set(ends)
    assert declared.pad_token_id == tokenizer.pad_token_id not in ends
    if kind == "sft":
        assert (declared.temperature, declared.top_k, declared.do_sample) == (0.3, 5, False)
    plain, read = AutoModelForCausalLM.from_pretrained(product), AutoTokenizer.from_pretrained(product)
    ids = read.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    greedy = sample(model, [ids], Sampling(0.0, 24, ends), seed=0)[0]
    out = plain.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    assert out == greedy.ids
    # an end that comes: the token that greedy decoding says third is declared to be one
    stop = greedy.ids[2]
    declare(product, [*ends, stop], [*ends, stop])
    generator = pipeline("text-generation", model=str(product))
    generated = generator([ASKED], max_new_tokens=24, do_sample=False, return_full_text=False)[0][0]["generated_text"]
    first = greedy.ids.index(stop)
    assert generated == read.decode(greedy.ids[: first + 1], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("type_", "more"),
    [
        ("rewardModel", {}),
        ("costModel", {}),
        ("rewardModel", {"members": 3}),
        ("costModel", {"members": 2, "ensemble": {"trunk": "separate"}}),
        ("rewardModel", {"lora": {"rank": 2}}),
    ],
    ids=["reward", "cost", "shared trunk", "members", "lora"],
)
def test_a_scorer_gives_its_own_score_under_plain_transformers(root: Path, type_: str, more: dict[str, Any]) -> None:
    name = f"{type_}{json.dumps(more)}".encode().hex()[:64].ljust(64, "0")
    inputs = {"input:base": str(root / "base"), "input:prefs": str(root / "prefs.jsonl")}
    scorer_case = Case(str(root), type_, {**LLAMA, "data": [{"input": "prefs"}], **more}, inputs, digest=name, uid=name)
    alone(scorer_case)
    scorer = load_scorer(scorer_case.product, "float32")
    base = AutoTokenizer.from_pretrained(root / "base")
    prepare_tokenizer(base)
    row = encode_row(base, ASKED, "call a doctor please", 64)
    expected = scorer.scores(torch.tensor([row.ids]), torch.ones(1, len(row.ids), dtype=torch.long))[:, 0]
    members = sorted((scorer_case.product / "members").glob("*")) or [scorer_case.product]
    dialogue = [*ASKED, {"role": "assistant", "content": "call a doctor please"}]
    scores: list[float] = []
    for folder in members:
        plain, tokenizer = (
            AutoModelForSequenceClassification.from_pretrained(folder).eval(),
            AutoTokenizer.from_pretrained(folder),
        )
        ids = tokenizer.apply_chat_template([dialogue, dialogue], padding=True, return_tensors="pt")
        assert ids["input_ids"][0].tolist() == row.ids
        with torch.no_grad():
            scores += plain(**ids).logits[0].tolist()
        label_start = "cost (positive: harmful)" if type_ == "costModel" else "reward (higher: better)"
        assert all(label.startswith(label_start) for label in plain.config.id2label.values())
        assert plain.config.label2id == {label: index for index, label in plain.config.id2label.items()}
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-4, rtol=1e-4)
    if len(scores) == 1:
        classify = pipeline("text-classification", model=str(scorer_case.product))
        text = tokenizer.apply_chat_template(dialogue, tokenize=False)
        assert classify(text)[0]["score"] == pytest.approx(scores[0], abs=1e-4)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        FALLBACK_TEMPLATE,
        "\n" + TEMPLATE + "\n",
        TEMPLATE.replace("<|im_end|>\\n", "<|im_end|>").replace("<|im_end|>\n", "<|im_end|>"),
        "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}",
    ],
    ids=["chatml", "fallback", "newlines around", "ends at EOS", "no EOS"],
)
def test_the_saved_template_ends_where_training_scored(template: str) -> None:
    tokenizer, saved = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.chat_template = saved.chat_template = template
    saved.chat_template = scored_template(saved)
    dialogue = [*ASKED, {"role": "assistant", "content": "wait"}, {"role": "user", "content": "why"}]
    answered = [*dialogue, {"role": "assistant", "content": "no"}]
    rendered = saved.apply_chat_template(answered, tokenize=True, return_dict=False)
    assert rendered == encode_row(tokenizer, dialogue, "no", 500).ids
    assert scored_template(saved) == saved.chat_template
    for messages, generation in ((dialogue, False), (dialogue, True), (answered, True)):
        texts = [
            renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
            for renderer in (tokenizer, saved)
        ]
        assert texts[0] == texts[1]


def test_trl_scores_answers_and_trains_on_from_products(root: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    common: dict[str, Any] = {"output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2}
    common |= {"report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no", "disable_tqdm": True}
    product, answer = policy(root, "trl"), [{"role": "assistant", "content": "call a doctor please"}]
    model, tokenizer = load_policy(product, "float32")
    sft = SFTTrainer(
        model=str(product),
        args=SFTConfig(**common),
        train_dataset=Dataset.from_list([{"messages": [*ASKED, *answer]}] * 2),
    )
    ids = sft.processing_class.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    greedy = sample(model, [ids], Sampling(0.0, 12, end_ids(model, tokenizer)), seed=0)[0]
    out = sft.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    assert out == greedy.ids
    assert sft.train().training_loss > 0

    inputs = {"input:base": str(root / "base"), "input:prefs": str(root / "prefs.jsonl")}
    reward_case = Case(
        str(root), "rewardModel", {**LLAMA, "data": [{"input": "prefs"}]}, inputs, digest="7" * 64, uid="trl-reward"
    )
    alone(reward_case)
    reward = RewardTrainer(
        model=str(reward_case.product),
        args=RewardConfig(**common),
        train_dataset=Dataset.from_list(
            [{"prompt": ASKED, "chosen": answer, "rejected": [{"role": "assistant", "content": "no"}]}] * 2
        ),
    )
    row = encode_row(reward.processing_class, ASKED, "call a doctor please", 64)
    expected = load_scorer(reward_case.product, "float32").scores(torch.tensor([row.ids]), torch.ones(1, len(row.ids)))
    with torch.no_grad():
        output = reward.model.eval()(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids)))
    torch.testing.assert_close(output.logits[0].float(), expected[:, 0], atol=1e-4, rtol=1e-4)
    assert reward.train().training_loss > 0
