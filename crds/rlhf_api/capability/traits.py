"""What a model's folder says of the model: its config.json and the headers of its weights. No weights are read.

What is missing or of another type than expected is not known: loading says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, read_object
from rlhf_api.capability.model_types import CAUSAL, CHANGED_LOGITS, SCORERS, STATEFUL
from rlhf_api.job import RLHFJob
from rlhf_api.memory.local_facts import local_path
from rlhf_api.product import first_model
from rlhf_api.safetensors import read_header

AFTER_HEAD: dict[str, float | None] = {
    "final_logit_softcapping": None,
    "logits_soft_cap": None,
    "output_logit_soft_cap": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
    "output_multiplier": 1.0,
}
"""Fields of what is done to logits after the output head, with the value that does nothing."""
CONVOLUTIONS = frozenset({"gpt2", "openai-gpt", "gpt-sw3"})
"""Model types whose layers multiply by transformers' Conv1D."""
LEAKING = frozenset({"bloom", "falcon", "gpt_oss", "mpt", "opt"})
"""Model types in which conversations packed into one row see each other; of others, `sft` tries it on the model."""
ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})
"""Kinds of layers that keep the keys and values of all tokens, and nothing else."""
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "value_head.weight", "v_head.weight")
"""Names of a sequence classifier's head: [labels, hidden]."""
LENGTH_BOUND = ("dynamic", "longrope")
"""Rotary embeddings that are others once a row is longer than the model's original length, for all rows beside it."""
GROWING = ("linear", "yarn", "dynamic", "longrope")
"""Rotary embeddings whose `factor` multiplies the original length."""


@dataclass(frozen=True)
class ModelTraits:
    """What is known of a model; None: not known."""

    model_type: str
    architecture: str = ""
    quantised: str | None = None
    """Method of its quantisation; None: its weights are plain."""
    composite: bool = False
    """Whether it is a model of several parts (vision, audio, text), or an encoder with a decoder."""
    stateful: bool = False
    """Whether a layer keeps something else than keys and values: recurrent, linear attention, convolutions."""
    changed_logits: bool = False
    """Whether logits are capped or scaled after the output head."""
    layers: int | None = None
    positions: int | None = None
    """Tokens a row may have at most."""
    stable: int | None = None
    """Tokens up to which a row's result does not depend on the rows beside it; None: always."""
    labels: int | None = None
    """Rows of a sequence classifier's head."""
    label_names: tuple[str, ...] = ()
    """Of a classifier whose labels are each true or false of a row: their names; empty: it is of another kind."""
    moderation: bool = False
    """Whether `moderation.json` says from which probabilities they are true: it is a product of a moderation stage."""
    ensemble: bool = False
    """Whether `ensemble.json` says what its labels are: it is a product of a rewardModel or costModel stage."""
    modules: frozenset[str] = frozenset()
    """Names of what has a matrix of weights inside the layers; empty: not known."""
    cuts: bool = True
    """Whether its layers lie in `layers`, beside embeddings and final norm, as far as names tell."""

    @property
    def scores(self) -> bool:
        """Whether transformers has a sequence classifier of this kind, made as a scorer needs it."""
        return self.model_type in SCORERS

    @property
    def linear(self) -> bool:
        """Whether what its layers multiply by are linear layers, which adapters can be put into."""
        return self.model_type not in CONVOLUTIONS

    @property
    def packs(self) -> bool:
        """Whether conversations in one row may be kept apart, as far as its type tells."""
        return self.model_type not in LEAKING and not self.stateful

    @property
    def writes(self) -> bool:
        """Whether transformers has a causal language model of this kind."""
        return self.model_type in CAUSAL


def local_traits(job: RLHFJob, folder: Path) -> dict[str, ModelTraits]:
    """Traits of the inputs that are model folders on this machine, by name.

    Args:
        job: A valid job.
        folder: The job file's: relative paths are taken from it.
    """
    by_input = {}
    for entry in job.spec.inputs:
        path = local_path(entry.source, folder)
        traits = read_traits(path) if path is not None else None
        if traits is not None:
            by_input[entry.name] = traits
    return by_input


def read_traits(folder: Path) -> ModelTraits | None:
    """Traits of a model's folder; None where it has no config.json that names its type (a GGUF file, data)."""
    model = first_model(folder)
    try:
        config = read_object(model / "config.json")
    except Unreadable:
        return None
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return None
    names = config.get("architectures")
    shapes = dict(tensor_shapes(model))
    quantisation = config.get("quantization_config")
    positions, stable = row_lengths(config)
    labels = next((shape[0] for name, shape in shapes.items() if name in HEADS and len(shape) == 2), None)
    ensemble = (folder / "ensemble.json").is_file()
    moderation = not ensemble and (folder / "moderation.json").is_file()
    several = moderation or (not ensemble and config.get("problem_type") == "multi_label_classification")
    return ModelTraits(
        model_type=model_type,
        architecture=str(names[0]) if isinstance(names, list) and names else "",
        quantised=None if quantisation is None else str(_object(quantisation).get("quant_method", "unknown method")),
        composite=_composite(config),
        stateful=model_type in STATEFUL or not _kinds(config) <= ATTENTION,
        changed_logits=changed_logits(config, by_default=model_type in CHANGED_LOGITS),
        layers=_number(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        positions=positions,
        stable=stable,
        labels=labels,
        label_names=_label_names(config, labels) if several else (),
        moderation=moderation,
        ensemble=ensemble,
        modules=frozenset(_modules(shapes)),
        cuts=not shapes or any(re.match(r"(\w+\.)?layers\.0\.", name) for name in shapes),
    )


def _label_names(config: Mapping[str, Any], labels: int | None) -> tuple[str, ...]:
    """Names of a head's rows, as transformers calls them where the configuration does not."""
    names = _object(config.get("id2label"))
    return tuple(str(names.get(str(index), f"LABEL_{index}")) for index in range(labels or len(names)))


def changed_logits(config: Mapping[str, Any], *, by_default: bool = False) -> bool:
    """Whether a configuration caps or scales logits after the output head; `by_default` where it says nothing."""
    settings = [(config[name], plain) for name, plain in AFTER_HEAD.items() if name in config]
    return any(value not in (None, plain) for value, plain in settings) if settings else by_default


def _composite(config: Mapping[str, Any]) -> bool:
    parts = [key for key in config if key.endswith("_config") and isinstance(config[key], dict)]
    several = any(key in parts for key in ("text_config", "vision_config", "audio_config", "llm_config"))
    return several or config.get("is_encoder_decoder") is True


def _kinds(config: Mapping[str, Any]) -> set[str]:
    kinds = config.get("layer_types")
    return {kind for kind in kinds if isinstance(kind, str)} if isinstance(kinds, list) else set()


def row_lengths(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(tokens a row may have, tokens up to which rows do not change one another)."""
    declared = _number(config, "max_position_embeddings", "n_positions")
    if declared is None:
        return None, None
    positions, stable = declared, None
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type"))
        original = _number(rope, "original_max_position_embeddings")
        original = original or _number(config, "original_max_position_embeddings")
        factor = rope.get("factor")
        if kind in GROWING and isinstance(factor, int | float) and 1 <= factor <= 2**20:
            positions = max(positions, int((original or declared) * factor))
        if kind in LENGTH_BOUND:
            stable = min(stable or positions, original or declared)
    return positions, stable


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Parameters of the rotary embeddings: one for all layers, or one a kind of layer."""
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if isinstance(value, dict):
            yield value
            yield from (inner for inner in value.values() if isinstance(inner, dict))


def _modules(shapes: Mapping[str, list[int]]) -> Iterator[str]:
    for name, shape in shapes.items():
        inside = re.search(r"(?:^|\.)(?:layers|h|blocks|block)\.\d+\.(.+)\.weight$", name)
        if inside is not None and len(shape) == 2 and "experts." not in inside[1].replace("shared_experts.", ""):
            yield inside[1].rpartition(".")[2]


def tensor_shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of all tensors, by the headers of the safetensors files; a damaged one has none."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(path)
        except Unreadable:
            continue
        for name, entry in header.items():
            shape = _object(entry).get("shape")
            if isinstance(shape, list) and all(type(size) is int for size in shape):
                yield name, shape


def _number(source: Mapping[str, Any], *names: str) -> int | None:
    """The first of some fields that is a whole number above 0."""
    values = (source.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
