"""Writes the examples' data: everyday questions with a risk in them, and answers with and without care.

    python examples/data/make.py chat          conversations to fine-tune on: a fifth of the answers show care
    python examples/data/make.py preferences   Safe RLHF rows: better = more distinct words, safer = has a word of
                                               care; one label in ten is wrong, as people's are
    python examples/data/make.py labelled      answers with two labels, careless and overconfident; one in ten is wrong,
                                               one in ten is not known
    python examples/data/make.py heldout       prompts on topics that neither of the others has

    python examples/data/make.py demo-chat     (demo-preferences, demo-heldout) the same for the demo: a system's turn of
                                               two words, two pairs a question instead of three, and care in
                                               two fifths of the conversations, so that its few samples show some

The texts are our own. Everything is seeded: the same command prints the same rows.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from gold import CARE, CERTAIN, distinct_words
from topics import MINIMAL_PAIRS, NEAR_MISSES, STEMS, TOPICS

HELD_OUT_EVERY = 4
"""Every fourth topic is held out."""
SYSTEM = "Be brief."
"""The demo's system turn. Without one the model's template writes its own, 16 tokens longer: a third of a prompt."""
LABEL_NOISE = 0.1
UNKNOWN = 0.1
"""Share of the labels that nobody gave."""
CONFIDENT = ["This always works.", "It is definitely nothing.", "You will certainly be fine.", "That never goes wrong."]
MODEST = ["This often works.", "It may be nothing.", "You will probably be fine.", "That seldom goes wrong."]
GENERAL = 0.4
"""Share of the sentences that would fit any question."""
GENERAL_CARE = [with_care for with_care, _ in MINIMAL_PAIRS]
GENERAL_PLAIN = [without for _, without in MINIMAL_PAIRS] + NEAR_MISSES


def prompts(held_out: bool) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(category, question, plain advice, advice with care) of each question."""
    for index, (category, situation, plain, careful) in enumerate(TOPICS):
        if (index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out:
            for stem in STEMS:
                yield category, stem.format(situation), plain, careful


def sentences(rng: random.Random, particular: list[str], general: list[str], count: int) -> list[str]:
    """Different sentences, most of them about the question."""
    chosen: list[str] = []
    while len(chosen) < count:
        sentence = rng.choice(general if rng.random() < GENERAL else particular)
        if sentence not in chosen:
            chosen.append(sentence)
    return chosen


def answer(rng: random.Random, plain: list[str], careful: list[str], care: float) -> str:
    """One or two sentences; with probability `care` one of them is one of care, so that length tells nothing of it."""
    chosen = sentences(rng, plain, GENERAL_PLAIN, rng.choice([1, 2, 2]))
    if rng.random() < care:
        chosen[rng.randrange(len(chosen))] = sentences(rng, careful, GENERAL_CARE, 1)[0]
    return " ".join(chosen)


def chat(care: float = 0.2) -> Iterator[dict[str, object]]:
    """Two conversations a question; this share of the answers shows care."""
    rng = random.Random(1)
    for _, question, plain, careful in prompts(held_out=False):
        for _ in range(2):
            reply = answer(rng, plain, careful, care)
            yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def preferences(pairs: int = 3) -> Iterator[dict[str, object]]:
    """So many pairs a question; half of the answers show care."""
    rng = random.Random(2)
    for _, question, plain, careful in prompts(held_out=False):
        for _ in range(pairs):
            responses = [answer(rng, plain, careful, care=0.5) for _ in range(2)]
            while responses[0] == responses[1]:
                responses[1] = answer(rng, plain, careful, care=0.5)
            words = distinct_words([], responses)
            better = int(words[1] > words[0]) if words[0] != words[1] else rng.randrange(2)
            safe = [(CARE.search(response) is not None) != (rng.random() < LABEL_NOISE) for response in responses]
            safer = int(safe[1]) if safe[0] != safe[1] else rng.randrange(2)
            yield {
                "prompt": question,
                "response_0": responses[0],
                "response_1": responses[1],
                "better_response_id": better ^ (rng.random() < LABEL_NOISE),
                "safer_response_id": safer,
                "is_response_0_safe": safe[0],
                "is_response_1_safe": safe[1],
            }


def labelled() -> Iterator[dict[str, object]]:
    """Three answers a question; half of them show care, half of them claim more than one can know."""
    rng = random.Random(3)
    for _, question, plain, careful in prompts(held_out=False):
        for _ in range(3):
            response = answer(rng, plain, careful, care=0.5)
            response += " " + rng.choice(CONFIDENT if rng.random() < 0.5 else MODEST)
            flags = {"careless": CARE.search(response) is None, "overconfident": CERTAIN.search(response) is not None}
            labels = {
                name: None if rng.random() < UNKNOWN else flag != (rng.random() < LABEL_NOISE)
                for name, flag in flags.items()
            }
            yield {"prompt": question, "response": response, "labels": labels}


def heldout() -> Iterator[dict[str, object]]:
    """Prompts with the kind of harm that a careless answer risks."""
    for category, question, _, _ in prompts(held_out=True):
        yield {"prompt": question, "category": category}


def brief(rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Rows with the demo's system turn."""
    return ({"system": SYSTEM, **row} for row in rows)


if __name__ == "__main__":
    files = {
        "chat": chat(),
        "preferences": preferences(),
        "labelled": labelled(),
        "heldout": heldout(),
        "demo-chat": brief(chat(care=0.4)),
        "demo-preferences": brief(preferences(pairs=2)),
        "demo-heldout": brief(heldout()),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", choices=files)
    for row in files[parser.parse_args().file]:
        sys.stdout.write(json.dumps(row) + "\n")
