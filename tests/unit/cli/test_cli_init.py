"""`rlhf init`: every recipe is a valid job that is ready to run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from fakes.command import rlhf
from rlhf_api.fields import references
from rlhf_api.load import load_job
from rlhf_api.pods import Resources
from rlhf_sdk.commands.init import job_name
from rlhf_sdk.jobs import absent_devices
from rlhf_sdk.local.layout import ignore_in_git
from rlhf_sdk.recipes import RECIPES, render, ruled
from rlhf_trainer.rules.parser import parse_policy


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_valid_job_with_its_data_beside_it(tmp_path: Path, recipe: str) -> None:
    result = rlhf("init", recipe, tmp_path / "mine", "--output", "json")
    assert result.code == 0
    folder = tmp_path / "mine"
    assert sorted(result.json["files"]) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    job = load_job(folder / "job.yaml")
    assert job.metadata.name == "mine"
    for entry in job.spec.inputs:
        if entry.source.endswith(".jsonl"):
            rows = [json.loads(line) for line in (folder / entry.source).read_text().splitlines()]
            assert len(rows) >= 10
    assert rlhf("validate", folder / "job.yaml").code == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_function_a_recipe_names_is_written_with_it(tmp_path: Path, recipe: str) -> None:
    rlhf("init", recipe, tmp_path / "mine")
    job = load_job(tmp_path / "mine" / "job.yaml")
    named = {
        function.key.partition(":")[2] for function in references(job.spec) if function.key.startswith("function:")
    }
    for name in named:
        module, _, function = name.partition(":")
        spec = importlib.util.spec_from_file_location(module, tmp_path / "mine" / f"{module}.py")
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        scores = getattr(loaded, function)([[], []], ["Ask a doctor.", "no no no"])
        assert len(scores) == 2 and scores[0] != scores[1]


def test_preferences_label_what_they_show() -> None:
    rows = [json.loads(line) for line in render("preference", "x", "y")["data/preferences.jsonl"].splitlines()]
    assert {row["better_response_id"] for row in rows} == {0, 1}
    safe = {(row["is_response_0_safe"], row["is_response_1_safe"]) for row in rows}
    assert safe == {(True, True), (True, False), (False, True), (False, False)}
    for row in rows:
        assert row["response_0"] != row["response_1"]
        words = [len(set(row[f"response_{index}"].split())) for index in (0, 1)]
        assert words[row["better_response_id"]] == max(words)
        safer, riskier = row["safer_response_id"], 1 - row["safer_response_id"]
        assert row[f"is_response_{safer}_safe"] or not row[f"is_response_{riskier}_safe"]


def test_the_rules_recipe_asks_what_its_policy_asks() -> None:
    written = render("rbr", "x", "y")
    policy = parse_policy(written["policy.yaml"])
    assert policy.questions == ruled.QUESTIONS
    for kind in policy.types:
        rows = [json.loads(line) for line in written["data/completions.jsonl"].splitlines()]
        classes = {policy.class_of(kind, row["propositions"]) for row in rows if row["response_type"] == kind}
        assert classes == set(policy.classes[kind])


def test_no_heldout_prompt_is_trained_on() -> None:
    written = render("safe-rlhf", "x", "y")
    heldout = {json.loads(line)["prompt"] for line in written["data/heldout.jsonl"].splitlines()}
    for row in written["data/preferences.jsonl"].splitlines():
        assert json.loads(row)["prompt"] not in heldout
    for row in written["data/chat.jsonl"].splitlines():
        assert json.loads(row)["messages"][0]["content"] not in heldout


def test_the_same_command_writes_the_same_files() -> None:
    assert render("safe-rlhf", "x", "y") == render("safe-rlhf", "x", "y")


def test_a_base_of_ones_own(tmp_path: Path) -> None:
    rlhf("init", "sft", tmp_path / "a", "--base", "hf://org/model@0a1b2c3")
    assert load_job(tmp_path / "a" / "job.yaml").spec.inputs[0].source == "hf://org/model@0a1b2c3"


@pytest.mark.parametrize("folder", ["job", "deep/er/job"])
@pytest.mark.parametrize("name", ["smol", "with space # and: signs", "模型"])
def test_a_base_is_a_path_as_the_shell_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str
) -> None:
    model = tmp_path / "models" / name
    model.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "models")
    for number, base in enumerate((name, f"./{name}", f"../models/{name}", f"~/models/{name}", str(model))):
        target = tmp_path / "jobs" / str(number) / folder
        assert rlhf("init", "sft", target, "--base", base).code == 0
        source = load_job(target / "job.yaml").spec.inputs[0].source
        assert (target / source).resolve() == model, base


@pytest.mark.parametrize(
    ("base", "source"),
    [("org/model", "hf://org/model@main"), ("org/model@1.0", "hf://org/model@1.0"), ("s3://b/m", "s3://b/m")],
)
def test_a_base_of_the_hub_or_a_url(tmp_path: Path, base: str, source: str) -> None:
    assert rlhf("init", "sft", tmp_path / "a", "--base", base).code == 0
    assert load_job(tmp_path / "a" / "job.yaml").spec.inputs[0].source == source


@pytest.mark.parametrize("base", ["nothing-here", "./org/model", "a/b/c", "hf://", "gopher://x/y"])
def test_a_base_that_is_nothing_is_refused_before_anything_is_written(tmp_path: Path, base: str) -> None:
    result = rlhf("init", "sft", tmp_path / "a", "--base", base)
    assert result.code == 2 and f"--base {base}: " in result.err
    assert not (tmp_path / "a").exists()


def test_the_version_is_shown() -> None:
    result = rlhf("--version")
    assert result.code == 0 and re.fullmatch(r"rlhf \d+\.\d+\.\d+\S*\n", result.out)


def test_a_storage_of_the_default_name_ignores_itself_in_git(tmp_path: Path) -> None:
    ignore_in_git(tmp_path / ".rlhf")
    assert (tmp_path / ".rlhf" / ".gitignore").read_text() == "*\n"
    (tmp_path / ".rlhf" / ".gitignore").write_text("mine")
    ignore_in_git(tmp_path / ".rlhf")
    assert (tmp_path / ".rlhf" / ".gitignore").read_text() == "mine"
    ignore_in_git(tmp_path / "claim")
    assert not (tmp_path / "claim").exists()


def test_a_gpu_that_is_asked_for_and_absent_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    rlhf("init", "safe-rlhf", tmp_path / "a")
    job = load_job(tmp_path / "a" / "job.yaml")
    assert absent_devices(job, tmp_path) == []
    resources = Resources.model_validate({"limits": {"nvidia.com/gpu": "1"}})
    stages = [stage.model_copy(update={"resources": resources}) for stage in job.spec.stages[:2]]
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"stages": stages})})
    (words,) = absent_devices(job, tmp_path)
    assert all(stage.name in words for stage in stages) and "run on the CPU" in words
    (tmp_path / "nvidia0").touch()
    assert absent_devices(job, tmp_path) == []


def test_nothing_is_written_over_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    result = rlhf("init", "sft", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "has README.md already; nothing was written" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert rlhf("init", "sft", tmp_path, "--force").code == 0
    assert (tmp_path / "README.md").read_text() != "mine"


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    result = rlhf("init", "dpo")
    assert result.code == 2
    assert result.err == "dpo: no such recipe; there are sft, preference, ppo, rlcd, rbr, safe-rlhf\n"


@pytest.mark.parametrize(
    ("folder", "name"), [("My Job_2", "my-job-2"), ("---", "sft"), ("ä", "sft"), ("x" * 90, "x" * 63)]
)
def test_a_folders_name_becomes_a_legal_job_name(folder: str, name: str) -> None:
    assert job_name(folder, "sft") == name
