"""Padding on either side and packing give the logits that rows have alone."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import LlamaForCausalLM

from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.collate import pack_rows, pad, positions


def row(*ids, mask=None):
    return Encoded(list(ids), mask or [1] * len(ids))


def random_rows(lengths):
    generator = torch.Generator().manual_seed(0)
    return [row(*torch.randint(3, 90, (length,), generator=generator).tolist()) for length in lengths]


@pytest.fixture(scope="module")
def logits():
    models = {}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = tiny.tiny_config(100)
        config._attn_implementation = attention
        models[attention] = LlamaForCausalLM(config).train()

    @torch.no_grad()
    def of(attention="sdpa", **arguments):
        return models[attention](use_cache=False, **arguments).logits

    return of


def alone(logits, rows):
    return [logits(input_ids=torch.tensor([encoded.ids]))[0] for encoded in rows]


def test_padding_is_masked_and_positions_count_tokens():
    right = pad([row(5, 6, 7, mask=[0, 1, 1]), row(8)], pad_id=0)
    assert right.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert right.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert right.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert right.mask.tolist() == [[0, 1, 1], [1, 0, 0]]
    left_padded = pad([row(5, 6, 7), row(8)], pad_id=0, side="left", length=4)
    assert left_padded.input_ids.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert left_padded.position_ids.tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


def test_positions_are_cumsum_less_one():
    assert positions(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 1, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_have_the_logits_of_rows_alone(logits, side):
    rows = random_rows((5, 9, 2))
    batch = pad(rows, pad_id=0, side=side, length=11)
    padded_logits = logits(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    )
    for index, expected in enumerate(alone(logits, rows)):
        torch.testing.assert_close(
            padded_logits[index][batch.attention_mask[index].bool()], expected, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_have_the_logits_of_rows_alone(logits, attention):
    rows = random_rows((5, 9, 3, 7))
    batch = pack_rows([rows[:2], rows[2:]], pad_id=0, length=16)
    packed_logits = logits(attention, input_ids=batch.input_ids, position_ids=batch.position_ids)
    flat = [packed_logits[line][batch.segments[line] == number] for line in (0, 1) for number in (1, 2)]
    for mine, expected in zip(flat, alone(logits, rows), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def test_a_packs_first_tokens_carry_no_loss():
    batch = pack_rows([[row(5, 6), row(7, 8, 9)]], pad_id=0, length=7)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 0, 1]]
    assert batch.segments.tolist() == [[1, 1, 2, 2, 2, 0, 0]]
    assert batch.mask.tolist() == [[0, 1, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("layout", [lambda rows: pad(rows, 0, length=4), lambda rows: pack_rows([rows], 0, length=4)])
def test_rows_that_do_not_fit_are_refused(layout):
    with pytest.raises(ValueError, match="5 tokens does not fit 4"):
        layout([row(1, 2, 3, 4, 5)])


@pytest.mark.parametrize("layout", [lambda: pad([], 0), lambda: pack_rows([], 0)])
def test_no_rows_are_refused(layout):
    with pytest.raises(ValueError, match="no "):
        layout()
