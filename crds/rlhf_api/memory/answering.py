"""Memory of `evaluate`, `simulate` and `rules`: models that answer, weigh or judge."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_api.fields import DataRef, Reference, references
from rlhf_api.memory.terms import CHUNK_LOGITS, TOKENS, Device, Moment, Terms
from rlhf_api.stages import Evaluate, Rules, Simulate

SHARD = 64
"""Prompts that `simulate` answers at once."""
CACHE = 2 << 30
"""Keys and values that sampling keeps on a CPU at most."""
JUDGE_TOKENS = 8192
"""Tokens of a forward of a judge that is asked in words."""
QUESTION = 128
"""About the tokens of what it is asked, beside dialogue and answers."""
GRADE_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward of a grader."""
GRADE_ROWS = 256
"""About as many questions in a forward of a grader."""


def of_evaluation(terms: Terms, spec: Evaluate) -> list[Moment]:
    """A moment a model."""
    graders = [terms.grader(spec.rule_based)] if spec.rule_based is not None else []
    guards = [judge.model for judge in spec.judges if judge.model is not None and judge.asks == "guard"]
    judges = [judge.model for judge in spec.judges if judge.model is not None and judge.asks != "guard"]
    scorers = [*spec.rewards, *spec.costs, *([spec.refusal] if spec.refusal is not None else [])]
    answering = [spec.baseline, *spec.candidates, *scorers, *guards, *graders]
    longer = bool(spec.dialogues or spec.attacks)
    return _asked(terms, spec, answering, 0, longer=longer) + [_judging(terms, spec, judge) for judge in judges]


def _judging(terms: Terms, spec: Evaluate, judge: Reference) -> Moment:
    """A judge reads a dialogue and two answers, in one forward; its labels' logits are float64."""
    (model, where), size = terms.model(judge), terms.size(spec.dtype)
    prompt = terms.longest(spec.prompts, spec.generation.max_prompt_tokens)
    row = prompt + 2 * spec.generation.max_new_tokens + QUESTION
    tokens = max(JUDGE_TOKENS, row)
    return {
        "weights": size * where.copies * model.parameters,
        "keys and values": 2 * size * tokens * model.layers * model.key,
        "forward": terms.forward(model, tokens, size),
        "logits": 2 * 8 * (tokens // row) * model.vocabulary,
    }


def of_simulation(terms: Terms, spec: Simulate) -> list[Moment]:
    """A moment a model."""
    used = [reference for reference in references(spec) if not isinstance(reference, DataRef)]
    return _asked(terms, spec, used, SHARD * 2 * spec.generation.samples)


def _asked(
    terms: Terms, spec: Evaluate | Simulate, models: Sequence[Reference], least: int, *, longer: bool = False
) -> list[Moment]:
    """Models are held one at a time; answers are sampled (`least` at once, as far as the cache allows), weighed and
    judged in turn. Histories grow to the longest prompt that the stage lets be, whatever its rows."""
    size = terms.size(spec.dtype)
    moments = []
    most = spec.generation.max_prompt_tokens
    prompt = most if longer else terms.longest(spec.prompts, most)
    row = prompt + spec.generation.max_new_tokens
    rows = max(1, TOKENS // row)
    for reference in models:
        if reference.key.startswith("function:"):
            continue
        model, where = terms.model(reference)
        cached = 2 * size * row * model.layers * model.key
        moments.append(
            {
                "weights": size * where.copies * model.parameters,
                "keys and values": max(rows * cached, min(least * cached, CACHE)),
                "forward": terms.forward(model, rows * row, size),
                "logits": 2 * 4 * CHUNK_LOGITS,
            }
        )
    return moments


def of_rules(terms: Terms, spec: Rules) -> list[Moment]:
    """Grader and reward model in turn; of grading, the beginnings' keys and values stay while questions run."""
    size, moments = terms.size(spec.dtype), []
    longest = terms.longest([*spec.completions, *spec.gold], spec.max_tokens)
    budget = GRADE_TOKENS[terms.device]
    for reference in ([spec.grader] if spec.grader is not None else []) + [spec.reward]:
        if reference.key.startswith("function:"):
            continue
        model, where = terms.model(reference)
        tokens = max(longest, budget)
        moments.append(
            {
                "weights": size * where.copies * model.parameters,
                "keys and values": 2 * size * tokens * model.layers * model.key,
                "forward": terms.forward(model, tokens, size),
                "logits": 2 * 4 * GRADE_ROWS * model.vocabulary,
            }
        )
    return moments
