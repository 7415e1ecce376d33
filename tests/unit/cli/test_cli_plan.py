"""`rlhf validate` and `rlhf plan`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fakes.command import rlhf
from fakes.local_job import SIDE_BY_SIDE, job, run
from rlhf_api.load import load_job
from rlhf_sdk.jobs import with_inputs


def test_a_problem_is_named_by_line_column_and_path(tmp_path: Path) -> None:
    path = job(tmp_path)
    path.write_text(path.read_text().replace("data: [{input: chat}]", "data: [{input: chat}], epochs: none"))
    result = rlhf("validate", path)
    assert result.code == 2
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "epochs" in text)
    column = path.read_text().splitlines()[line - 1].index("none") + 1
    assert result.err.startswith(f"{path}:{line}:{column}: spec.stages[0].sft.epochs: ")
    output = rlhf("validate", path, "--output", "json").json
    assert output["valid"] is False
    (problem,) = output["files"][0]["problems"]
    assert (problem["path"], problem["line"], problem["column"]) == ("spec.stages[0].sft.epochs", line, column)


def test_one_bad_file_of_several_fails_and_the_others_are_still_told(tmp_path: Path) -> None:
    good, missing = job(tmp_path), tmp_path / "missing.yaml"
    result = rlhf("validate", "--no-open", missing, good)
    assert result.code == 2
    assert f"{good}: valid" in result.out
    assert f"{missing}: cannot be read" in result.err


def test_a_plan_before_the_first_run_has_no_digests(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    output = rlhf("plan", path, "--output", "json").json
    assert output["resolved"] is False
    assert [stage["name"] for stage in output["stages"]] == ["prepare", "sft", "reward", "cost", "report"]
    assert output["stages"][2]["needs"] == ["prepare", "sft"]
    assert {stage["digest"] for stage in output["stages"]} == {None}
    assert "digests are known once prepare has run" in rlhf("plan", path).out
    assert not (tmp_path / ".rlhf").exists(), "a plan writes nothing"


def test_a_plan_after_a_run_knows_products_and_which_are_there(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    ran = run(path)
    output = rlhf("plan", path, "--output", "json").json
    assert output["resolved"] is True
    for stage in output["stages"][1:]:
        assert stage["product"] == ran.result["stages"][stage["name"]]["product"]
        assert stage["there"] is True
    path.write_text(path.read_text().replace("costModel: {", "costModel: {epochs: 2, "))
    present = {stage["name"]: stage["there"] for stage in rlhf("plan", path, "--output", "json").json["stages"]}
    assert present == {"prepare": None, "sft": True, "reward": True, "cost": False, "report": False}
    drawn = rlhf("plan", path).out.splitlines()
    assert [line.lstrip("│├└─ ").split()[0] for line in drawn] == [
        "beaver:",
        "prepare",
        "sft",
        "reward",
        "cost",
        "report",
    ]


def test_a_bad_job_is_not_planned(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: Pod\n")
    assert rlhf("plan", path).code == 2
    assert rlhf("run", path).code == 2


CONFIG = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "num_hidden_layers": 2,
    "intermediate_size": 64, "vocab_size": 300, "tie_word_embeddings": True,
}  # fmt: skip


def with_model(folder: Path, **changes: int) -> Path:
    """A job whose base model is described beside it."""
    path = job(folder)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    path.write_text(
        path.read_text().replace("../inputs/base", "model").replace("[{input: chat}]", "[{input: chat}], maxLength: 64")
    )
    return path


def test_memory_is_estimated_where_the_model_can_be_looked_at(tmp_path: Path) -> None:
    (file,) = rlhf("validate", with_model(tmp_path), "--no-open", "--output", "json").json["files"]
    (need,) = file["memory"]
    assert (need["stage"], need["ranks"], need["fits"]) == ("sft", 1, True)
    assert need["bytes"] == sum(need["parts"].values())
    assert file["unknown"] == []


def test_a_model_that_cannot_be_looked_at_is_said(tmp_path: Path) -> None:
    result = rlhf("validate", "--no-open", job(tmp_path))
    assert result.code == 0
    assert "memory not known: base: ../inputs/base cannot be looked at from here" in result.out


def test_a_model_of_another_build_is_told_by_the_field_that_its_config_lacks(tmp_path: Path) -> None:
    path = with_model(tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 32}))
    result = rlhf("validate", "--no-open", path)
    assert result.code == 0
    assert "memory not known: base: model: found num_attention_heads = None; expected a whole number" in result.out
    assert "built as Llama is" in result.out


def test_a_stage_that_cannot_fit_is_said_and_no_error(tmp_path: Path) -> None:
    path = with_model(tmp_path, hidden_size=65536, intermediate_size=262144, num_hidden_layers=100)
    result = rlhf("validate", "--no-open", path)
    assert result.code == 0
    assert "sft: needs " in result.err and "it cannot fit here" in result.err


def test_a_claim_is_said_by_validate_and_refused_by_run_and_both_refuse_a_file_that_is_not_there(
    tmp_path: Path,
) -> None:
    path = job(tmp_path)
    path.write_text(path.read_text().replace("../inputs/prefs.jsonl", "pvc://a/b"))
    result = rlhf("validate", "--no-open", path)
    assert result.code == 0
    assert "input prefs is not here: found pvc://a/b" in result.out
    path.write_text(path.read_text().replace("../inputs/chat.jsonl", "gone.jsonl"))
    result = rlhf("validate", "--no-open", path)
    assert result.code == 2
    assert "gone.jsonl does not exist (or give another with --input chat=PATH)" in result.err
    assert rlhf("validate", "--no-open", path, "--input", f"chat={path}").code == 0
    refused = rlhf("run", path)
    assert refused.code == 2
    first, second = refused.err.splitlines()
    assert re.match(
        rf"{path}:\d+:\d+: spec.inputs\[1\].source: .*gone.jsonl does not exist \(or give another with --input chat=PATH\)",
        first,
    )
    assert "spec.inputs[2].source: found pvc://a/b; expected something on this machine" in second
    assert not (tmp_path / ".rlhf").exists()


def test_inputs_given_on_the_command_line(tmp_path: Path) -> None:
    path = job(tmp_path)
    for override, words in [
        ("chat", "expected NAME=PATH"),
        ("talk=/x", "the job has no input 'talk'; it has: base, chat, prefs"),
        ("chat=/no/such/file", "/no/such/file does not exist"),
    ]:
        result = rlhf("run", path, "--input", override)
        assert (result.code, words in result.err) == (2, True)
    mine = tmp_path / "mine.jsonl"
    mine.touch()
    job_given = with_inputs(load_job(path), [f"chat={mine}", "prefs=s3://bucket/key"])
    assert [entry.source for entry in job_given.spec.inputs] == ["../inputs/base", str(mine), "s3://bucket/key"]


def test_a_storage_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    path = job(tmp_path)
    (tmp_path / "file").touch()
    result = rlhf("run", path, "--storage", tmp_path / "file")
    assert result.code == 1
    assert result.err.strip().endswith("Not a directory")
