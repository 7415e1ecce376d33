"""Which prompts a step takes, and how rows fill the cache."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_api.stages.ppo import Rollout
from rlhf_trainer.generation import sample
from rlhf_trainer.ppo.rollout import Prompts


def prompts(count: int, size: int, samples: int = 1, seed: int = 0) -> Prompts:
    return Prompts([()] * count, [[index] for index in range(count)], Rollout(prompts=size, samples=samples), seed)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 3), st.integers(0, 5))
def test_every_prompt_comes_once_before_any_comes_again(count: int, size: int, samples: int, seed: int) -> None:
    drawn = prompts(count, size, samples, seed)
    stream = [index for step in range(6) for index in drawn.step(step)[::samples]]
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))
    assert max(Counter(stream).values()) - min(Counter(stream)[i] for i in range(count)) <= 1 or len(stream) < count


def test_a_step_is_a_function_of_its_number_and_the_seed() -> None:
    assert prompts(50, 7).step(9) == prompts(50, 7).step(9)
    assert prompts(50, 7).step(9) != prompts(50, 7, seed=1).step(9)


def test_samples_of_one_prompt_stand_side_by_side() -> None:
    step = prompts(5, 2, samples=3).step(0)
    assert step[0] == step[1] == step[2]
    assert len(step) == 6


def test_rows_at_once_keep_the_cache_within_its_bound() -> None:
    config = SimpleNamespace(num_hidden_layers=30, num_key_value_heads=3, head_dim=64)
    config.get_text_config = lambda: config
    model = SimpleNamespace(config=config, parameters=lambda: iter([torch.zeros(1)]))
    columns = 640
    rows = sample.rows_at_once(model, columns)
    row_bytes = 30 * 2 * 3 * 64 * columns * 4
    assert rows * row_bytes <= sample.CACHE_BYTES < (rows + 1) * row_bytes
    assert sample.rows_at_once(model, 10**9) == 1
