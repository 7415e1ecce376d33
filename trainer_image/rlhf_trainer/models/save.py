"""Saving products: Hugging Face folders of safetensors, tied weights once, tokenizer and chat template beside them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import GENERATION_CONFIG_NAME

from rlhf_api.product import MEMBERS
from rlhf_trainer.data.scored import scored_template
from rlhf_trainer.models.moderation import LabelRule
from rlhf_trainer.models.scorer import Rule
from rlhf_trainer.models.vocabulary import MaskedHead, end_ids

LABELS = {"reward": "reward (higher: better)", "cost": "cost (positive: harmful)"}


def save_policy(folder: Path, state: Mapping[str, Tensor], model: Any, tokenizer: Any) -> None:
    """Write a language model as a folder that `load_policy` and `AutoModelForCausalLM` read.

    Args:
        folder: Made if missing.
        state: Whole weights by the model's own names (`Engine.state_dict`, `freeze.whole_state`).
        model: A model of that architecture; gives configuration, dtype and which weights are tied.
        tokenizer: Its tokenizer; PAD differs from EOS.
    """
    _write(folder, state, model, tokenizer)


def save_scorer(
    folder: Path, states: Sequence[Mapping[str, Tensor]], models: Sequence[Any], rule: Rule, tokenizer: Any
) -> None:
    """Write a reward or cost model: one folder, or `members/<i>/` where trunks are separate, with `ensemble.json`.

    Args:
        folder: Made if missing.
        states: Whole weights, one a model.
        models: The sequence classifiers: one, or one a member.
        rule: Kind, standardisation and how members are combined.
        tokenizer: Written into every folder.
    """
    separate = rule.trunk == "separate" and rule.members > 1
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = scored_template(tokenizer)
    for model in models:
        _name_scores(model, rule)
    for index, (state, model) in enumerate(zip(states, models, strict=True)):
        _write(folder / MEMBERS / str(index) if separate else folder, state, model, tokenizer)
    rule.write(folder)


def save_moderation(folder: Path, state: Mapping[str, Tensor], model: Any, rule: LabelRule, tokenizer: Any) -> None:
    """Write a moderation model: a folder that `AutoModelForSequenceClassification` reads, with `moderation.json`.

    Args:
        folder: Made if missing.
        state: Whole weights.
        model: The sequence classifier.
        rule: Its labels and their thresholds.
        tokenizer: Written into the folder.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = scored_template(tokenizer)
    _name_labels(model, rule.labels, "multi_label_classification")
    _write(folder, state, model, tokenizer)
    rule.write(folder)


def _name_scores(model: Any, rule: Rule) -> None:
    """Say in a configuration what its logits are, so that `pipeline("text-classification")` gives them as they are."""
    labels = model.config.num_labels
    names = [LABELS[rule.kind] if labels == 1 else f"{LABELS[rule.kind]}, member {i}" for i in range(labels)]
    _name_labels(model, names, "regression")  # others are put through a sigmoid or softmax


def _name_labels(model: Any, names: Sequence[str], problem: str) -> None:
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.config.problem_type = problem


def _write(folder: Path, state: Mapping[str, Tensor], model: Any, tokenizer: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to("cpu", model.dtype) for name, value in state.items()}
    head = model.get_output_embeddings()
    if isinstance(head, MaskedHead):
        head.leveled(next(name for name, module in model.named_modules() if module is head), weights)
    declare_ids(model, tokenizer)
    model.config.dtype = model.dtype
    # transformers drops tied weights where they share memory; a gathered copy (ZeRO 3) no longer does.
    for name, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        if name in weights and source in weights:
            weights[name] = weights[source]
    with torch.no_grad():
        _save_model(folder, weights, model)
    save_tokenizer(folder, tokenizer)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def save_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write a tokenizer in words that transformers 4.57 reads, too.

    It knows neither the class TokenizersBackend nor a list of `extra_special_tokens`; later versions know both names.
    """
    tokenizer.save_pretrained(str(folder))
    file = folder / TOKENIZER_CONFIG_FILE
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    file.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def declare_ids(model: Any, tokenizer: Any) -> None:
    """Write into a model's configurations what plain transformers needs to stop where the trainer stops. In place.

    All else in a language model's `generation_config` is its base's.
    """
    generates = model.can_generate()
    ends: list[int] | int = list(end_ids(model, tokenizer)) if generates else tokenizer.eos_token_id
    ids = {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    for config in (model.config, model.generation_config) if generates else (model.config,):
        for name, value in ids.items():
            setattr(config, name, value)
    head = model.get_output_embeddings()
    if isinstance(head, MaskedHead):
        suppressed = model.generation_config.suppress_tokens or ()
        model.generation_config.suppress_tokens = sorted({*suppressed, *head.masked})


def _save_model(folder: Path, weights: dict[str, Tensor], model: Any) -> None:
    if not model.can_generate():
        model.save_pretrained(str(folder), state_dict=weights)
        return
    # transformers refuses to save a changed generation_config whose fields contradict one another (a temperature
    # without do_sample), as many bases ship it; products carry it as it is.
    defaults, model.generation_config = model.generation_config, GenerationConfig()
    try:
        model.save_pretrained(str(folder), state_dict=weights)
    finally:
        model.generation_config = defaults
    defaults.to_json_file(folder / GENERATION_CONFIG_NAME, keys_to_pop=["compile_config"])
