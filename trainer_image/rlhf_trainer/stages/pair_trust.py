"""How far a scorer can be trusted, by its raw scores of pairs that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_trainer.data.pairs import Pairs
from rlhf_trainer.models.scorer import Rule
from rlhf_trainer.statistics.calibration import Trust, pair_trust, sign_trust


def judge(
    rule: Rule, scores: NDArray[np.float64], data: Pairs, pairs: Sequence[int], answers: Sequence[tuple[str, str]]
) -> Trust:
    """What held-out pairs say of a scorer: of its order, for costs of its signs, and of its members' disagreement.

    Args:
        rule: How members are combined.
        scores: [2, members, P] raw scores.
        data: The pairs.
        pairs: [P] which of them.
        answers: [2 P] (prompt, answer) of each pair's answers in turn: an answer in several pairs counts once.
    """
    both, spread = rule.combined(torch.from_numpy(scores.transpose(1, 0, 2).reshape(rule.members, -1)))
    first, second = both.numpy().reshape(2, -1)
    lengths = data.answer_lengths(pairs)
    what = "more harmful" if rule.kind == "cost" else "better"
    prompts = [prompt for prompt, _ in answers]
    trust = pair_trust(first, second, lengths[0], lengths[1], what=what, prompts=prompts[::2])
    if rule.members > 1 and len(pairs):
        right = (np.sign(scores[0] - scores[1]) / 2 + 0.5).mean(1)
        trust.metrics["disagreement"] = float(spread.mean())
        trust.metrics["accuracy_members"] = [float(value) for value in right]
    if rule.kind == "cost":
        flat = np.stack([first, second], axis=1).reshape(-1)
        signs = data.signs[list(pairs)].numpy().reshape(-1).astype(np.float64)
        distinct = sorted({answer: index for index, answer in reversed(list(enumerate(answers)))}.values())
        signed = sign_trust(flat[distinct], signs[distinct], [prompts[index] for index in distinct])
        trust.metrics |= signed.metrics
        trust.notes += signed.notes
    return trust
