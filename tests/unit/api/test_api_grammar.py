"""Small grammars of the API: paths in messages, sources, quantities, what a suggestion is."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_api.error_messages import describe, nearest
from rlhf_api.errors import Finding, SpecError, SpecProblem, format_path
from rlhf_api.load import load_job, parse_job
from rlhf_api.quantities import amount
from rlhf_api.sources import FSSPEC_SCHEMES, Source, parse_source


def test_a_path_is_written_as_kubernetes_writes_it() -> None:
    assert format_path(("spec", "stages", 2, "ppo", "kl", "target")) == "spec.stages[2].ppo.kl.target"
    assert (
        format_path(("metadata", "labels", "kueue.x-k8s.io/queue-name")) == "metadata.labels[kueue.x-k8s.io/queue-name]"
    )
    assert format_path(()) == ""


def test_a_problem_is_one_line_with_its_place_first_and_its_hint_last() -> None:
    problem = SpecProblem("spec.seed", "found the text '7'; expected a whole number", "write it without quotes", 8, 9)
    assert problem.render("job.yaml") == (
        "job.yaml:8:9: spec.seed: found the text '7'; expected a whole number (write it without quotes)"
    )
    assert SpecProblem("spec.seed", "is missing").render() == "spec.seed: is missing"


def test_a_finding_moves_down_with_what_holds_it() -> None:
    assert Finding(("min",), "above max").below(("spec", "stages", 0)).at == ("spec", "stages", 0, "min")


@pytest.mark.parametrize(("value", "words"), [("a\0b", "a NUL character"), ("\ud800", ".* halves of surrogate pairs")])
def test_a_text_that_no_process_can_be_given_is_refused(value: str, words: str) -> None:
    stage = {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "rows"}]}}
    spec = {
        "inputs": [{"name": "base", "source": "base"}, {"name": "rows", "source": "rows.jsonl"}],
        "stages": [stage],
        "pod": {"env": [{"name": "A", "value": value}]},
    }
    job = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "a"}, "spec": spec}
    with pytest.raises(SpecError, match=rf"^spec\.pod\.env\[0\]\.value: found {words}"):
        parse_job(job)


def test_an_error_needs_a_problem_and_lists_them_all() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        SpecError([])
    error = SpecError([SpecProblem("a", "b"), SpecProblem("c", "d")], "job.yaml")
    assert str(error) == "job.yaml: a: b\njob.yaml: c: d"


def test_a_file_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone.yaml: cannot be read: No such file"):
        load_job(tmp_path / "gone.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_job(tmp_path)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://org/model@4f2c", Source("hub-model", "org/model", revision="4f2c")),
        ("hf://gpt2@main", Source("hub-model", "gpt2", revision="main")),
        ("hf://datasets/org/name@refs/pr/3", Source("hub-data", "org/name", revision="refs/pr/3")),
        ("pvc://models/a/b.jsonl", Source("claim", "models", "a/b.jsonl")),
        ("package://a.b/c/d.gguf", Source("package", "a.b", "c/d.gguf")),
        ("data/rows.jsonl", Source("path", "data/rows.jsonl")),
        ("/data/rows.jsonl", Source("path", "/data/rows.jsonl")),
        ("abfs://container@account/path", Source("url", "abfs://container@account/path")),
        *((f"{scheme}://host/key", Source("url", f"{scheme}://host/key")) for scheme in FSSPEC_SCHEMES),
    ],
)
def test_a_source_is_taken_apart(text: str, source: Source) -> None:
    assert parse_source(text) == source


def test_an_unknown_scheme_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"found pcv://; expected one of hf://.*did you mean pvc://\?"):
        parse_source("pcv://models/x")


@settings(derandomize=True)
@given(st.text(max_size=60) | st.from_regex(r"(hf|pvc|package|s3|file|x)://[a-z/@.]{0,20}", fullmatch=True))
def test_any_source_is_taken_apart_or_refused_in_words(text: str) -> None:
    try:
        source = parse_source(text)
    except ValueError as error:
        assert str(error).startswith("found ")
    else:
        assert source.location or text == ""
        assert ".." not in source.path.split("/")


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1", "1"),
        ("500m", "0.5"),
        ("1.5", "1.5"),
        ("2k", "2000"),
        ("1Ki", "1024"),
        ("16Gi", "17179869184"),
        ("1.5Mi", "1572864"),
        ("1e3", "1000"),
        ("3E", "3000000000000000000"),
        ("100n", "0.0000001"),
        ("7u", "0.000007"),
    ],
)
def test_a_quantity_is_the_number_that_kubernetes_reads(quantity: str, number: str) -> None:
    assert amount(quantity) == Decimal(number)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true"),
        (3, "the number 3"),
        (1e-5, "the number 1e-05"),
        ("a", "the text 'a'"),
        ("x" * 80, "the text '" + "x" * 57 + "'... of 80 characters"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ({}, "an empty mapping"),
        ({"a": 1}, "a mapping of a"),
    ],
)
def test_a_value_is_described_as_a_reader_would_call_it(value: object, words: str) -> None:
    assert describe(value) == words


def test_the_nearest_word_ignores_case_and_underscores() -> None:
    field_names = ["batchSize", "maxLength", "epochs"]
    assert nearest("batch_size", field_names) == "batchSize"
    assert nearest("epoch", field_names) == "epochs"
    assert nearest("temperature", field_names) is None
