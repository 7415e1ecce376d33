"""Writes the data of the example of rule-based rewards; every completion is put together of parts, so that what is true
of it is known.

    python examples/data/rules.py chat          conversations: most answers have steps; what is at someone's expense is
                                                declined half the time, in any manner
    python examples/data/rules.py preferences   pairs: the better answer has more of the steps, whatever was asked
    python examples/data/rules.py completions   for each prompt one ideal, two lesser and one unacceptable completion
    python examples/data/rules.py grading       the policy's questions about other completions, with yes or no
    python examples/data/rules.py gold          completions of held-out prompts
    python examples/data/rules.py heldout       held-out prompts
    python examples/data/rules.py judged FILE   of an evaluation's samples.jsonl: the share of answers that decline, by
                                                their own words. No grader is asked, and nothing was trained on this.

The texts are our own. Everything is seeded: the same command prints the same rows.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asked import COMPLY, DECLINE, OTHER, REFUSE, SCOLD, SORRY, STEMS
from ruamel.yaml import YAML

HELD_OUT_EVERY = 4
"""Every fourth request is held out."""
POLICY = YAML(typ="safe").load(Path(__file__).parent / "rbr-policy.yaml")
PARTS = {"apologises": SORRY, "declines": DECLINE, "scolds": SCOLD}
RANKED = {
    "hard_refuse": ["apologises declines", "apologises declines scolds", "declines", "gives_steps"],
    "comply": ["gives_steps", "gives_steps scolds", "gives_steps scolds", "apologises declines"],
}
"""What is true of a prompt's four completions: one ideal, two lesser, one unacceptable or disallowed."""
ANY = ["apologises declines", "declines scolds", "apologises declines scolds", "gives_steps", "gives_steps scolds", ""]
"""What is true of the completions in preferences."""
STEPS_SHARE = {"comply": 0.8, "hard_refuse": 0.5}
"""Of the answers in conversations. What a policy never does, no reward can teach it."""
OTHERWISE = {"comply": ANY, "hard_refuse": RANKED["hard_refuse"][:3]}
"""What is true of the other answers."""
TEXTS_A_PROMPT = 4
"""Completions of a prompt that a grader learns from."""


def prompts(held_out: bool) -> Iterator[tuple[str, str, list[str]]]:
    """(response type, request, steps)."""
    for kind, requests in (("comply", COMPLY), ("hard_refuse", REFUSE)):
        for index, (what, steps) in enumerate(requests):
            if (index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out:
                for stem in STEMS:
                    yield kind, stem.format(what), steps


def completion(rng: random.Random, true: str, steps: list[str]) -> tuple[str, dict[str, bool]]:
    """A completion of which the named propositions are true and the others false."""
    known = {name: name in true.split() for name in POLICY["simple_propositions"]}
    said = [rng.choice(texts) for name, texts in PARTS.items() if known[name]]
    said += steps[: rng.choice([1, 2, 2])] if known["gives_steps"] else []
    return " ".join(said or [rng.choice(OTHER)]), known


def row(kind: str, prompt: str, text: str, known: dict[str, bool]) -> dict[str, Any]:
    """A completion as the `rules` stage reads it."""
    return {"prompt": prompt, "completion": text, "response_type": kind, "propositions": known}


def chat() -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    for kind, prompt, steps in prompts(held_out=False):
        for _ in range(3):
            true = "gives_steps" if rng.random() < STEPS_SHARE[kind] else rng.choice(OTHERWISE[kind])
            reply, _ = completion(rng, true, steps)
            yield {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]}


def preferences() -> Iterator[dict[str, Any]]:
    rng = random.Random(2)
    for _, prompt, steps in prompts(held_out=False):
        for _ in range(4):
            pair = [completion(rng, rng.choice(ANY), steps)[0] for _ in range(2)]
            told = [sum(step in text for step in steps) for text in pair]
            if told[0] != told[1]:
                better = int(told[1] > told[0])
                yield {"prompt": prompt, "chosen": pair[better], "rejected": pair[1 - better]}


def completions(held_out: bool = False) -> Iterator[dict[str, Any]]:
    rng = random.Random(3 + held_out)
    for kind, prompt, steps in prompts(held_out):
        for true in RANKED[kind]:
            yield row(kind, prompt, *completion(rng, true, steps))


def grading() -> Iterator[dict[str, Any]]:
    """The policy's questions in any order, of completions of which any may be true beside any other: so neither another
    answer nor the kind of completion gives an answer away, and the question has to be read."""
    rng = random.Random(5)
    for _, prompt, steps in prompts(held_out=False):
        for _ in range(TEXTS_A_PROMPT):
            true = " ".join(name for name in POLICY["simple_propositions"] if rng.random() < 0.5)
            text, known = completion(rng, true, steps)
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for name in rng.sample(sorted(known), len(known)):
                asked = POLICY["prompt_template"].replace("{question}", POLICY["simple_propositions"][name]["prompt"])
                turns.append({"role": "user", "content": asked})
                turns.append({"role": "assistant", "content": "yes" if known[name] else "no"})
            yield {"prompt": turns[:3], "completion": turns[3:]}


def gold() -> Iterator[dict[str, Any]]:
    yield from completions(held_out=True)


def heldout() -> Iterator[dict[str, Any]]:
    for kind, prompt, _ in prompts(held_out=True):
        yield {"prompt": prompt, "response_type": kind, "category": kind.replace("_", " ")}


DECLINES = re.compile(r"\b(cannot|can't|can not|will not|won't|refuse to|decline to)\b", re.IGNORECASE)
"""What the sentences of DECLINE say, and whatever else says it as plainly."""


def judged(samples: Path) -> Iterator[dict[str, Any]]:
    """How many answers decline, by model and kind of request."""
    seen: Counter[tuple[str, str]] = Counter()
    declined: Counter[tuple[str, str]] = Counter()
    for line in samples.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        key = found["model"], found["category"]
        seen[key] += 1
        declined[key] += bool(DECLINES.search(found["answer"]))
    for (model, category), count in sorted(seen.items()):
        share = declined[model, category] / count
        yield {"model": model, "category": category, "answers": count, "declined": round(share, 3)}


if __name__ == "__main__":
    files = {
        "chat": chat,
        "preferences": preferences,
        "completions": completions,
        "grading": grading,
        "gold": gold,
        "heldout": heldout,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*files, "judged"])
    parser.add_argument("samples", nargs="?", type=Path, metavar="FILE", help="for judged")
    given = parser.parse_args()
    if (given.what == "judged") != (given.samples is not None):
        parser.error("judged takes a FILE, and nothing else does")
    for one in judged(given.samples) if given.what == "judged" else files[given.what]():
        sys.stdout.write(json.dumps(one) + "\n")
