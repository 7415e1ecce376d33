"""Models that read what another one wrote may have fewer positions than the writer: no row is longer than theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ppo_cases import base, case
from stage_gang import alone
from tiny import tiny_policy, tiny_scorer, tiny_tokenizer
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedModel

from fakes.policies import small
from rlhf_api.yaml import dump_yaml
from rlhf_trainer.data.rows import Messages, Prompt, Where
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.judges import ModelJudge
from rlhf_trainer.evaluation.pairwise import Compared, PairwiseJudge
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules.grader import Asking, Grader, Question
from rlhf_trainer.rules.parser import parse_policy

CPU = torch.device("cpu")
POSITIONS = 40
LONG = "please " * 50


@pytest.fixture(params=["learned positions", "rotary positions"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A policy and a scorer of so few positions, in a folder each."""
    if request.param == "rotary positions":
        tiny_policy(tmp_path / "policy", positions=POSITIONS)
        narrow(tiny_scorer(tmp_path / "scorer"))
        return tmp_path
    tokenizer = tiny_tokenizer()
    ids = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4, num_labels=1, **ids
    )
    models: dict[str, PreTrainedModel] = {
        "policy": GPT2LMHeadModel(config),
        "scorer": GPT2ForSequenceClassification(config),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


def narrow(model: Path) -> None:
    """Let a model declare few positions."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": POSITIONS}))


def says(text: str) -> Messages:
    return ({"role": "user", "content": text},)


def test_a_grader_reads_the_end_of_what_is_longer(folder: Path) -> None:
    asking = Asking((" yes",), (" no",), 2048)
    policy = parse_policy(dump_yaml(small()))
    grader = Grader(folder / "policy", policy, asking, dtype="float32", device=CPU, cache=None)
    (grades,) = grader.grade([Question(says(LONG), "I am well", ("helps", "harm"))])
    assert grades.cut > 0
    rules = small()
    rules["simple_propositions"]["harm"] = {"prompt": "Is it so? " * 40}
    grader = Grader(folder / "policy", parse_policy(dump_yaml(rules)), asking, dtype="float32", device=CPU, cache=None)
    with pytest.raises(
        InputError, match=r"harm takes \d+ tokens .* fewer than the grader's positions, 40\. Give a grader"
    ):
        grader.grade([Question(says("a"), "b", ("helps", "harm"))])


@pytest.mark.parametrize("as_text", [True, False])
def test_a_judge_of_an_evaluation_scores_within_its_positions(folder: Path, as_text: bool) -> None:
    judge = ModelJudge(str(folder / "scorer"), "reward", "float32", CPU, folder)
    prompt = Prompt(says(LONG), None, Where("asks.jsonl", 1))
    ids = [5 + index % 20 for index in range(60)]
    rows = [
        {"prompt_ids": prompt_ids, "ids": [6, 7, 2], "finished": True, "text": "yes"} for prompt_ids in (ids, ids[1:])
    ]
    first, second = judge.scores([prompt, prompt], rows, as_text=as_text)
    assert first is not None
    assert first == pytest.approx(second), "the start is what is cut"


def test_a_model_that_chooses_reads_the_end_of_what_is_longer(folder: Path) -> None:
    judge = PairwiseJudge(Answering(str(folder / "policy"), "float32", CPU, None), 512)
    (choices,) = judge.both_orders([Compared(says(LONG), "yes", "no", "Choose the better one.")])
    assert all(0 < choice.mass <= 1 for choice in choices)


def test_prompts_of_ppo_leave_room_in_the_rows_of_every_model_that_reads_them(tmp_path: Path) -> None:
    home = base(tmp_path)
    (home / "prompts.jsonl").write_text("".join(json.dumps({"prompt": LONG + str(n)}) + "\n" for n in range(4)))
    narrow(home / "rm")
    ppo_case = case(home)
    alone(ppo_case)
    manifest = json.loads((ppo_case.product / "manifest.json").read_text())
    assert manifest["counts"]["prompts.cut"] == 4
