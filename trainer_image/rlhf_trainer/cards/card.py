"""A product's README.md: a model card made of its manifest, the same for the same manifest.

Names, notes and licences come from jobs and data: they are escaped, so that none of them can be a link, HTML, a heading
or a field of the front matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.product import Manifest
from rlhf_api.stages import STAGE_TYPES
from rlhf_trainer.sources.choose import card

README = "README.md"
TASKS = {
    "policy": "text-generation",
    "reward": "text-classification",
    "cost": "text-classification",
    "moderation": "text-classification",
}
"""Task on the Hugging Face Hub, by what a stage makes; other products are no models."""
WHAT = {
    "policy": "A language model that answers in chats",
    "reward": "A reward model: a higher score is a better answer",
    "cost": "A cost model: a score above 0 is a harmful answer",
    "moderation": "A moderation model: which labels an answer has",
    "rules": "Weights of rule-based rewards, for the stages of rlhf-operator",
    "evaluation": "Measurements of models, for the stages of rlhf-operator",
    "data": "Simulated data, for the stages of rlhf-operator",
}
LIMITS = {
    "policy": "Trained on the data below and measured on nothing else. It can be wrong and it can do harm; evaluate it "
    "for your use before others meet it.",
    "reward": "A learned preference, not a measure of truth or safety. What is optimised against it will exploit its "
    "errors; its scores compare answers to one prompt only.",
    "cost": "A learned judgement, not a guarantee of safety. Its sign is right as often as the metrics say, on data "
    "like its own.",
    "moderation": "Learned labels, not a guarantee of safety. Each is right as often as the metrics say, on data like its "
    "own; harm that has no label is not looked for.",
}
SCORES = "The logits are the scores. Several members are combined as `ensemble.json` says."
NOTES = {
    "reward": SCORES,
    "cost": SCORES,
    "moderation": "One probability a label, in the order of `moderation.json`: an answer has those that reach their threshold.",
}
"""What the logits of a classifier are."""
NO_LICENCE = "not disclosed"
HUB = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@[\w./-]+)?")
"""A model on the Hub."""
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
"""A licence's identifier as the Hub has it."""
LONGEST = 300
"""Characters of a text from outside."""


@dataclass(frozen=True)
class Source:
    """An input, as `prepare` recorded it."""

    source: str | None
    licence: str | None
    base_model: str | None = None
    """Repository on the Hub that a stage's product was trained from."""

    @property
    def repository(self) -> str | None:
        """The model's repository on the Hub, or that of what it was trained from."""
        match = HUB.fullmatch(self.source or "")
        return match[1] if match is not None else self.base_model


def product_source(folder: Path) -> Source:
    """What another product's own card says of its base."""
    front = card(folder)
    name = front.get("base_model")
    base = name if isinstance(name, str) and HUB.fullmatch(f"hf://{name}") else None
    licence = front.get("license_name", front.get("license"))
    return Source(None, licence if isinstance(licence, str) else None, base)


def write_card(manifest: Manifest, sources: Mapping[str, Source], *, members: bool = False) -> str:
    """The text of README.md.

    Args:
        manifest: of the product.
        sources: by `Reference.key`, as far as they are known.
        members: a scorer whose members lie in `members/<i>/`.
    """
    from huggingface_hub import ModelCard  # only by who writes a card

    product = STAGE_TYPES[manifest.type].product
    name = f"{manifest.job}-{manifest.stage}"
    title = [f"# {escape(name)}", f"{WHAT[product]}. Made by the stage `{manifest.type}` of rlhf-operator."]
    body = [
        *title,
        *_usage(product, members),
        *_origin(manifest, sources),
        *_metrics(manifest),
        *_limits(manifest, product),
        *_recipe(manifest),
    ]
    return str(ModelCard(f"---\n{_front_matter(manifest, product, name, sources)}\n---\n\n" + "\n\n".join(body) + "\n"))


def escape(text: object) -> str:
    """A text from outside as one line of Markdown in which nothing but its characters has a meaning."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]()<>#+!|&~:@-])", r"\\\1", line)


def estimates(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float, str]]:
    """(name, value, interval in words) of every number among metrics, nested ones by their path."""
    for name, value in metrics.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield f"{prefix}{name}", float(value), ""
        elif isinstance(value, Mapping) and "value" in value:
            low, high = value.get("low"), value.get("high")
            interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
            rows = f", n = {value['n']}" if value.get("n") is not None else ""
            if value["value"] is not None:
                yield f"{prefix}{name}", float(value["value"]), (interval or "no interval") + rows
        elif isinstance(value, Mapping):
            yield from estimates(value, f"{prefix}{name}.")


def _front_matter(manifest: Manifest, product: str, name: str, sources: Mapping[str, Source]) -> str:
    """YAML that the Hub reads; huggingface_hub quotes what has to be."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=TASKS.get(product, "other"),
            dataset_type="held-out",
            dataset_name=f"held-out rows of {name}",
            metric_type=metric,
            metric_value=value,
            metric_name=f"{metric} ({words})" if words else metric,
        )
        for metric, value, words in estimates(manifest.metrics)
        if words
    ]
    base = sources.get(_base_key(manifest) or "")
    data = ModelCardData(
        model_name=name,
        base_model=base.repository if base is not None and product in TASKS else None,
        **_licence(manifest, base, sources),
        library_name="transformers" if product in TASKS else None,
        pipeline_tag=TASKS.get(product),
        tags=["rlhf-operator", manifest.type],
        eval_results=results or None,
        ignore_metadata_errors=False,
    )
    return str(data.to_yaml()).rstrip()


def _base_key(manifest: Manifest) -> str | None:
    """The key of what was trained on: `input:NAME` or `stage:NAME`."""
    reference = manifest.spec.get("model") or manifest.spec.get("policy")
    if not isinstance(reference, Mapping):
        return None
    return next((f"{kind}:{reference[kind]}" for kind in ("input", "stage") if reference.get(kind)), None)


def _licence(manifest: Manifest, base: Source | None, sources: Mapping[str, Source]) -> dict[str, Any]:
    """The base's licence, where that of nothing else that went in is known to be another."""
    licences = {sources[key].licence for key in manifest.inputs if key in sources} - {None}
    if base is None or base.licence is None:
        return {}
    if len(licences) == 1 and LICENCE.fullmatch(base.licence):
        return {"license": base.licence}
    several = "of base and data, see below"
    return {"license": "other", "license_name": several if len(licences) > 1 else escape(base.licence)}


def _usage(product: str, members: bool) -> list[str]:
    if product == "policy":
        code = """\
from transformers import pipeline

generate = pipeline("text-generation", model="FOLDER")
messages = [{"role": "user", "content": "How do I put out a small fire?"}]
answer = generate(messages, max_new_tokens=256, return_full_text=False)
print(answer[0]["generated_text"])"""
        return ["## Use", f"```python\n{code}\n```"]
    if product in ("reward", "cost", "moderation"):
        folder = "FOLDER/members/0" if members else "FOLDER"
        code = f"""\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, tokenizer = (c.from_pretrained("{folder}") for c in (AutoModelForSequenceClassification, AutoTokenizer))
chat = [{{"role": "user", "content": "How are you?"}}, {{"role": "assistant", "content": "Well, thank you."}}]
ids = tokenizer.apply_chat_template([chat], return_tensors="pt", return_dict=True)
print(model.eval()(**ids).logits{".sigmoid()" if product == "moderation" else ""})"""
        note = NOTES[product]
        return ["## Use", f"```python\n{code}\n```", note]
    return []


def _origin(manifest: Manifest, sources: Mapping[str, Source]) -> list[str]:
    lines = ["| input | source | licence | digest |", "|---|---|---|---|"]
    for key, digest in sorted(manifest.inputs.items()):
        origin = sources.get(key, Source(None, None))
        source = origin.source or ("a stage of the job" if key.startswith("stage:") else NO_LICENCE)
        licence = origin.licence or NO_LICENCE
        lines.append(f"| {escape(key)} | {escape(source)} | {escape(licence)} | {escape(digest[:12])} |")
    return ["## Base and data", "\n".join(lines), "The licences of all of them apply. " + _counts(manifest)]


def _counts(manifest: Manifest) -> str:
    return (
        "Counts: " + (", ".join(f"{escape(name)} {n}" for name, n in sorted(manifest.counts.items())) or "none") + "."
    )


def _metrics(manifest: Manifest) -> list[str]:
    rows = [f"| {escape(name)} | {value:.4g} | {words} |" for name, value, words in estimates(manifest.metrics)]
    if not rows:
        return ["## Metrics", "None was measured."]
    return ["## Metrics", "\n".join(["| metric | value | 95 % interval |", "|---|---|---|", *rows])]


def _limits(manifest: Manifest, product: str) -> list[str]:
    notes = [f"- {escape(note)}" for note in manifest.notes]
    if manifest.failure is not None:
        notes.insert(0, f"- The stage failed: {escape(manifest.failure)}")
    text = [LIMITS[product]] if product in LIMITS else []
    versions = f"Written with transformers {escape(manifest.versions.get('transformers', 'of an unknown version'))}."
    if product in TASKS:
        versions += (
            " Load the model with transformers 5 or later: earlier versions do not read `rope_parameters` and would compute "
            "something else. The tokenizer loads from 4.57 on."
        )
    return ["## Limits", *text, *(["\n".join(notes)] if notes else []), versions]


def _recipe(manifest: Manifest) -> list[str]:
    spec = json.dumps(manifest.spec, indent=2, sort_keys=True, ensure_ascii=True)
    indented = "\n".join(f"    {line}" for line in spec.splitlines())  # no fence that a text of the spec could close
    return ["## Recipe", f"Stage type {manifest.type}, recipe {manifest.recipe}, seed {manifest.seed}.", indented]
