"""A model's answers to the prompts of a shard, and how likely a model finds answers that were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rlhf_api.stages.evaluate import Generation
from rlhf_api.template import Template
from rlhf_trainer.data.batches import buckets
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.data.spoken import spoken_text
from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.generation.logprobs import lay_out, log_probs
from rlhf_trainer.generation.sample import Sampling, sample
from rlhf_trainer.models.lengths import prompt_room
from rlhf_trainer.models.load import check_logits, load_policy
from rlhf_trainer.models.vocabulary import end_ids, fit_vocabulary

FORWARD_TOKENS = 8192
"""Most tokens (padding included) of a forward that only reads."""


class Answering:
    """A policy that answers, in evaluation mode on the stage's device."""

    def __init__(
        self, path: str, dtype: str, device: torch.device, cache: Any, template: Template | None = None
    ) -> None:
        self.model, self.tokenizer = load_policy(path, dtype, cache)
        self.notes = prepare_tokenizer(self.tokenizer, template)
        fit_vocabulary(self.model, self.tokenizer)
        self.model.to(device).eval()
        self.device = device
        self.path = path

    def answers(
        self,
        prompts: Sequence[Prompt],
        first: int,
        how: Generation,
        seed: int,
        report: Callable[[float], object] | None = None,
        *,
        written: bool = False,
        step: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Rows:
        """Sample: `{prompt, sample, prompt_ids, cut, ids, finished, text}` a row, samples of a prompt together.

        Args:
            prompts: of one shard.
            first: number of the first of them among all prompts: an answer's random numbers are those of its prompt.
            how: temperature, lengths, samples.
            seed: of the stage; every model gets the same numbers for the same prompt.
            report: given the share of the answers that is made, 0 to 1.
            written: a model wrote the prompts, as for `write_prompt`.
            step: of the random numbers, beside the prompt's number: later turns of a dialogue have others.
            numbers: of the answers, where they are not those of prompts one after the other; one sample each.
        """
        full_prompts = [
            encode_prompt(self.tokenizer, prompt.messages, tools=prompt.tools, written=written) for prompt in prompts
        ]
        room = prompt_room([self.model], how.max_prompt_tokens, how.max_new_tokens)
        encoded = [ids[-room:] for ids in full_prompts]
        repeated = [ids for ids in encoded for _ in range(how.samples)]
        own_numbers = [first * how.samples + index for index in range(len(repeated))] if numbers is None else numbers
        sampling = Sampling(how.temperature, how.max_new_tokens, end_ids(self.model, self.tokenizer))
        sampled = sample(self.model, repeated, sampling, seed=seed, step=step, rows=own_numbers, report=report)
        rows = []
        for index, answer in enumerate(sampled):
            prompt_index, sample_index = divmod(index, how.samples)
            rows.append(
                {
                    "prompt": first + prompt_index,
                    "sample": sample_index,
                    "prompt_ids": encoded[prompt_index],
                    "cut": len(full_prompts[prompt_index]) - len(encoded[prompt_index]),
                    "ids": answer.ids,
                    "finished": answer.finished,
                    "text": spoken_text(self.tokenizer, answer.spoken),
                }
            )
        return rows

    @torch.no_grad()
    def log_probs(self, rows: Rows, temperature: float) -> list[list[float]]:
        """Log-probability of each token of each answer, at the temperature it was sampled with; nats.

        Raises:
            InputError: the model's logits are more than its head's product.
        """
        check_logits(self.model, f"KL ({self.path})")
        by_answer: list[list[float]] = [[] for _ in rows]
        lengths = [len(row["prompt_ids"]) + len(row["ids"]) for row in rows]
        for batch in buckets(lengths, FORWARD_TOKENS):
            prompts, answers = ([rows[index][key] for index in batch] for key in ("prompt_ids", "ids"))
            layout = lay_out(prompts, answers, self.tokenizer.pad_token_id, self.device)
            hidden = self.model.base_model(
                input_ids=layout.input_ids,
                attention_mask=layout.attention_mask,
                position_ids=layout.position_ids,
                use_cache=False,
            ).last_hidden_state
            flat, _ = log_probs(layout.gather(hidden), self.model.get_output_embeddings(), layout.targets, temperature)
            values = iter(flat.double().tolist())
            for index, answer in zip(batch, answers, strict=True):
                by_answer[index] = [next(values) for _ in answer]
        return by_answer


def divergence(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Two estimates of KL(ours || theirs) from one answer of ours, in nats, summed over its tokens.

    Args:
        ours: log-probability of each token under the model that sampled it.
        theirs: the same under the other.

    Returns:
        (k1, k3) of Schulman's "Approximating KL divergence" (2020): k1 = log p - log q, unbiased, of either sign;
        k3 = q/p - 1 - log(q/p) a token, unbiased too, never negative, with a heavy tail where q is much above p.
    """
    k = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return float(k.sum()), float((np.expm1(-k) + k).sum())
