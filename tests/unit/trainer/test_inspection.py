"""What a job uses its inputs for, and which of them must share a tokenizer."""

from __future__ import annotations

import pytest

from rlhf_api.load import parse_job
from rlhf_trainer.inspection.lineage import Meeting, meetings, tokenizer_problems
from rlhf_trainer.inspection.uses import DataUse, FunctionUse, ModelUse, uses


def job(*stages, inputs=("base", "chat", "prefs", "judge", "other", "answers")):
    return parse_job(
        {
            "apiVersion": "rlhf.dev/v1alpha1",
            "kind": "RLHFJob",
            "metadata": {"name": "test"},
            "spec": {"inputs": [{"name": name, "source": f"data/{name}"} for name in inputs], "stages": list(stages)},
        }
    )


SFT = {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}], "holdout": 0.1}}
REWARD = {"name": "reward", "rewardModel": {"model": {"input": "other"}, "data": [{"input": "prefs"}]}}
COST = {"name": "cost", "costModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}], "holdout": 0.0}}
LABELS = {"name": "labels", "moderation": {"model": {"stage": "sft"}, "data": [{"input": "answers"}], "holdout": 0.5}}
PPO = {
    "name": "ppo",
    "ppo": {
        "policy": {"stage": "sft"},
        "reference": {"input": "base"},
        "rewards": [{"stage": "reward"}, {"input": "judge", "weight": 0.5}, {"function": "gold:score"}],
        "costs": [{"stage": "cost"}],
        "prompts": [{"input": "prefs", "limit": 9}],
        "critics": {"model": {"input": "judge"}},
        "ptx": {"data": [{"input": "chat"}]},
        "guards": {"gold": {"function": "gold:gap"}, "goldGap": {"max": 1}},
    },
}


def test_every_use_is_found_with_its_place_and_kind():
    places = [
        (
            use.where,
            use.name if isinstance(use, FunctionUse) else use.input,
            getattr(use, "rows", getattr(use, "kind", None)),
        )
        for use in uses(job(SFT, REWARD, COST, LABELS, PPO))
    ]
    assert sorted(places) == sorted(
        [
            ("stage sft, sft.model", "base", "causal"),
            ("stage sft, sft.data[0]", "chat", "conversations"),
            ("stage reward, rewardModel.model", "other", "trunk"),
            ("stage reward, rewardModel.data[0]", "prefs", "pairs"),
            ("stage cost, costModel.data[0]", "prefs", "safety pairs"),
            ("stage labels, moderation.data[0]", "answers", "labelled answers"),
            ("stage ppo, ppo.reference", "base", "causal"),
            ("stage ppo, ppo.rewards[1]", "judge", "scorer"),
            ("stage ppo, ppo.rewards[2]", "gold:score", None),
            ("stage ppo, ppo.prompts[0]", "prefs", "prompts"),
            ("stage ppo, ppo.critics.model", "judge", "trunk"),
            ("stage ppo, ppo.ptx.data[0]", "chat", "conversations"),
            ("stage ppo, ppo.guards.gold", "gold:gap", None),
        ]
    )


def test_a_holdout_comes_with_the_data_it_is_of():
    holdouts = {use.where: use.holdout for use in uses(job(SFT, COST, LABELS)) if isinstance(use, DataUse)}
    assert holdouts == {
        "stage sft, sft.data[0]": 0.1,
        "stage cost, costModel.data[0]": 0.0,
        "stage labels, moderation.data[0]": 0.5,
    }


def test_inputs_meet_where_their_models_or_what_came_of_them_exchange_tokens():
    token_meetings = list(meetings(job(SFT, REWARD, COST, PPO)))
    assert token_meetings == [
        Meeting("stage ppo, ppo.rewards[0]", "base", "other"),
        Meeting("stage ppo, ppo.rewards[1]", "base", "judge"),
        Meeting("stage ppo, ppo.critics.model", "base", "judge"),
    ]


def test_models_of_one_base_never_meet():
    ppo = {
        "policy": {"stage": "sft"},
        "rewards": [{"function": "gold:score"}],
        "costs": [{"stage": "cost"}],
        "prompts": [{"input": "prefs"}],
    }
    assert list(meetings(job(SFT, COST, {"name": "ppo", "ppo": ppo}))) == []


class Words:
    """A tokenizer of whole words."""

    eos_token, eos_token_id = "</s>", 0

    def __init__(self, *words):
        self.words = {word: index for index, word in enumerate(["</s>", *words])}

    def get_vocab(self):
        return self.words

    def __len__(self):
        return len(self.words)

    def __call__(self, text, **_):
        return {"input_ids": [self.words.get(word, 1) for word in text.split()]}


@pytest.mark.parametrize(("tokenizer", "count"), [(Words("a", "b"), 0), (Words("b", "a"), 3)])
def test_each_tokenizer_is_loaded_once_and_differences_are_told(tokenizer, count):
    loaded = []

    def load(name):
        loaded.append(name)
        return Words("a", "b") if name == "base" else tokenizer

    problems = list(tokenizer_problems(job(SFT, REWARD, COST, PPO), load))
    assert sorted(loaded) == ["base", "judge", "other"]
    assert len(problems) == count
    assert all("is not the policy's (base): 2 tokens have another id" in problem for problem in problems)


def test_models_that_are_products_are_no_uses():
    assert not [use for use in uses(job(SFT, COST)) if isinstance(use, ModelUse) and use.where.startswith("stage cost")]
