"""Damaged models, data, policies, cards, records and links: `rlhf validate`, and prepare's fetching, refuse them in words
that name the field or the file, or take them; never a traceback, never slow."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fuzz import damaged_files as damaged
from fuzz.damage import bounded
from rlhf_api.job import Input
from rlhf_api.yaml import dump_yaml
from rlhf_sdk import input_check
from rlhf_sdk.cli import app
from rlhf_trainer import local_check
from rlhf_trainer.exits import StageError
from rlhf_trainer.sources.choose import select_files
from rlhf_trainer.sources.fetch import fetch

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
import tiny

AWAY = "hf://org/model@main"
"""A model that is not on this machine, and so is not opened."""
JUDGED = [{"prompt": "q", "completion": "a", "response_type": "comply", "rank": n} for n in range(2)]
SFT = {"sft": {"model": {"input": "base"}, "data": [{"input": "rows"}], "maxLength": 64}}
REWARD = {"rewardModel": {"model": {"input": "base"}, "data": [{"input": "rows"}], "maxLength": 64}}
PPO = {"policy": {"input": "base"}, "prompts": [{"input": "rows"}], "rollout": {"maxNewTokens": 8}}
RULES = {"policy": {"input": "damaged"}, "reward": {"input": "base"}, "grader": {"input": "base"}}
Job = tuple[dict[str, str], list[dict[str, Any]]]
JOBS: dict[str, Job] = {
    "model": ({"base": "damaged", "rows": "chat.jsonl"}, [SFT]),
    "scorer": ({"base": AWAY, "judge": "damaged", "rows": "chat.jsonl"}, [{"ppo": PPO | {"rewards": [{"input": "judge"}]}}]),
    "gguf": ({"base": "damaged", "rows": "chat.jsonl"}, [SFT]),
    "policy": (
        {"base": AWAY, "damaged": "damaged", "rows": "judged.jsonl"},
        [{"rules": RULES | {"completions": [{"input": "rows"}], "gold": [{"input": "rows"}]}}],
    ),
    "table": ({"base": AWAY, "rows": "damaged"}, [REWARD]),
    "card": ({"base": AWAY, "rows": "damaged"}, [SFT]),
    "links": ({"base": AWAY, "rows": "damaged"}, [SFT]),
    "audit": (
        {"base": AWAY, "rows": "chat.jsonl", "audit": "damaged"},
        [SFT, {"report": {"audits": [{"input": "audit", "stage": "stage-0"}]}}],
    ),
    "function": (
        {"base": AWAY, "rows": "chat.jsonl"},
        [{"ppo": PPO | {"rewards": [{"function": "judge:count"}]}}],
    ),
}  # fmt: skip
"""By kind: a right job's inputs and stages, one of which uses the folder `damaged`."""
NUMBERS = {
    "model": 4,
    "scorer": 2,
    "gguf": 2,
    "policy": 2,
    "table": 4,
    "card": 2,
    "links": 2,
    "audit": 1,
    "function": 1,
}
OF_A_CHUNK = 50
CHUNKS = [(kind, chunk) for kind, chunks in NUMBERS.items() for chunk in range(chunks)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.tiny_policy(folder / "model")
    tiny.tiny_scorer(folder / "scorer")
    return folder


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The checks run in this process, which has imported everything; a user's modules are forgotten."""
    monkeypatch.setattr(input_check, "run_checks", local_check.main)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    _forget()


def _forget() -> None:
    for name in ("judge", "helper"):
        sys.modules.pop(name, None)


def write_job(folder: Path, kind: str) -> Path:
    """The right job of a kind, and its other inputs."""
    inputs, stages = JOBS[kind]
    for name, rows in (("chat", damaged.CHAT), ("judged", JUDGED)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "inputs": [{"name": name, "source": source} for name, source in inputs.items()],
        "stages": [{"name": f"stage-{number}", **stage} for number, stage in enumerate(stages)],
    }
    path = folder / "job.yaml"
    path.write_text(
        dump_yaml({"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "a"}, "spec": spec})
    )
    return path


def writer(kind: str, models: Path) -> Callable[[Path, random.Random], None]:
    """What damages inputs of a kind."""
    if kind in ("model", "scorer"):
        return lambda folder, draw: damaged.write_model(models / kind, folder, draw)
    written: Callable[[Path, random.Random], None] = getattr(damaged, f"write_{kind}")
    return written


@pytest.mark.parametrize(("kind", "chunk"), CHUNKS)
def test_validate_refuses_damaged_inputs_by_field(kind: str, chunk: int, models: Path, tmp_path: Path) -> None:
    draw = random.Random(f"{kind} {chunk}")
    job, write = write_job(tmp_path, kind), writer(kind, models)
    CliRunner().invoke(app, ["validate", str(job)])  # what is imported late is no part of what is measured
    verdicts = []
    for number in range(OF_A_CHUNK):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(tmp_path if kind == "function" else folder, draw)
        _forget()
        with bounded():
            result = CliRunner().invoke(app, ["validate", "--output", "json", str(job)])
        assert result.exception is None or isinstance(result.exception, SystemExit), (number, result.exc_info)
        assert result.stdout.startswith("{"), (result.exit_code, result.stdout[:300], result.stderr[:300])
        (verdict,) = json.loads(result.stdout)["files"]
        assert all(problem["path"].startswith("spec.") for problem in verdict["problems"]), verdict
        verdicts.append(verdict["valid"])
    assert not all(verdicts)


@pytest.mark.parametrize("chunk", range(2))
def test_damaged_cards_and_links_are_fetched_or_refused(chunk: int, tmp_path: Path) -> None:
    draw = random.Random(100 + chunk)
    for number in range(OF_A_CHUNK):
        folder = tmp_path / str(number)
        folder.mkdir()
        (damaged.write_card if number % 2 else damaged.write_links)(folder, draw)
        with bounded():
            _fetched(Input.model_validate({"name": "a", "source": str(number)}), tmp_path)


@pytest.mark.parametrize("chunk", range(2))
def test_a_damaged_record_stops_no_job(chunk: int, tmp_path: Path) -> None:
    draw = random.Random(200 + chunk)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q"}\n')
    entry = Input.model_validate({"name": "a", "source": "rows.jsonl"})
    undamaged = _fetched(entry, tmp_path)
    (record,) = (tmp_path / "storage" / "inputs" / ".records").glob("*.json")
    content = record.read_bytes()
    for _ in range(OF_A_CHUNK):
        record.write_bytes(damaged.damaged_record(content, draw))
        with bounded():
            assert _fetched(entry, tmp_path) == undamaged


def _fetched(entry: Input, folder: Path) -> str | None:
    """The digest of an input that prepare fetches; None: it is refused by its source, or its files (prepare names it)."""
    try:
        fetched = fetch(entry, folder / "storage", folder, {})
    except StageError as error:
        assert str(error).startswith(f"{entry.source}:"), error
        return None
    try:
        select_files(fetched.path)
    except StageError as error:
        assert str(error).startswith((str(fetched.path), "found ")), error
    return fetched.digest


@pytest.mark.parametrize("chunk", range(2))
def test_odd_sources_are_refused_by_field(chunk: int, tmp_path: Path) -> None:
    draw = random.Random(300 + chunk)
    job = write_job(tmp_path, "table")
    for _ in range(OF_A_CHUNK // 2):
        text = job.read_text()
        source = json.dumps(damaged.odd_text(draw))
        (tmp_path / "odd.yaml").write_text(text.replace("source: damaged", f"source: {source}"), errors="surrogatepass")
        with bounded():
            result = CliRunner().invoke(app, ["validate", "--output", "json", str(tmp_path / "odd.yaml")])
        assert result.exception is None or isinstance(result.exception, SystemExit), source
        assert result.stdout.startswith("{"), (result.exit_code, result.stdout[:300], result.stderr[:300])
        (verdict,) = json.loads(result.stdout)["files"]
        assert verdict["problems"] or verdict["absent"] or verdict["unopened"], source


def test_the_tier_damages_two_thousand_inputs() -> None:
    from fuzz.test_local_inputs import NUMBER

    assert NUMBER + len(CHUNKS) * OF_A_CHUNK + 4 * OF_A_CHUNK + 2 * (OF_A_CHUNK // 2) >= 2000
