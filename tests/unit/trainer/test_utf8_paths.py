"""Paths that are not ASCII, in processes whose locale knows ASCII alone and whose UTF-8 mode is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {name: words}
spec:
  inputs:
  - {name: base, source: modèle}
  - {name: chat, source: data/été.jsonl}
  stages:
  - name: sft
    sft: {model: {input: base}, data: [{input: chat}]}
"""
READ = """
import sys
from pathlib import Path
from rlhf_api.job import Input
from rlhf_api.utf8 import use_utf8
from rlhf_trainer.data.conversion import Conversion
from rlhf_trainer.sources.fetch import fetch

use_utf8()
entry = Input(name="chat", source="data")
fetched = fetch(entry, Path(sys.argv[1]), Path(sys.argv[2]))
for row in Conversion("chat", entry, "prompts").rows(fetched.path):
    print(row.row, row.messages[0]["content"])
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | ASCII
    return subprocess.run(
        [sys.executable, *command], capture_output=True, encoding="utf-8", env=environment, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "données 東京"
    (folder / "data").mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    (folder / "data/été.jsonl").write_text('{"prompt": "Où ?"}\n', encoding="utf-8")
    return folder


def test_the_test_s_processes_take_names_for_ascii() -> None:
    assert run("-c", "import sys; print(sys.getfilesystemencoding(), sys.flags.utf8_mode)").stdout == "ascii 0\n"


def test_rows_are_fetched_and_read(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "lire-é.py"
    script.write_text(READ, encoding="utf-8")
    done = run(str(script), str(tmp_path / "stockage-é"), str(folder))
    assert (done.stdout, done.returncode) == ("été.jsonl:1 Où ?\n", 0), done.stderr


def test_the_command_finds_and_names_files(folder: Path) -> None:
    (folder / "modèle").mkdir()
    done = run("-m", "rlhf_sdk.cli", "validate", "--no-open", str(folder / "job.yaml"))
    assert done.stdout.startswith(f"{folder}/job.yaml: valid\n"), done.stderr
    assert "modèle" in done.stdout
    assert "été.jsonl" not in done.stdout, "it is there"


def test_a_stage_finds_and_names_its_file(folder: Path) -> None:
    done = run("-m", "rlhf_trainer.launch", str(folder / "étape.json"))
    assert done.returncode == 2
    assert f"{folder}/étape.json: not readable as JSON" in done.stdout
