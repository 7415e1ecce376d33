"""Sampling: what a row answers is its own affair."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import Cache

from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.generation.sample import Answer, Sampling, draw, sample, uniforms
from rlhf_trainer.generation.shared import last_states
from rlhf_trainer.models.lengths import prompt_room

VOCABULARY, EOS = 11, 3


def model(seed: int = 0, **config: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.4,
        "eos_token_id": EOS,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**(fields | config))).double()


MODEL = model()


def by_hand(net: LlamaForCausalLM, prompt: list[int], noise: np.ndarray, temperature: float) -> list[int]:
    """One row, without a cache: the definition."""
    ids = list(prompt)
    for number in noise:
        with torch.no_grad():
            logits = net(torch.tensor([ids])).logits[0, -1].float()
        probabilities = torch.softmax(logits / temperature, -1).double().numpy()
        token = int(np.searchsorted(np.cumsum(probabilities), number * probabilities.sum(), side="right"))
        ids.append(token)
        if token == EOS:
            break
    return ids[len(prompt) :]


prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=7)


@settings(max_examples=25)
@given(prompts, st.sampled_from([0.5, 1.0, 1.7]), st.integers(0, 1000), st.integers(1, 12), st.integers(1, 4))
def test_every_row_is_the_one_sampled_alone_without_a_cache(
    rows: list[list[int]], temperature: float, seed: int, longest: int, most: int
) -> None:
    sampling = Sampling(temperature, longest, (EOS,))
    answers = sample(MODEL, rows, sampling, seed=seed, step=5, most_rows=most)
    for row, (prompt, answer) in enumerate(zip(rows, answers, strict=True)):
        expected = by_hand(MODEL, prompt, uniforms(seed, 5, row, longest), temperature)
        assert answer == Answer(expected, expected[-1] == EOS)


def test_the_share_that_is_done_only_grows_and_ends_at_one() -> None:
    shares: list[float] = []
    sample(MODEL, [[1], [2, 4], [5], [6, 7, 8]], Sampling(1.0, 6, (EOS,)), seed=1, most_rows=3, report=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 1
    assert shares[-1] == 1


@settings(max_examples=15)
@given(prompts, st.data())
def test_rows_answer_the_same_on_whatever_rank_and_beside_whomever(rows: list[list[int]], data: st.DataObject) -> None:
    sampling = Sampling(1.0, 10, (EOS,))
    all_answers = sample(MODEL, rows, sampling, seed=1, step=2)
    mine = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True, min_size=1))
    part = sample(MODEL, [rows[i] for i in mine], sampling, seed=1, step=2, rows=mine)
    assert part == [all_answers[i] for i in mine]


def test_steps_rows_and_seeds_draw_apart() -> None:
    streams = {(s, t, r): tuple(uniforms(s, t, r, 6)) for s in (0, 1) for t in (0, 1) for r in (0, 1, 2)}
    assert len(set(streams.values())) == len(streams)
    assert all(0 <= number < 1 for stream in streams.values() for number in stream)
    assert tuple(uniforms(0, 1, 2, 3)) == streams[0, 1, 2][:3]


def test_frequencies_are_the_models_probabilities_at_the_temperature() -> None:
    count, temperature = 4000, 2.0
    answers = sample(MODEL, [[1, 2]] * count, Sampling(temperature, 1, (EOS,)), seed=3, most_rows=count)
    with torch.no_grad():
        expected = torch.softmax(MODEL(torch.tensor([[1, 2]])).logits[0, -1] / temperature, -1).numpy()
    frequencies = np.bincount([answer.ids[0] for answer in answers], minlength=VOCABULARY) / count
    assert np.abs(frequencies - expected).max() < 4 * np.sqrt(0.25 / count)


def test_the_models_own_generation_defaults_are_not_used() -> None:
    net = model()
    net.generation_config = GenerationConfig(do_sample=True, top_k=1, temperature=0.01, repetition_penalty=9.0)
    assert sample(net, [[1]] * 20, Sampling(1.0, 5, (EOS,)), seed=0) == sample(
        MODEL, [[1]] * 20, Sampling(1.0, 5, (EOS,)), seed=0
    )


@pytest.mark.parametrize("rope", [None, {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}])
def test_rows_beyond_the_positions_are_refused(rope: dict[str, Any] | None) -> None:
    net = model(max_position_embeddings=8, **({} if rope is None else {"rope_parameters": rope}))
    assert sample(net, [[1, 2, 4, 5]], Sampling(1.0, 4, (EOS,)), seed=0)
    with pytest.raises(InputError, match="may reach 9 tokens with maxNewTokens; the model takes rows of 8"):
        sample(net, [[1, 2, 4, 5], [1]], Sampling(1.0, 5, (EOS,)), seed=0)
    assert prompt_room([net], 512, 5) == 3  # of a longer prompt so much stays
    assert prompt_room([net], 2, 5) == 2
    assert sample(net, [[1, 2, 4, 5][-3:], [1]], Sampling(1.0, 5, (EOS,)), seed=0)


def test_temperature_zero_is_greedy() -> None:
    answer_ids = sample(MODEL, [[1, 5, 2]], Sampling(0, 6, (EOS,)), seed=0)[0].ids
    ids = [1, 5, 2]
    for token in answer_ids:
        with torch.no_grad():
            assert token == int(MODEL(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_an_empty_answer_is_eos_alone_and_an_unfinished_one_has_none() -> None:
    always = model()
    with torch.no_grad():
        always.lm_head.weight.zero_()
    always.lm_head.bias = torch.nn.Parameter(torch.eye(VOCABULARY)[EOS].double() * 1000)
    assert sample(always, [[1], [2, 4]], Sampling(1.0, 4, (EOS,)), seed=0) == [Answer([EOS], True)] * 2
    never = model()
    with torch.no_grad():
        never.lm_head.weight.zero_()
    never.lm_head.bias = torch.nn.Parameter(torch.eye(VOCABULARY)[7].double() * 1000)
    assert sample(never, [[1]], Sampling(1.0, 4, (EOS,)), seed=0) == [Answer([7] * 4, False)]


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(5, 1)
    noise = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, 1.0, noise).tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("row", [[0.0, float("nan")], [-float("inf")] * 2])
def test_logits_that_are_not_finite_are_said_to_be(temperature: float, row: list[float]) -> None:
    logits = torch.tensor([[0.0, 1.0], row])
    with pytest.raises(GuardTripped, match=r"not finite.*earlier checkpoint") as caught:
        draw(logits, temperature, torch.zeros(2))
    assert caught.value.reason == "NaN"


def test_the_models_mode_is_left_as_it_was() -> None:
    net = model().train()
    sample(net, [[1]], Sampling(1.0, 2, (EOS,)), seed=0)
    assert net.training


def test_layers_without_keys_and_values_are_refused() -> None:
    net = model()
    net.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        sample(net, [[1]], Sampling(1.0, 2, (EOS,)), seed=0)


def test_memory_that_was_never_written_does_not_reach_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[5] * length for length in (40, 39, 3, 2)]
    sampling = Sampling(1.0, 6, (EOS,))
    monkeypatch.setattr("rlhf_trainer.generation.sample.PREFILL_TOKENS", 80)  # prompts of two widths in two groups
    clean = sample(MODEL, prompts, sampling, seed=0)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch then fills what is allocated empty with NaN
    try:
        assert torch.empty(1).isnan().item()
        assert sample(MODEL, prompts, sampling, seed=0) == clean
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("shared", [False, True])
def test_keys_and_values_go_when_the_answers_are_there(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when the collector comes by: there may be gigabytes of them."""
    caches: list[weakref.ref[Cache]] = []
    original_init = Cache.__init__

    def remembering_init(cache: Cache, *args: Any, **kwargs: Any) -> None:
        caches.append(weakref.ref(cache))
        original_init(cache, *args, **kwargs)

    monkeypatch.setattr(Cache, "__init__", remembering_init)
    gc.disable()
    try:
        if shared:
            last_states(MODEL, [[[1, 2, 4], [1, 2, 5]]], 0, torch.device("cpu"), 64)
        else:
            sample(MODEL, [[1, 2]], Sampling(1.0, 3, (EOS,)), seed=0)
        assert caches and all(cache_ref() is None for cache_ref in caches)
    finally:
        gc.enable()
