"""Answers of a `simulate` stage beside transformers' `generate`: same model, prompts with their phrases, batch and machine.

    python benchmarks/simulate.py MODEL PROMPTS [--limit 48] [--batch 32] [--new 128] [--rounds 2]

MODEL: a folder that transformers reads. PROMPTS: a file of any of the project's data formats. Both sides answer the same
RLCD prompts, at most `--batch` rows at a time, at temperature 1 without top-k and top-p: transformers in the file's order,
as its users do, we as the stage does: longest prompts first, answers that ended leave. Each counts the tokens it made,
EOS included; answers end where the model ends them. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlhf_api.fields import DataRef
from rlhf_api.stages.simulate import Simulate
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.data.load import load_prompts
from rlhf_trainer.generation import sample as ours
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.prompt_format import ask

LONGEST_PROMPT = 512


def prompt_ids(tokenizer: Any, path: str, limit: int) -> list[list[int]]:
    """Ids of both sides of each prompt's pair, as the stage asks them."""
    source = SimpleNamespace(path=str(Path(path).resolve()), input=None)
    prompts, _ = load_prompts(SimpleNamespace(input=lambda ref: source), [DataRef(input="prompts", limit=limit)])
    spec = {"model": {"input": "m"}, "prompts": [{"input": "p"}], "rlcd": {}}
    method = Method(Simulate.model_validate(spec), seed=0)
    return [
        ask(tokenizer, prompt.messages, "template", last, earlier).ids[-LONGEST_PROMPT:]
        for number, prompt in enumerate(prompts)
        for last, earlier in method.request(number).phrases
    ]


class Theirs:
    """transformers' generate, batch after batch in the file's order."""

    def __init__(self, model: Any, rows: list[list[int]], batch: int, new: int, eos: int) -> None:
        self.model, self.rows, self.batch, self.eos = model, rows, batch, eos
        self.config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new, eos_token_id=eos, pad_token_id=eos
        )

    def run(self) -> int:
        """Tokens made."""
        tokens = 0
        for start in range(0, len(self.rows), self.batch):
            part = self.rows[start : start + self.batch]
            width = max(map(len, part))
            ids = torch.tensor([[self.eos] * (width - len(row)) + row for row in part])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
            sequences = self.model.generate(ids, attention_mask=mask, generation_config=self.config)
            for row in sequences[:, width:].tolist():
                tokens += row.index(self.eos) + 1 if self.eos in row else len(row)
        return tokens


class Ours:
    """The stage's sampling."""

    def __init__(self, model: Any, rows: list[list[int]], batch: int, new: int, eos: int) -> None:
        self.model, self.rows, self.batch = model, rows, batch
        self.sampling = ours.Sampling(1.0, new, (eos,))

    def run(self) -> int:
        """Tokens made."""
        answers = ours.sample(self.model, self.rows, self.sampling, seed=0, most_rows=self.batch)
        return sum(len(answer.ids) for answer in answers)


def main() -> None:
    """Time both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    prepare_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    rows = prompt_ids(tokenizer, options.prompts, options.limit)
    shared = (model, rows, options.batch, options.new, tokenizer.eos_token_id)
    sides: dict[str, Ours | Theirs] = {"ours": Ours(*shared), "transformers": Theirs(*shared)}
    torch.manual_seed(0)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, int] = {}
    for turn in range(options.rounds + 1):
        for name, side in sides.items():
            start = time.process_time()
            tokens[name] = side.run()
            if turn:  # the first warms both up
                rates[name].append(tokens[name] / (time.process_time() - start))
    mine, theirs = (statistics.median(rates[name]) for name in sides)
    lengths = [len(row) for row in rows]
    print(
        json.dumps(
            {
                "rows": len(rows),
                "prompt_tokens": {"shortest": min(lengths), "longest": max(lengths)},
                "batch": options.batch,
                "longest_answer": options.new,
                "tokens": tokens,
                "ours_tokens_per_processor_s": round(mine, 1),
                "transformers_tokens_per_processor_s": round(theirs, 1),
                "ratio": round(mine / theirs, 2),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
