"""What is left of a simulation: rows kept, why others were dropped, the audit sample, and what the report says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_api.stages.simulate import Simulate
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.data.splits import canonical
from rlhf_trainer.simulation.attacks import Attack, row_of, select
from rlhf_trainer.simulation.filters import Filter
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.rows import Answered, Json, blind, completions, conversation, pair
from rlhf_trainer.simulation.sampling import ORDER, drawn
from rlhf_trainer.statistics.choices import agree, centred
from rlhf_trainer.statistics.intervals import Floats, clustered, wilson

VERSION = "1"
BINS = 10
"""Of the soft labels, from 0.5 to 1."""
AUDIT_SHARE = 10
"""At most one in so many rows is set aside for people."""


@dataclass
class SimulationReport:
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
) -> SimulationReport:
    """Rows of a method that answers prompts.

    Args:
        method: which.
        answered: every row, in order.
        provenance: what all rows share.
        answers: the rows of the shards, for counts.
    """
    judge = Filter()
    dropped: Counter[str] = Counter()
    accepted: list[tuple[Answered, list[Json]]] = []
    draw_counts: Counter[int | None] = Counter()
    for row in answered:
        draw_counts[row.request.drawn] += 1
        why = judge.reason(row.prompt.messages, row.texts, row.request.secret_phrases)
        if why is not None:
            dropped[why] += 1
        else:
            accepted.append((row, _rows(method.name, row, provenance)))
    outcome = _set_aside(method.spec, method.seed, [rows for _, rows in accepted], dropped)
    accepted_rows = [row for row, _ in accepted]
    outcome.counts |= _counted(answers)
    if method.judged is not None and accepted_rows:
        outcome.content["judging"] = judging(accepted_rows, constructed=method.name == "rlcdRescore")
        outcome.metrics |= {name: outcome.content["judging"][name] for name in ("order_agreement", "order_bias")}
    if method.answers == 2 and accepted_rows:
        outcome.content["lengths"] = pair_lengths(accepted_rows)
        outcome.metrics["chosen_shorter"] = outcome.content["lengths"]["chosen_shorter"]
    used = Counter(row.request.drawn for row in accepted_rows)
    outcome.content["asks"] = [
        {**ask._asdict(), "drawn": draw_counts[index], "kept": used[index]} for index, ask in enumerate(method.asks)
    ]
    outcome.notes += _notes(outcome)
    return outcome


def of_attacks(
    spec: Simulate, seed: int, attacks: Sequence[Attack], prompts: Sequence[Prompt], provenance: dict[str, Any]
) -> SimulationReport:
    """Prompts of a red-teaming stage."""
    assert spec.red_team is not None
    worst, dropped = select(attacks, prompts, spec.red_team.keep)
    milder = len(attacks) - len(dropped) - len(worst)
    reasons = Counter(dropped.values())
    if milder:
        reasons["answered less badly"] = milder
    outcome = _set_aside(spec, seed, [[row_of(attack, provenance)] for attack in worst], reasons)
    judged = [attack.harm for attack in attacks if attack.harm is not None]
    outcome.content["attacks"] = {
        "written": len(attacks),
        "harmful": wilson(sum(harm > 0 for harm in judged), len(judged)).as_json() if judged else None,
        "mean_harm": float(np.mean(judged)) if judged else None,
        "mean_harm_kept": float(np.mean([attack.harm for attack in worst])) if worst else None,
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
    both = [row.choices for row in answered if row.choices is not None]
    odds = [(first.log_odds, second.log_odds) for first, second in both]
    chosen = [max(row.probability, 1 - row.probability) for row in answered if row.choices is not None]
    prompts = _prompts([row for row in answered if row.choices is not None])
    counts, _ = np.histogram(chosen, bins=BINS, range=(0.5, 1.0))
    measures: Json = {
        "order_agreement": clustered(_array(agree(*both_odds) for both_odds in odds), prompts).as_json(),
        "centred_agreement": clustered(_array(agree(*both_odds) for both_odds in centred(odds)), prompts).as_json(),
        "order_bias": float(np.mean([(first + second) / 2 for first, second in odds])),
        "label_mass": float(np.mean([(first.mass + second.mass) / 2 for first, second in both])),
        "certainty": float(np.mean(chosen)),
        "bins": [
            {"low": 0.5 + 0.5 * index / BINS, "high": 0.5 + 0.5 * (index + 1) / BINS, "n": int(count)}
            for index, count in enumerate(counts)
        ],
    }
    if constructed:
        agreed = _array((row.probability > 0.5) + 0.5 * (row.probability == 0.5) for row in answered)
        measures["construction_agreement"] = clustered(agreed, _prompts(answered)).as_json()
    return measures


def pair_lengths(answered: Sequence[Answered]) -> Json:
    """Whether length alone tells which answer was preferred: a reward model would learn that first."""
    chosen, rejected = [], []
    for row in answered:
        first, second = row.tokens if row.probability >= 0.5 else row.tokens[::-1]
        chosen.append(first)
        rejected.append(second)
    shorter = _array((a < b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True))
    return {
        "chosen": float(np.mean(chosen)),
        "rejected": float(np.mean(rejected)),
        "chosen_shorter": clustered(shorter, _prompts(answered)).as_json(),
    }


def _array(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64)


def _prompts(answered: Sequence[Answered]) -> list[bytes]:
    """What each answers: several samples of one prompt are not independent."""
    return [canonical(row.prompt.messages) for row in answered]


def _rows(name: str, row: Answered, provenance: Mapping[str, Any]) -> list[Json]:
    if name == "completions":
        return completions(row, provenance)
    return [conversation(row, provenance) if name == "contextDistillation" else pair(row, provenance)]


def _set_aside(spec: Simulate, seed: int, kept_rows: Sequence[list[Json]], dropped: Counter[str]) -> SimulationReport:
    """Draw the audit sample: which rows, and the order in which people see them and a pair's answers."""
    count = min(spec.audit, len(kept_rows) // AUDIT_SHARE)
    apart = set(drawn(seed, ORDER, 0, count, len(kept_rows)))
    swapped = set(drawn(seed, ORDER, 1, count // 2, count))
    outcome = SimulationReport(rows=[row for index, rows in enumerate(kept_rows) if index not in apart for row in rows])
    sample = [(row, number in swapped) for number, index in enumerate(sorted(apart)) for row in kept_rows[index]]
    for number, position in enumerate(drawn(seed, ORDER, 2, len(sample), len(sample))):  # completions come by grade
        row, swap = sample[position]
        outcome.audit.append(blind(row, number, swap))
        outcome.keys.append({"number": number, "swapped": swap, **row})
    outcome.counts = {
        "rows.made": len(kept_rows) + dropped.total(),
        "rows.kept": len(kept_rows),
        "rows.audit": len(outcome.audit),
        "rows.written": len(outcome.rows),
        **{f"rows.rejected.{why.replace(' ', '_')}": number for why, number in sorted(dropped.items())},
    }
    outcome.content = {"version": VERSION, "method": spec.method, "dropped": dict(sorted(dropped.items()))}
    return outcome


def _notes(outcome: SimulationReport) -> list[str]:
    notes = []
    judged = outcome.content.get("judging")
    if judged is not None:
        for name, meaning in (
            ("order_agreement", "the place of an answer decides as much as the answer"),
            ("centred_agreement", "with its mean lean taken out the place still does; the labels rest on little"),
        ):
            agreed = judged[name]
            if agreed["low"] is not None and agreed["low"] <= 0.5:
                notes.append(
                    f"both orders agree on {agreed['value']:.3f} of the pairs ({agreed['low']:.3f} to "
                    f"{agreed['high']:.3f}), which is not above a coin's 0.5: {meaning}"
                )
        if judged["label_mass"] < 0.5:
            notes.append(
                f"the judge gives A and B together {judged['label_mass']:.3f} of the probability: it mostly wants to "
                "say something else"
            )
    if outcome.counts.get("turns.unmarked"):
        notes.append(
            f"{outcome.counts['turns.unmarked']} earlier turns carry no phrase: the chat template writes them "
            "differently once they are history"
        )
    lengths = outcome.content.get("lengths")
    if lengths is not None and lengths["chosen_shorter"]["low"] is not None:
        share = lengths["chosen_shorter"]
        if not share["low"] <= 0.5 <= share["high"]:
            which = "shorter" if share["value"] > 0.5 else "longer"
            right = max(share["value"], 1 - share["value"])
            notes.append(
                f"taking the {which} answer is right on {right:.3f} of the pairs: a reward model may learn that"
            )
    return notes
