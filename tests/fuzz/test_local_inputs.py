"""Damaged local inputs: refused in words that name the file or the field, or taken; never a traceback, never slow."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fuzz.damage import bounded, corrupt, misshape
from rlhf_sdk.cli import app

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 412,
}
NUMBER = 10 * 30 + 10 * 60
"""Of the damaged inputs below."""
JOB = """
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {name: damaged}
spec:
  inputs:
    - {name: base, source: model}
    - {name: rows, source: rows.jsonl}
  stages:
    - name: sft
      sft: {model: {input: base}, data: [{input: rows}]}
"""


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Imports are no part of what is measured."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "job.yaml").write_text(JOB)
    CliRunner().invoke(app, ["validate", "--no-open", str(folder / "job.yaml")])


@pytest.mark.parametrize("seed", range(10))
def test_validate_survives_a_damaged_config(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "model").mkdir()
    for _ in range(30):
        content = json.dumps(misshape(CONFIG, draw)).encode()
        (tmp_path / "model" / "config.json").write_bytes(corrupt(content, draw) if draw.random() < 0.3 else content)
        with bounded():
            result = CliRunner().invoke(app, ["validate", "--no-open", str(tmp_path / "job.yaml")])
        assert result.exception is None or isinstance(result.exception, SystemExit), content


@pytest.mark.parametrize("seed", range(10))
def test_validate_survives_damaged_rows_and_job_files(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    for number in range(60):
        rows = "".join(json.dumps(misshape(row, draw)) + "\n" for _ in range(3)).encode()
        job = JOB.replace("rows.jsonl", draw.choice(("rows.jsonl", "rows.jsonl.gz"))).encode()
        content = gzip.compress(rows) if b".gz" in job else rows
        name = "rows.jsonl.gz" if b".gz" in job else "rows.jsonl"
        (tmp_path / name).write_bytes(corrupt(content, draw))
        (tmp_path / "job.yaml").write_bytes(corrupt(job, draw) if number % 3 == 0 else job)
        with bounded():
            result = CliRunner().invoke(app, ["validate", "--no-open", str(tmp_path / "job.yaml")])
        assert result.exception is None or isinstance(result.exception, SystemExit), (job, content)
