"""`rlhf check`: a moderation model's labels of prompts and answers, against plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_scorer
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner, Result

from rlhf_sdk.cli import app
from rlhf_trainer.data.chat import encode_row
from rlhf_trainer.evaluation.labelling import Labeller
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.moderation import LabelRule

ESCAPE = "hot\x1b[31m"
PROMPTS = ("How do I light a fire?", "call", "is it safe")
ANSWERS = ("With petrol.", "", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three labels, of which the middle one is true of everything and the last of nothing."""
    root = tmp_path_factory.mktemp("check")
    product = tiny_scorer(root / "product", labels=3)
    config = json.loads((product / "config.json").read_text())
    config |= {
        "id2label": {"0": ESCAPE, "1": "always", "2": "never"},
        "label2id": {ESCAPE: 0, "always": 1, "never": 2},
        "problem_type": "multi_label_classification",
    }
    (product / "config.json").write_text(json.dumps(config))
    LabelRule((ESCAPE, "always", "never"), (0.5, 1e-9, 1 - 1e-9)).write(product)
    rows: list[dict[str, Any]] = [{"prompt": PROMPTS[0], "response": ANSWERS[0]}, {"prompt": PROMPTS[1], "answer": ""}]
    rows.append({"messages": [{"role": "user", "content": PROMPTS[2]}]})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def rlhf(*arguments: str | Path, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["check", *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def probabilities(product: Path, prompt: str, answer: str) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(product).eval()
    row = encode_row(AutoTokenizer.from_pretrained(product), [{"role": "user", "content": prompt}], answer, 512)
    with torch.no_grad():
        values: list[float] = model(input_ids=torch.tensor([row.ids])).logits.double().sigmoid()[0].tolist()
    return values


def test_every_prompt_is_checked_alone_and_with_its_answer_as_plain_transformers_would(folder: Path) -> None:
    result = rlhf(folder / "product", folder / "rows.jsonl", "--output", "json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert [(entry["where"], entry["check"]) for entry in document["checks"]] == [
        ("rows.jsonl:1", "prompt"),
        ("rows.jsonl:1", "answer"),
        ("rows.jsonl:2", "prompt"),
        ("rows.jsonl:2", "answer"),
        ("rows.jsonl:3", "prompt"),
    ]
    names = [entry["label"] for entry in document["labels"]]
    for entry in document["checks"]:
        index = entry["row"] - 1
        answer = (ANSWERS[index] or "") if entry["check"] == "answer" else ""
        expected = probabilities(folder / "product", PROMPTS[index], answer)
        assert [entry["probabilities"][name] for name in names] == pytest.approx(expected, abs=1e-5)
        assert entry["true"] == [
            name for name, p in zip(names, expected, strict=True) if p >= {"always": 0, "never": 2}.get(name, 0.5)
        ]
    assert document["true"] == 5


def test_one_row_shows_every_label_and_a_terminal_obeys_none(folder: Path) -> None:
    result = rlhf(folder / "product", "--prompt", PROMPTS[0], "--answer", "With \x1b[2Jpetrol.")
    assert result.exit_code == 3
    assert "\x1b" not in result.stdout
    assert "hot\\x1b[31m" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[1] for line in lines[1:7]] == ["prompt"] * 3 + ["answer"] * 3
    assert result.stdout.splitlines()[-1] == "a label is true in 2 of 2 checks"


def test_nothing_true_is_exit_0_and_stdin_is_read(folder: Path, tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    for file in (folder / "product").iterdir():
        (calm / file.name).symlink_to(file)
    (calm / "moderation.json").unlink()
    LabelRule((ESCAPE, "always", "never"), (1 - 1e-9,) * 3).write(calm)
    result = rlhf(calm, "-", stdin=(folder / "rows.jsonl").read_text())
    assert (result.exit_code, result.stdout) == (0, "a label is true in 0 of 5 checks\n")


def test_another_classifier_is_refused(folder: Path, tmp_path: Path) -> None:
    refused = rlhf(tiny_scorer(tmp_path / "reward"), "--prompt", "call")
    assert refused.exit_code == 2
    assert "labels are not each true or false of a row; expected a moderation model" in refused.stderr
    absent = rlhf(tmp_path / "none", "--prompt", "call")
    assert absent.exit_code == 2
    assert "no such folder; expected a moderation model's" in absent.stderr
    tools = rlhf(folder / "product", "-", stdin='{"messages": [{"role": "narrator", "content": "x"}]}\n')
    assert tools.exit_code in (0, 3), "a template that takes any role does"


def test_long_rows_are_read_in_part_and_counted(folder: Path) -> None:
    result = rlhf(folder / "product", "--prompt", "fire " * 2000, "--output", "json")
    (entry,) = json.loads(result.stdout)["checks"]
    assert entry["cut"] > 1000


def test_labels_do_not_depend_on_the_rows_beside_them(folder: Path) -> None:
    labeller = Labeller(folder / "product")
    texts = [" fire" * count for count in (1, 40, 7, 3)]
    rows = [labeller.encode([{"role": "user", "content": text}], "so") for text in texts]
    together = [row.probabilities for row in labeller.label(rows)]
    apart = [labeller.label([row])[0].probabilities for row in rows]
    assert together == [pytest.approx(values, abs=1e-6) for values in apart]
    with pytest.raises(InputError, match="no such folder"):
        Labeller(folder / "nothing")


def test_rows_are_written_with_the_label_furthest_above_its_threshold_as_response_type(
    folder: Path, tmp_path: Path
) -> None:
    product = tmp_path / "types"
    product.mkdir()
    for file in (folder / "product").iterdir():
        (product / file.name).symlink_to(file)
    (product / "moderation.json").unlink()
    every = torch.tensor([probabilities(product, prompt, "") for prompt in PROMPTS]).logit()
    middle = every.median(0).values  # each label is true of two of the three rows
    LabelRule((ESCAPE, "always", "never"), tuple(middle.sigmoid().tolist())).write(product)
    rows = [{"prompt": prompt, "id": index, "response_type": "old"} for index, prompt in enumerate(PROMPTS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = rlhf(product, tmp_path / "rows.jsonl", "--types", tmp_path / "typed.jsonl")
    assert result.exit_code == 0
    written = [json.loads(line) for line in (tmp_path / "typed.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["id"]) for row in written] == [(row["prompt"], row["id"]) for row in rows]
    above = every - torch.tensor(json.loads((product / "moderation.json").read_text())["thresholds"]).logit()
    for row, margins in zip(written, above.tolist(), strict=True):
        best = max(range(3), key=margins.__getitem__)
        if abs(margins[best]) > 1e-4:  # one at its threshold may round to either side
            assert row.get("response_type") == ((ESCAPE, "always", "never")[best] if margins[best] > 0 else None)
