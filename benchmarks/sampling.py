"""Our sampling beside transformers' `generate`: same model, prompts, temperature and machine, answers of mixed lengths.

    python benchmarks/sampling.py MODEL [--rows 16] [--longest 96] [--rounds 3] [--dtype float32] [--device cpu]

MODEL: a folder that transformers reads. Answers end after lengths drawn once from 8 to `longest` (EOS made certain
there, impossible before), so that both sides decode exactly the same number of tokens. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList

from rlhf_trainer.generation import sample as ours

SHORTEST = 8
TEMPERATURE = 1.0


class EndsAt(LogitsProcessor):
    """transformers' side: EOS is impossible before a row's length and certain at it."""

    def __init__(self, lengths: list[int], prompt: int, eos: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.prompt, self.eos = prompt, eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        over = input_ids.shape[1] - self.prompt + 1 >= self.lengths.to(scores.device)
        scores[:, self.eos] = torch.where(over, torch.inf, -torch.inf).to(scores)
        return torch.nan_to_num(scores, posinf=1e4)


class Ending(ours._Wave):
    """Our side: the same rule, put where tokens are drawn."""

    lengths: list[int]

    def _step(self, tokens: Any, index: list[int], done: int) -> torch.Tensor:
        return self._end(super()._step(tokens, index, done), index, done)

    def _prefill(self) -> torch.Tensor:
        return self._end(super()._prefill(), list(range(len(self._prompts))), 0)

    def _end(self, tokens: torch.Tensor, index: list[int], done: int) -> torch.Tensor:
        (eos,) = self._sampling.eos
        over = torch.tensor([done + 1 >= self.lengths[row] for row in index], device=tokens.device)
        tokens = torch.where(tokens == eos, eos + 1, tokens)
        return torch.where(over, eos, tokens)


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """(wall, processor) time of a call; the second tells more on a machine that others use too."""
    start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    """Time both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--longest", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    model.to(options.device).eval()
    eos = int(model.config.eos_token_id)
    draw = np.random.default_rng(0)
    most = min(20000, model.config.vocab_size)
    prompts = [draw.integers(5, most, draw.integers(8, 33)).tolist() for _ in range(options.rows)]
    lengths = draw.integers(SHORTEST, options.longest + 1, options.rows).tolist()
    order = sorted(range(options.rows), key=lambda row: (-len(prompts[row]), row))
    Ending.lengths = [lengths[row] for row in order]  # rows of a wave are sorted by prompt length
    sampling = ours.Sampling(TEMPERATURE, options.longest, (eos,))
    config = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
        max_new_tokens=options.longest,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    width = max(map(len, prompts))
    ids = torch.tensor([[eos] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    produced: dict[str, int] = {}

    def their_side() -> None:
        sequences = model.generate(
            ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([EndsAt(lengths, width, eos)]),
        )
        answers = sequences[:, width:].tolist()
        produced["transformers"] = sum(row.index(eos) + 1 for row in answers)

    def our_side() -> None:
        plain, ours._Wave = ours._Wave, Ending  # type: ignore[misc]
        try:
            sequences = ours.sample(model, prompts, sampling, seed=0)
        finally:
            ours._Wave = plain  # type: ignore[misc]
        produced["ours"] = sum(len(answer.ids) for answer in sequences)

    our_side()
    their_side()
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "transformers": []}
    for _ in range(options.rounds):
        times["ours"].append(seconds(our_side))
        times["transformers"].append(seconds(their_side))
    mine, theirs = (statistics.median(wall for wall, _ in times[name]) for name in ("ours", "transformers"))
    cpu = {name: statistics.median(used for _, used in times[name]) for name in times}
    print(
        json.dumps(
            {
                "rows": options.rows,
                "longest": options.longest,
                "tokens": produced,
                "ours_s": round(mine, 2),
                "transformers_s": round(theirs, 2),
                "ours_tokens_per_s": round(produced["ours"] / mine, 1),
                "transformers_tokens_per_s": round(produced["transformers"] / theirs, 1),
                "ratio": round(theirs / mine, 2),
                "processor_ratio": round(cpu["transformers"] / cpu["ours"], 2),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
