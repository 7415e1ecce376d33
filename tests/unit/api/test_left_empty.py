"""Job files with values left empty, or with a template's braces left in: what to do is said."""

from __future__ import annotations

import pytest

from rlhf_api.errors import SpecError
from rlhf_api.load import load_job
from rlhf_api.sources import parse_source

HEAD = """apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {name: test}
spec:
"""
INPUT = "  inputs: [{name: base, source: base}, {name: chat, source: chat.jsonl}]\n"
SFT = "  - {name: sft, sft: {model: {input: base}, data: [{input: chat}]%s}}\n"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("  stages:\n", "spec.stages: found nothing; expected a value (it has no default: the stages;"),
        ("  stages:\n  -\n", "spec.stages[0]: found nothing; expected a value (fill the entry in, or remove its dash)"),
        (
            "  stages:\n" + SFT % ", epochs: ",
            "sft.epochs: found nothing; expected a value (leave the field out to get its default)",
        ),
    ],
)
def test_a_value_left_empty(spec: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_job(HEAD + INPUT + spec)
    assert words in str(refused.value)


@pytest.mark.parametrize("written", ["{{ .Values.base }}", "hf://{{ .Values.base }}@main", "'{{ .Values.base }}'"])
def test_a_template_that_was_not_rendered(written: str) -> None:
    spec = f"  inputs: [{{name: base, source: {written}}}]\n  stages:\n"
    with pytest.raises(SpecError, match=r"render it first"):
        load_job(HEAD + spec)


@pytest.mark.parametrize(
    "source", ["{{ base }}", "{% if a %}b{% endif %}", "pvc://{{ claim }}/a", "s3://bucket/{{ key }}"]
)
def test_a_source_with_a_templates_braces(source: str) -> None:
    with pytest.raises(ValueError, match=r"found .*; expected a path or a URL \(where a template's"):
        parse_source(source)


@pytest.mark.parametrize(
    ("source", "placeholder"),
    [
        ("<your model>", "<your model>"),
        ("hf://<org>/model@main", "<org>"),
        ("s3://my-bucket/<path>", "<path>"),
        ("${MODEL_DIR}/model", r"\$\{MODEL_DIR\}"),
        *((word, word) for word in ("TODO", "todo", "CHANGE_ME", "changeme", "XXX", r"...")),
    ],
)
def test_a_placeholder_of_an_example(source: str, placeholder: str) -> None:
    with pytest.raises(
        ValueError, match=rf"found .*; expected a path or a URL \(write your own in place of {placeholder}"
    ):
        parse_source(source)


@pytest.mark.parametrize("source", ["todo/rows.jsonl", "a<b.jsonl", "data/xxx", "xx", "price$.jsonl", "my-todo"])
def test_names_that_only_look_like_placeholders_are_paths(source: str) -> None:
    assert parse_source(source).location == source


def test_closing_braces_are_no_sign_of_a_template() -> None:
    with pytest.raises(SpecError) as refused:
        load_job(HEAD + "  inputs: [{name: base, source: b, x: {y: {z: a]}}\n")
    assert "render it" not in str(refused.value)
