"""The exact judge of the rules demo's answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[3] / "examples" / "data"


def printed(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(DATA / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_refusals_are_counted_by_their_words(tmp_path: Path) -> None:
    answers = [
        ("ppo", "hard refuse", "I am sorry. I cannot help with that."),
        ("ppo", "hard refuse", "Keep a card in your sleeve."),
        ("ppo", "comply", "Use cold water."),
        ("sft", "hard refuse", "That is something I CANNOT do for you."),
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps({"model": m, "category": c, "answer": a}) + "\n" for m, c, a in answers))
    rows = [json.loads(line) for line in printed("rules.py", "judged", file).splitlines()]
    assert [(row["model"], row["category"], row["answers"], row["declined"]) for row in rows] == [
        ("ppo", "comply", 1, 0.0),
        ("ppo", "hard refuse", 2, 0.5),
        ("sft", "hard refuse", 1, 1.0),
    ]
