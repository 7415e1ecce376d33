"""A moderation model's labels of prompts and answers.

python -m rlhf_trainer.label_rows MODEL_FOLDER WORK_FOLDER

Reads `rows.json` in the work folder, [{"where", "prompt": [messages], "answer": text or null}], and leaves `labelled.json`
there: {"labels", "thresholds", "checks": [{"row": index, "check": "prompt" or "answer", "probabilities", "true", "cut"}]} in
the order of the rows, or {"problem": why there is none}. `rlhf check` runs it, on the CPU.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.template import TemplateProblem
from rlhf_trainer.evaluation.labelling import Labeller
from rlhf_trainer.exits import InputError


@dataclass(frozen=True)
class Check:
    """One question to the model."""

    row: int
    what: str
    """`prompt`: before it is answered; `answer`: the prompt with its answer."""
    encoded: Encoded


def main(model: Path, work: Path) -> None:
    """Label the rows in the work folder."""
    try:
        labelled = label(model, orjson.loads((work / "rows.json").read_bytes()))
    except InputError as error:
        labelled = {"problem": str(error)}
    (work / "labelled.json").write_bytes(orjson.dumps(labelled))


def label(model: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `labelled.json` holds.

    Raises:
        InputError: it is no moderation model, or its chat template does not take a row.
    """
    labeller = Labeller(model)
    checks = [check for index, row in enumerate(rows) for check in _checks(labeller, index, row)]
    results = labeller.label([check.encoded for check in checks])
    described = [
        {
            "row": check.row,
            "check": check.what,
            "probabilities": result.probabilities,
            "true": result.labels,
            "cut": result.cut,
        }
        for check, result in zip(checks, results, strict=True)
    ]
    return {"labels": labeller.rule.labels, "thresholds": labeller.rule.thresholds, "checks": described}


def _checks(labeller: Labeller, index: int, row: dict[str, Any]) -> list[Check]:
    answers = {"prompt": ""} | ({} if row["answer"] is None else {"answer": row["answer"]})
    try:
        return [Check(index, what, labeller.encode(row["prompt"], answer)) for what, answer in answers.items()]
    except TemplateProblem as error:
        raise InputError(f"{row['where']}: {error}") from error


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
