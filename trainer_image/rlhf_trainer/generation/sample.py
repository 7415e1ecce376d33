"""Whole-rollout sampling: a loop of our own over the model's forward.

Nothing of the model's `generation_config` is used: no top-k, no top-p, no penalties; tokens come from
softmax(logits / temperature) as it is, so that their log-probabilities are those of `logprobs`. Each row draws from
its own stream of numbers, a function of (seed, step, row): what it answers depends neither on the rows beside it, nor
on when they finish, nor on how many ranks share the rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.generation.cache import EvictingCache, new_cache, right_aligned
from rlhf_trainer.models.lengths import row_length

PREFILL_TOKENS = 2048
"""Most prompt tokens (padding included) of one forward."""
MOST_ROWS = 512
CACHE_BYTES = 2 * 2**30
CACHE_SHARE = 0.4


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled."""

    temperature: float
    """0: the most probable token."""
    max_new_tokens: int
    """Tokens an answer may have, its end included."""
    eos: tuple[int, ...]
    """Ids that end an answer, at least one (`models.vocabulary.end_ids`)."""
    ends: Callable[[list[int]], bool] | None = None
    """Whether an answer of these ids has ended without one of them; None: never."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    ids: list[int]
    """At least one token; one of `Sampling.eos` is the last where `finished`."""
    finished: bool
    """Ended by one of `Sampling.eos`, not by length nor by `Sampling.ends`."""

    @property
    def spoken(self) -> list[int]:
        """The ids without the one that ended the answer."""
        return self.ids[:-1] if self.finished else self.ids


def uniforms(seed: int, step: int, row: int, count: int) -> npt.NDArray[np.float64]:
    """[count] numbers in [0, 1) that belong to a row of a step: Philox's counter is the row, its key the seed."""
    raw = np.random.Philox(counter=[0, row, step, 0], key=[seed, 0x526F6C6C]).random_raw(count)
    return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    *,
    seed: int,
    step: int = 0,
    rows: Sequence[int] | None = None,
    most_rows: int | None = None,
    report: Callable[[float], object] | None = None,
) -> list[Answer]:
    """Answers to prompts.

    Args:
        model: a causal language model, its weights whole on this rank; put into evaluation mode meanwhile.
        prompts: token ids each, at least one token.
        sampling: how.
        seed: of the stage.
        step: of the rollout.
        rows: number of each prompt in the rollout, over all ranks; by default 0, 1, ...
        most_rows: rows decoded at once, by default as many as a cache of bounded size holds; prompts are sorted by
            length, so that each wave's are alike.
        report: given the share that is done, 0 to 1, after each token of a wave: its rows that ended, and of the others
            their part of `max_new_tokens`.

    Returns:
        One answer a prompt, in the prompts' order.

    Raises:
        InputError: a prompt and its answer may be longer than the model's positions reach.
    """
    if not prompts:
        return []
    _check_positions(model, max(map(len, prompts)) + sampling.max_new_tokens)
    numbers = list(range(len(prompts))) if rows is None else list(rows)
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    most = most_rows or rows_at_once(model, max(map(len, prompts)) + sampling.max_new_tokens)
    answers: list[Answer | None] = [None] * len(prompts)
    training = model.training
    model.eval()
    try:
        for start in range(0, len(order), most):
            wave = order[start : start + most]
            noise = np.stack([uniforms(seed, step, numbers[index], sampling.max_new_tokens) for index in wave])
            report_wave = partial(_report_part, report, start / len(order), len(wave) / len(order))
            wave_answers = _Wave(model, [prompts[index] for index in wave], sampling, noise).run(report_wave)
            for index, answer in zip(wave, wave_answers, strict=True):
                answers[index] = answer
    finally:
        model.train(training)
    return [answer for answer in answers if answer is not None]


def _report_part(report: Callable[[float], object] | None, before: float, size: float, share: float) -> None:
    if report is not None:
        report(before + size * share)


def _check_positions(model: Any, longest: int) -> None:
    most = row_length(model, longest)
    if longest > most:
        raise InputError(
            f"found prompts whose answers may reach {longest} tokens with maxNewTokens; the model takes rows of {most} "
            "(positions of its own, or dynamic and longrope, which depend on the longest row): lower maxPromptTokens or "
            "maxNewTokens"
        )


def rows_at_once(model: Any, columns: int) -> int:
    """Rows whose keys and values fit CACHE_BYTES on the CPU, or CACHE_SHARE of what is free on a GPU; at least one.

    On a GPU a power of two: what is free differs a little from run to run, and with the rows of a product its last bits.
    """
    config, weight = model.config.get_text_config(), next(model.parameters())
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * config.num_hidden_layers * heads * size * columns * weight.element_size()
    if weight.device.type != "cuda":
        return max(1, min(MOST_ROWS, int(CACHE_BYTES // row)))
    return max(1, min(MOST_ROWS, power_of_two(int(CACHE_SHARE * free_bytes(weight.device)) // row)))


def free_bytes(device: torch.device) -> int:
    """Of a GPU: what the driver has left, and what torch's allocator keeps but does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def power_of_two(count: int) -> int:
    """The largest that is at most `count`; 0 of 0."""
    return 1 << (count.bit_length() - 1) if count else 0


def draw(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """Tokens by inversion: the first whose cumulative probability passes the row's number.

    Args:
        logits: [B, V].
        temperature: 0: the most probable token.
        noise: [B] in [0, 1).

    Returns:
        [B] ids; a token of probability 0 is never drawn.

    Raises:
        GuardTripped: a row of logits has a NaN, or none above -inf.
    """
    logits = logits.float()
    if temperature == 0:
        highest, tokens = logits.max(-1)
        _check_finite(highest)
        return tokens
    cumulative = torch.softmax(logits / temperature, dim=-1).cumsum(-1)
    total = cumulative[:, -1:]
    _check_finite(total)
    below = torch.nextafter(total, torch.zeros_like(total))  # a product rounded up to the total would pass every token
    threshold = torch.minimum(noise.to(cumulative)[:, None] * total, below)
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def _check_finite(of_rows: Tensor) -> None:
    if not of_rows.isfinite().all():
        raise GuardTripped(
            "the model gives logits that are not finite: no token can be drawn. Its weights were damaged or training "
            "diverged; go back to an earlier checkpoint with a lower learningRate",
            reason="NaN",
        )


class _Wave:
    """Rows decoded side by side; `_index[i]` says which of them row i of the cache is."""

    def __init__(
        self, model: Any, prompts: list[list[int]], sampling: Sampling, noise: npt.NDArray[np.float64]
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._sampling = sampling
        self._device = next(model.parameters()).device
        self._noise = torch.from_numpy(noise).to(self._device)
        self._ids: list[list[int]] = [[] for _ in prompts]
        self._width = max(len(prompt) for prompt in prompts)
        self._cache: EvictingCache = new_cache(model.config, len(prompts), self._width + sampling.max_new_tokens)

    def run(self, report: Callable[[float], object]) -> list[Answer]:
        tokens = self._prefill()
        index = list(range(len(self._prompts)))
        for done in range(1, self._sampling.max_new_tokens + 1):
            chosen = tokens.tolist()
            for row, token in enumerate(chosen):
                self._ids[index[row]].append(token)
            ended = [row for row, token in enumerate(chosen) if self._ends(token, self._ids[index[row]])]
            keep = self._evict(index, ended, self._width + done - 1)
            report(1 - len(index) / len(self._ids) * (1 - done / self._sampling.max_new_tokens))
            if not index or done == self._sampling.max_new_tokens:
                break
            tokens = self._step(tokens[keep] if ended else tokens, index, done)
        return [Answer(ids, ids[-1] in self._sampling.eos) for ids in self._ids]

    def _ends(self, token: int, ids: list[int]) -> bool:
        ends = self._sampling.ends
        return token in self._sampling.eos or (ends is not None and ends(ids))

    def _prefill(self) -> Tensor:
        """First tokens of all rows: prompts in groups of like length, right-aligned in the cache."""
        first: list[Tensor] = []
        start = 0
        while start < len(self._prompts):
            size = max(1, PREFILL_TOKENS // len(self._prompts[start]))
            group = slice(start, min(start + size, len(self._prompts)))
            ids, mask = right_aligned(self._prompts[group], self._sampling.eos[0], self._device)
            self._cache.prefill(group, self._width, ids.shape[1])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            logits = self._forward(ids, mask, positions)
            first.append(draw(logits, self._sampling.temperature, self._noise[group, 0]))
            start = group.stop
        return torch.cat(first)

    def _step(self, tokens: Tensor, index: list[int], done: int) -> Tensor:
        """The next token of every row left; `done` tokens of each are known, the last of them not yet in the cache."""
        lengths = torch.tensor([len(self._prompts[row]) for row in index], device=self._device)
        start = self._width - max(len(self._prompts[row]) for row in index)
        end = self._width + done - 1
        self._cache.decode(len(index), start, end)
        columns = torch.arange(start, end + 1, device=self._device)
        mask = (columns[None, :] >= self._width - lengths[:, None]).long()
        logits = self._forward(tokens[:, None], mask, (lengths + done - 1)[:, None])
        return draw(logits, self._sampling.temperature, self._noise[index, done])

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """[B, V] logits after the last column."""
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _evict(self, index: list[int], ended: list[int], filled: int) -> list[int]:
        """Take ended rows out; the last ones move into their places. Gives the places to keep of the step's tokens."""
        places = list(range(len(index)))
        for row in reversed(ended):
            last = len(index) - 1
            if row != last:
                self._cache.move(last, row, filled)
                index[row], places[row] = index[last], places[last]
            index.pop()
            places.pop()
        return places
