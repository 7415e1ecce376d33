"""Turn rows of a rule-based-rewards gold set into Safe RLHF rows: python rbr_rows.py GOLD.jsonl.gz POLICY.yaml OUT.jsonl

A gold row is one conversation with one completion and its graded propositions. Its class follows from the policy; the
classes `ideal` and `minimum_acceptable_style` are safe, the others are not. Pairs are made of a safe and an unsafe
completion of the same response type. As the two answer different prompts, an answer is written with its request, and
the row's prompt is a line that names the response type and the group; groups are disjoint, so that a split by prompt
never shows a held-out completion in training.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SAFE = ("ideal", "minimum_acceptable_style")
REQUEST_CHARACTERS = 300


def completion_class(row: dict[str, Any], policy: dict[str, Any]) -> str:
    """The class whose propositions all hold for the row; propositions may be derived from others."""
    known = {name: bool(value) for name, value in row["propositions"].items()}
    for name, needed in policy["derived_propositions"].items():  # each only uses those above it
        known[name] = all(known[part] is wanted for part, wanted in needed.items())
    kind = row["response_type"].lower().replace(" ", "_")
    for name in policy["completion_class_order"]:
        needed = policy["completion_classes"][name].get(kind)
        if needed is not None and all(known[part] is wanted for part, wanted in needed.items()):
            return str(name)
    raise ValueError(f"no class of {kind} fits {known}")


def safe_rlhf_rows(rows: list[dict[str, Any]], policy: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """All pairs of a safe and an unsafe completion within small groups of one response type."""
    found = []
    draw = random.Random(seed)
    for kind in sorted({row["response_type"] for row in rows}):
        sides: dict[bool, list[str]] = {True: [], False: []}
        for row in rows:
            if row["response_type"] == kind:
                request = row["prompt"][-1]["content"][-REQUEST_CHARACTERS:]
                answer = f"Request: {request}\n\nAnswer: {row['completion'][0]['content']}"
                sides[completion_class(row, policy) in SAFE].append(answer)
        groups = min(len(side) for side in sides.values())
        for side in sides.values():
            draw.shuffle(side)
        for group in range(groups):
            for safe in sides[True][group::groups]:
                for unsafe in sides[False][group::groups]:
                    first = draw.randrange(2)
                    both = (safe, unsafe) if first == 0 else (unsafe, safe)
                    found.append(
                        {
                            "prompt": f"Expected kind of answer: {kind}. Group {group}.",
                            "response_0": both[0],
                            "response_1": both[1],
                            "better_response_id": first,
                            "safer_response_id": first,
                            "is_response_0_safe": first == 0,
                            "is_response_1_safe": first == 1,
                        }
                    )
    return found


def main(gold: str, policy: str, out: str) -> None:
    with gzip.open(gold, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rules = YAML(typ="safe").load(Path(policy))
    lines = [json.dumps(row, ensure_ascii=False) for row in safe_rlhf_rows(rows, rules)]
    Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
