"""Grading with a conversation's start computed once, beside asking each proposition apart: same model, same answers.

    python benchmarks/grading.py MODEL COMPLETIONS [--policy FILE] [--rows 32] [--rounds 3]

MODEL: a folder that transformers reads. COMPLETIONS: rows of the `rules` stage, such as a gold set. Both sides grade the
same completions by the same policy in batches of the same budget; the grades agree up to rounding, which is checked.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from rlhf_api.fields import DataRef
from rlhf_api.stage_file import StageInput
from rlhf_trainer.data.load import load_completions
from rlhf_trainer.rules.grader import Asking, Grader, Question
from rlhf_trainer.rules.parser import read_policy

OWN = Path(__file__).parent / "grading-policy.yaml"
TOLERANCE = 1e-3


class _File:
    """Stands for a stage's inputs: one file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def input(self, reference: object) -> StageInput:
        """The file, whatever is asked for."""
        return StageInput.model_validate({"path": self._path, "digest": ""})


def main() -> None:
    """Time both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("completions")
    parser.add_argument("--policy", type=Path, default=OWN)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    policy = read_policy(options.policy)
    rows, _ = load_completions(_File(options.completions), [DataRef(input="rows")])
    rows = rows[: options.rows]
    asking = Asking(("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No"), 8192)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    grader = Grader(options.model, policy, asking, dtype="float32", device=device, cache=None)
    every = tuple(policy.questions)
    questions = [Question(row.prompt, row.answer, every) for row in rows]
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    grades = {}
    for number in range(options.rounds + 1):  # the first round warms up
        for apart in (False, True):
            start = time.perf_counter(), time.process_time()
            grades[apart] = grader.grade(questions, apart=apart)
            if number:
                times[apart].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    differences = [
        abs(shared.probabilities[name] - single.probabilities[name])
        for shared, single in zip(grades[False], grades[True], strict=True)
        for name in every
    ]
    if max(differences) > TOLERANCE:
        raise SystemExit(f"grades differ by {max(differences):.2g}: the two sides do not compute the same")
    ours, apart = (statistics.median(wall for wall, _ in times[side]) for side in (False, True))
    used, used_apart = (statistics.median(cpu for _, cpu in times[side]) for side in (False, True))
    count = len(rows) * len(every)
    print(
        json.dumps(
            {
                "device": device.type,
                "threads": torch.get_num_threads(),
                "completions": len(rows),
                "questions": count,
                "shared_s": round(ours, 2),
                "apart_s": round(apart, 2),
                "shared_questions_per_s": round(count / ours, 1),
                "apart_questions_per_s": round(count / apart, 1),
                "ratio": round(apart / ours, 2),
                "processor_ratio": round(used_apart / used, 2),
                "largest_difference": float(f"{max(differences):.2g}"),
            }
        )
    )


if __name__ == "__main__":
    main()
