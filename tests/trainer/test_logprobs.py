"""Log-probabilities of answers against a plain log-softmax over everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_trainer.generation import logprobs
from rlhf_trainer.generation.logprobs import lay_out, log_probs

CPU = torch.device("cpu")


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config)


MODEL = model()


def alone(prompt: list[int], answer: list[int], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One row, unpadded, through [L, V] logits: the definition."""
    logits = MODEL(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / temperature
    all_log_probs = torch.log_softmax(logits, -1)
    entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
    return all_log_probs.gather(-1, torch.tensor(answer)[:, None])[:, 0], entropy


tokens = st.lists(st.integers(0, 12), min_size=1, max_size=6)


@settings(max_examples=20)
@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5), st.sampled_from([0.7, 1.0]), st.integers(1, 9))
def test_chunks_and_padding_change_nothing(
    rows: list[tuple[list[int], list[int]]], temperature: float, chunk: int
) -> None:
    layout = lay_out([p for p, _ in rows], [a for _, a in rows], 9, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "CHUNK_LOGITS", chunk * 13)
        hidden = MODEL.model(
            input_ids=layout.input_ids, attention_mask=layout.attention_mask, position_ids=layout.position_ids
        ).last_hidden_state
        logps, entropy = log_probs(layout.gather(hidden), MODEL.lm_head, layout.targets, temperature)
    logps, entropy = layout.scatter(logps), layout.scatter(entropy)
    for row, (prompt, answer) in enumerate(rows):
        expected = alone(prompt, answer, temperature)
        torch.testing.assert_close(logps[row, : len(answer)], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(entropy[row, : len(answer)], expected[1], atol=1e-5, rtol=1e-5)
        assert not logps[row, len(answer) :].any()
    assert not entropy.requires_grad


def test_gradients_are_those_of_the_whole_softmax() -> None:
    prompts, answers = [[1, 2], [3], [4, 5, 6]], [[7, 8, 3], [9], [1, 2]]
    grads = []
    for chunk in (13, 13 * 100):
        net = model()
        layout = lay_out(prompts, answers, 0, CPU)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logprobs, "CHUNK_LOGITS", chunk)
            hidden = net.model(
                input_ids=layout.input_ids, attention_mask=layout.attention_mask, position_ids=layout.position_ids
            ).last_hidden_state
            logps, _ = log_probs(layout.gather(hidden), net.lm_head, layout.targets, 0.9)
        (logps * torch.arange(1.0, 7.0)).sum().backward()
        grads.append([p.grad for p in net.parameters()])
    net = model()
    weight = iter(torch.arange(1.0, 7.0))
    total = torch.zeros(())
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = net(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / 0.9
        for t, token in enumerate(answer):
            total = total + next(weight) * torch.log_softmax(logits[t], -1)[token]
    total.backward()
    for chunked, unchunked, plain in zip(*grads, net.parameters(), strict=True):
        torch.testing.assert_close(chunked, unchunked, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(chunked, plain.grad, atol=1e-5, rtol=1e-4)


def test_left_and_right_padding_agree() -> None:
    prompts, answers = [[1, 2, 3, 4], [5]], [[6, 7], [8, 9, 10]]
    right = lay_out(prompts, answers, 0, CPU)
    left_ids = torch.tensor([[1, 2, 3, 4, 6, 7], [0, 0, 5, 8, 9, 10]])
    left_mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        hidden = MODEL.model(
            input_ids=right.input_ids, attention_mask=right.attention_mask, position_ids=right.position_ids
        ).last_hidden_state
        left_hidden = MODEL.model(
            input_ids=left_ids, attention_mask=left_mask, position_ids=(left_mask.cumsum(-1) - 1).clamp(min=0)
        ).last_hidden_state
    logps, _ = log_probs(right.gather(hidden), MODEL.lm_head, right.targets, 1.0)
    expected, _ = log_probs(torch.cat([left_hidden[0, 3:5], left_hidden[1, 2:5]]), MODEL.lm_head, right.targets, 1.0)
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)


def test_an_answer_of_eos_alone_is_predicted_by_the_prompts_last_state() -> None:
    layout = lay_out([[5, 4]], [[2]], 0, CPU)
    assert layout.predictors.tolist() == [[0, 1]]
    assert layout.mask.tolist() == [[1.0]]


def test_no_chunk_has_more_logits_than_its_bound() -> None:
    sizes = []

    class Head(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            sizes.append(hidden.shape[0] * self.out_features)
            return super().forward(hidden)

    with torch.no_grad():
        log_probs(torch.randn(1000, 8), Head(8, 2**16), torch.zeros(1000, dtype=torch.long), 1.0)
    assert max(sizes) <= logprobs.CHUNK_LOGITS
    assert sum(sizes) == 1000 * 2**16
