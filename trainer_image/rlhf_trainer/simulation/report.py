"""What is left of a simulation: rows kept, why others were dropped, the audit sample, and what the report says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_api.stages.simulate import Simulate
from rlhf_trainer.data.load import canonical
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.simulation.attacks import Attack, row_of, select
from rlhf_trainer.simulation.choices import agree, centred
from rlhf_trainer.simulation.filters import Filter
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.rows import Answered, Json, blind, completions, conversation, pair
from rlhf_trainer.simulation.sampling import ORDER, drawn
from rlhf_trainer.statistics.intervals import Floats, clustered, wilson

VERSION = "1"
BINS = 10
"""Of the soft labels, from 0.5 to 1."""
AUDIT_SHARE = 10
"""At most one in so many rows is set aside for people."""


@dataclass
class Outcome:
    """A simulation's product before it is written."""

    rows: list[Json] = field(default_factory=list)
    """The data."""
    audit: list[Json] = field(default_factory=list)
    """Rows for people to check, blind."""
    keys: list[Json] = field(default_factory=list)
    """The same rows as they were made, by `number`."""
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    content: Json = field(default_factory=dict)
    """`simulation.json`."""


def of_answers(
    method: Method, answered: Iterable[Answered], provenance: Mapping[str, Any], *, answers: Iterable[Json]
) -> Outcome:
    """Rows of a method that answers prompts.

    Args:
        method: which.
        answered: every row, in order.
        provenance: what all rows share.
        answers: the rows of the shards, for counts.
    """
    judge = Filter()
    dropped: Counter[str] = Counter()
    kept: list[tuple[Answered, list[Json]]] = []
    made: Counter[int | None] = Counter()
    for one in answered:
        made[one.request.drawn] += 1
        why = judge.reason(one.prompt.messages, one.texts, one.request.told)
        if why is not None:
            dropped[why] += 1
        else:
            kept.append((one, _rows(method.name, one, provenance)))
    outcome = _set_aside(method.spec, method.seed, [rows for _, rows in kept], dropped)
    whole = [one for one, _ in kept]
    outcome.counts |= _counted(answers)
    if method.judged is not None and whole:
        outcome.content["judging"] = judging(whole, constructed=method.name == "rlcdRescore")
        outcome.metrics |= {name: outcome.content["judging"][name] for name in ("order_agreement", "order_bias")}
    if method.answers == 2 and whole:
        outcome.content["lengths"] = pair_lengths(whole)
        outcome.metrics["chosen_shorter"] = outcome.content["lengths"]["chosen_shorter"]
    used = Counter(one.request.drawn for one in whole)
    outcome.content["asks"] = [
        {**ask._asdict(), "drawn": made[index], "kept": used[index]} for index, ask in enumerate(method.asks)
    ]
    outcome.notes += _notes(outcome)
    return outcome


def of_attacks(
    spec: Simulate, seed: int, attacks: Sequence[Attack], prompts: Sequence[Prompt], provenance: dict[str, Any]
) -> Outcome:
    """Prompts of a red-teaming stage."""
    assert spec.red_team is not None
    kept, dropped = select(attacks, prompts, spec.red_team.keep)
    left = len(attacks) - len(dropped) - len(kept)
    reasons = Counter(dropped.values())
    if left:
        reasons["answered less badly"] = left
    outcome = _set_aside(spec, seed, [[row_of(attack, provenance)] for attack in kept], reasons)
    judged = [attack.harm for attack in attacks if attack.harm is not None]
    outcome.content["attacks"] = {
        "written": len(attacks),
        "harmful": wilson(sum(harm > 0 for harm in judged), len(judged)).as_json() if judged else None,
        "mean_harm": float(np.mean(judged)) if judged else None,
        "mean_harm_kept": float(np.mean([attack.harm for attack in kept])) if kept else None,
    }
    if judged:
        outcome.metrics["harmful"] = outcome.content["attacks"]["harmful"]
    return outcome


def _counted(answers: Iterable[Json]) -> dict[str, int]:
    """What became of the answers, from the rows of the shards."""
    counts = dict.fromkeys(("answers", "answers.cut_prompt", "answers.without_end", "turns.unmarked", "tokens"), 0)
    for row in answers:
        counts["answers"] += 1
        counts["answers.cut_prompt"] += row["cut"] > 0
        counts["answers.without_end"] += not row["finished"]
        counts["turns.unmarked"] += row["unmarked"]
        counts["tokens"] += len(row["ids"])
    return counts


def judging(answered: Sequence[Answered], *, constructed: bool) -> Json:
    """What the judge's choices are worth: agreement of both orders, lean to a place, certainty.

    A judge that answers by place alone agrees with itself never; one that answers at random, half the time. With the
    mean lean taken out, what is left of a judge's choices is compared.
    """
    both = [one.choices for one in answered if one.choices is not None]
    odds = [(first.log_odds, second.log_odds) for first, second in both]
    chosen = [max(one.probability, 1 - one.probability) for one in answered if one.choices is not None]
    prompts = _prompts([one for one in answered if one.choices is not None])
    counts, _ = np.histogram(chosen, bins=BINS, range=(0.5, 1.0))
    found: Json = {
        "order_agreement": clustered(_array(agree(*one) for one in odds), prompts).as_json(),
        "centred_agreement": clustered(_array(agree(*one) for one in centred(odds)), prompts).as_json(),
        "order_bias": float(np.mean([(first + second) / 2 for first, second in odds])),
        "label_mass": float(np.mean([(first.mass + second.mass) / 2 for first, second in both])),
        "certainty": float(np.mean(chosen)),
        "bins": [
            {"low": 0.5 + 0.5 * index / BINS, "high": 0.5 + 0.5 * (index + 1) / BINS, "n": int(count)}
            for index, count in enumerate(counts)
        ],
    }
    if constructed:
        agreed = _array((one.probability > 0.5) + 0.5 * (one.probability == 0.5) for one in answered)
        found["construction_agreement"] = clustered(agreed, _prompts(answered)).as_json()
    return found


def pair_lengths(kept: Sequence[Answered]) -> Json:
    """Whether length alone tells which answer was preferred: a reward model would learn that first."""
    chosen, rejected = [], []
    for one in kept:
        first, second = one.tokens if one.probability >= 0.5 else one.tokens[::-1]
        chosen.append(first)
        rejected.append(second)
    shorter = _array((a < b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True))
    return {
        "chosen": float(np.mean(chosen)),
        "rejected": float(np.mean(rejected)),
        "chosen_shorter": clustered(shorter, _prompts(kept)).as_json(),
    }


def _array(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64)


def _prompts(answered: Sequence[Answered]) -> list[bytes]:
    """What each answers: several samples of one prompt are not independent."""
    return [canonical(one.prompt.messages) for one in answered]


def _rows(name: str, one: Answered, provenance: Mapping[str, Any]) -> list[Json]:
    if name == "completions":
        return completions(one, provenance)
    return [conversation(one, provenance) if name == "contextDistillation" else pair(one, provenance)]


def _set_aside(spec: Simulate, seed: int, kept: Sequence[list[Json]], dropped: Counter[str]) -> Outcome:
    """Draw the audit sample: which rows, and the order in which people see them and a pair's answers."""
    count = min(spec.audit, len(kept) // AUDIT_SHARE)
    apart = set(drawn(seed, ORDER, 0, count, len(kept)))
    swapped = set(drawn(seed, ORDER, 1, count // 2, count))
    outcome = Outcome(rows=[row for index, rows in enumerate(kept) if index not in apart for row in rows])
    sample = [(row, number in swapped) for number, index in enumerate(sorted(apart)) for row in kept[index]]
    for number, place in enumerate(drawn(seed, ORDER, 2, len(sample), len(sample))):  # completions come by grade
        row, swap = sample[place]
        outcome.audit.append(blind(row, number, swap))
        outcome.keys.append({"number": number, "swapped": swap, **row})
    outcome.counts = {
        "rows.made": len(kept) + dropped.total(),
        "rows.kept": len(kept),
        "rows.audit": len(outcome.audit),
        "rows.written": len(outcome.rows),
        **{f"rows.rejected.{why.replace(' ', '_')}": number for why, number in sorted(dropped.items())},
    }
    outcome.content = {"version": VERSION, "method": spec.method, "dropped": dict(sorted(dropped.items()))}
    return outcome


def _notes(outcome: Outcome) -> list[str]:
    said = []
    judged = outcome.content.get("judging")
    if judged is not None:
        for name, meaning in (
            ("order_agreement", "the place of an answer decides as much as the answer"),
            ("centred_agreement", "with its mean lean taken out the place still does; the labels rest on little"),
        ):
            agreed = judged[name]
            if agreed["low"] is not None and agreed["low"] <= 0.5:
                said.append(
                    f"both orders agree on {agreed['value']:.3f} of the pairs ({agreed['low']:.3f} to "
                    f"{agreed['high']:.3f}), which is not above a coin's 0.5: {meaning}"
                )
        if judged["label_mass"] < 0.5:
            said.append(
                f"the judge gives A and B together {judged['label_mass']:.3f} of the probability: it mostly wants to "
                "say something else"
            )
    if outcome.counts.get("turns.unmarked"):
        said.append(
            f"{outcome.counts['turns.unmarked']} earlier turns carry no phrase: the chat template writes them "
            "differently once they are history"
        )
    lengths = outcome.content.get("lengths")
    if lengths is not None and lengths["chosen_shorter"]["low"] is not None:
        share = lengths["chosen_shorter"]
        if not share["low"] <= 0.5 <= share["high"]:
            which = "shorter" if share["value"] > 0.5 else "longer"
            right = max(share["value"], 1 - share["value"])
            said.append(
                f"taking the {which} answer is right on {right:.3f} of the pairs: a reward model may learn that"
            )
    return said
