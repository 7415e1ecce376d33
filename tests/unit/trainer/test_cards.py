"""Model cards: read by huggingface_hub, deterministic, and no text from outside means anything in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import ModelCard

from rlhf_api.product import Manifest
from rlhf_trainer.cards.card import Source, escape, product_source, write_card

HOSTILE = 'x\n---\nlicense: mit\n---\n# [a](javascript:b) <script>alert(1)</script> | `c` \x1b[31m ![i](http://i "t")'


def manifest(type_: str = "sft", **fields: Any) -> Manifest:
    """A manifest of a stage with an estimate."""
    common = {"digest": "d" * 64, "recipe": 3, "job": "safer", "stage": "answers", "seed": 7, "files": {}}
    metrics = {"heldout_loss": {"value": 1.25, "low": 1.0, "high": 1.5, "n": 40}, "steps": 4, "accuracy": None}
    content = {
        "spec": {"epochs": 2.0},
        "inputs": {"input:base": "b" * 40, "input:chat": "c" * 40},
        "versions": {"transformers": "5.0"},
        "counts": {"rows.train": 24},
        "metrics": metrics,
        "notes": ["nothing is held out"],
        **fields,
    }
    return Manifest.model_validate({"type": type_, **common, **content})


SOURCES = {"input:base": Source("hf://org/base", "apache-2.0"), "input:chat": Source("data/chat.jsonl", None)}


@pytest.mark.parametrize(
    "type_", ["sft", "ppo", "rewardModel", "costModel", "moderation", "simulate", "rules", "evaluate"]
)
def test_a_card_says_base_licence_data_recipe_metrics_limits_and_use(type_: str) -> None:
    text = write_card(manifest(type_), SOURCES)
    for part in ("hf\\://org/base", "apache\\-2.0", "not disclosed", "heldout\\_loss", "1 to 1.5, n = 40", "recipe 3"):
        assert part in text
    assert "nothing is held out" in text
    card = ModelCard(text)
    assert card.data.tags == ["rlhf-operator", type_]
    if type_ in ("sft", "ppo", "rewardModel", "costModel", "moderation"):
        code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)
        assert code is not None
        assert len(code[1].splitlines()) == 6
        compile(code[1], "card", "exec")
        assert card.data.library_name == "transformers"
    assert card.data.eval_results is not None
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("heldout_loss", 1.25)


def test_a_card_is_a_function_of_its_manifest() -> None:
    assert write_card(manifest(), SOURCES) == write_card(manifest(), SOURCES)


def test_text_from_outside_is_text() -> None:
    hostile = manifest(
        job="j",
        notes=[HOSTILE],
        counts={HOSTILE: 1},
        metrics={HOSTILE: {"value": 1.0, "low": 0, "high": 2, "n": 3}},
        inputs={f"input:{HOSTILE}": "d" * 40},
        spec={"label": HOSTILE, "end": "```\n# x"},
        failure=HOSTILE,
    )
    text = write_card(hostile, {f"input:{HOSTILE}": Source(HOSTILE, HOSTILE)})
    data, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert "license" not in ModelCard(text).data.to_dict()
    assert "\x1b" not in body
    prose = re.sub(r"(?m)^    .*$", "", body)
    assert not re.search(r"(?<!\\)<script", prose)
    assert not re.search(r"(?<!\\)\]\(", prose)
    assert [line for line in prose.splitlines() if line.startswith("#")] == [
        "# j\\-answers",
        "## Use",
        "## Base and data",
        "## Metrics",
        "## Limits",
        "## Recipe",
    ]
    assert data


def test_a_long_text_is_cut() -> None:
    assert len(escape("a" * 9_000)) == 300


class TestBase:
    MODEL: ClassVar[dict[str, Any]] = {"spec": {"model": {"input": "base", "stage": None}}}
    CHAINED: ClassVar[dict[str, Any]] = {"spec": {"policy": {"stage": "sft"}}, "inputs": {"stage:sft": "b" * 64}}

    def front(self, manifest: Manifest, sources: dict[str, Source]) -> dict[str, Any]:
        metadata: dict[str, Any] = ModelCard(write_card(manifest, sources)).data.to_dict()
        return metadata

    def test_licence_and_base_are_those_of_the_model_that_was_trained(self) -> None:
        front = self.front(manifest(**self.MODEL), SOURCES | {"input:base": Source("hf://org/base@main", "apache-2.0")})
        assert (front["license"], front["base_model"]) == ("apache-2.0", "org/base")

    def test_several_licences_are_none_of_them(self) -> None:
        front = self.front(manifest(**self.MODEL), SOURCES | {"input:chat": Source("c.jsonl", "cc-by-nc-4.0")})
        assert (front["license"], front["license_name"]) == ("other", "of base and data, see below")

    def test_what_is_not_known_is_not_said(self) -> None:
        front = self.front(manifest(**self.MODEL), {"input:base": Source("models/base", None)})
        assert not {"license", "base_model"} & front.keys()

    @pytest.mark.parametrize("licence", ["Llama 3 Community", "mit\nlicense: apache-2.0", "[a](b)"])
    def test_a_licence_without_an_identifier_is_a_name(self, licence: str) -> None:
        front = self.front(manifest(**self.MODEL), {"input:base": Source("hf://org/base", licence)})
        assert (front["license"], front["license_name"]) == ("other", escape(licence))

    def test_the_base_of_a_stages_product_is_told_by_its_card(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text(write_card(manifest(**self.MODEL), SOURCES))
        front = self.front(manifest("ppo", **self.CHAINED), {"stage:sft": product_source(tmp_path)})
        assert (front["license"], front["base_model"]) == ("apache-2.0", "org/base")

    @pytest.mark.parametrize(
        "text", ["", "---\nbase_model: [a]\nlicense: {a: b}\n---\n", "---\nbase_model: ../x\n---\n"]
    )
    def test_a_damaged_card_tells_nothing(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "README.md").write_text(text)
        assert product_source(tmp_path) == Source(None, None)
