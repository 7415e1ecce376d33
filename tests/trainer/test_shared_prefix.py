"""Pairs as one sequence: the same scores, losses and gradients as two rows, for fewer tokens."""

from __future__ import annotations

import pytest
import torch
from families import family
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.shared_prefix import SharedPrefixPair, collate_shared_prefix
from rlhf_trainer.models.freeze import split
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.prefix_check import pairs_as_rows

CPU = torch.device("cpu")
PAD = 0
rows = st.lists(st.integers(3, 30), min_size=1, max_size=9)
pairs = st.builds(
    lambda start, first, second: (start + first, start + second), st.lists(st.integers(3, 30)), rows, rows
)


def row(ids: list[int]) -> Encoded:
    return Encoded(ids, [1] * len(ids))


def fork(first: list[int], second: list[int]) -> SharedPrefixPair:
    return SharedPrefixPair(row(first), row(second))


@given(st.lists(pairs, min_size=1, max_size=4))
def test_every_token_is_laid_once_where_it_stands_and_sees_its_own_row_alone(given_pairs):
    forks = [fork(*pair) for pair in given_pairs]
    laid = collate_shared_prefix(forks, PAD)
    for number, (first, second) in enumerate(given_pairs):
        ends = laid.ends[:, number]
        for ids, end in zip((first, second), ends, strict=True):
            visible = laid.visible[number, 0, end]
            assert laid.input_ids[number, visible].tolist() == ids
            assert laid.position_ids[number, visible].tolist() == list(range(len(ids)))
            for position in visible.nonzero().flatten():  # causal inside the row
                upto = laid.visible[number, 0, position]
                assert laid.input_ids[number, upto].tolist() == ids[: int(laid.position_ids[number, position]) + 1]
        assert laid.visible[number, 0].any(-1).all(), "a token that sees nothing gives NaN"
        assert (laid.input_ids[number, len(forks[number]) :] == PAD).all()


def test_what_both_begin_with_is_shared_but_each_keeps_a_token():
    assert fork([5, 6, 7], [5, 6, 8, 9]).shared == 2
    assert fork([5, 6, 7], [5, 6, 7]).shared == 2
    assert fork([5], [5, 6]).shared == 0
    assert len(fork([5, 6, 7], [5, 6, 8, 9])) == 5


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_states_and_gradients_are_those_of_two_rows(kind, frozen):
    torch.manual_seed(0)
    decoder = family(kind).model
    trunk, decoder = split(decoder, 1) if frozen else (None, decoder)
    boundary = FrozenTrunkInputs(trunk, CPU, PAD)
    given_pairs = [([5, 6, 7, 8], [5, 6, 9]), ([4, 4], [7, 7, 7]), ([3, 8, 9], [3, 8, 9])]
    forks = [fork(*pair) for pair in given_pairs]
    assert pairs_as_rows(decoder, boundary, forks[0], 64)

    inputs, laid = boundary.pairs(forks)
    states = decoder(**inputs, use_cache=False).last_hidden_state[torch.arange(3).expand(2, 3), laid.ends]
    (states * torch.arange(6.0).view(2, 3, 1)).sum().backward()
    grads = [weight.grad.clone() for weight in decoder.parameters() if weight.grad is not None]
    decoder.zero_grad()
    inputs, padded = boundary.batch([row(pair[side]) for side in (0, 1) for pair in given_pairs])
    ends = padded.attention_mask.sum(1) - 1
    expected = decoder(**inputs, use_cache=False).last_hidden_state[torch.arange(6), ends].view(2, 3, -1)
    (expected * torch.arange(6.0).view(2, 3, 1)).sum().backward()
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    again = [weight.grad for weight in decoder.parameters() if weight.grad is not None]
    assert len(grads) == len(again) > 3
    for gradient, expected_gradient in zip(grads, again, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


class Deaf(torch.nn.Module):
    """A decoder that drops one of its arguments, as recurrent layers or positions of its own would."""

    def __init__(self, decoder: torch.nn.Module, drops: str) -> None:
        super().__init__()
        self.decoder, self.drops, self.config = decoder, drops, decoder.config

    def forward(self, attention_mask=None, position_ids=None, **others):
        arguments = {"attention_mask": attention_mask, "position_ids": position_ids}
        return self.decoder(**others, **{name: value for name, value in arguments.items() if name != self.drops})


@pytest.mark.parametrize("drops", ["attention_mask", "position_ids"])
def test_a_model_that_does_not_obey_is_found_out(drops):
    sample = fork([5, 6, 7, 8, 11, 12, 13], [5, 6, 7, 9, 14, 15])
    decoder = family("llama").model
    boundary = FrozenTrunkInputs(None, CPU, PAD)
    assert pairs_as_rows(decoder, boundary, sample, 64)
    assert not pairs_as_rows(Deaf(decoder, drops), boundary, sample, 64)


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_a_window_below_the_longest_row_is_refused(kind):
    decoder = family(kind).model  # windows of 4
    sample = fork([5, 6, 7], [5, 6, 8])
    boundary = FrozenTrunkInputs(None, CPU, PAD)
    assert pairs_as_rows(decoder, boundary, sample, 4)
    assert not pairs_as_rows(decoder, boundary, sample, 5)


@settings(max_examples=20)
@given(st.lists(pairs, min_size=1, max_size=4))
def test_remembered_states_of_forks_are_those_computed_now(tmp_path_factory, given_pairs):
    trunk, _ = split(family("llama").model, 1)
    remembering, computing = (FrozenTrunkInputs(trunk, CPU, PAD) for _ in range(2))
    forks = [fork(*pair) for pair in given_pairs]
    forks.append(SharedPrefixPair(forks[0].second, forks[0].first))  # the same ids, laid out otherwise
    assert remembering.cache_hidden_states(
        forks, tmp_path_factory.mktemp("states") / "s.bin", "key", dtype=torch.float32
    )
    inputs, laid = remembering.pairs(forks, range(len(forks)))
    expected, _ = computing.pairs(forks)
    for number, pair in enumerate(forks):
        span = slice(0, len(pair))
        torch.testing.assert_close(
            inputs["inputs_embeds"][number, span], expected["inputs_embeds"][number, span], rtol=1e-4, atol=1e-5
        )
    assert laid.ends.shape == (2, len(forks))
