"""Is an input a model that can be loaded: configuration, architecture, weights, tokenizer. Reads headers, not weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, mistaken, read_object
from rlhf_api.capability import ModelTraits, read_traits, size_problems, tensor_shapes
from rlhf_api.gguf import read_header
from rlhf_api.product import first_model
from rlhf_api.safetensors import count_weights
from rlhf_api.template import Template
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import Message
from rlhf_trainer.evaluation.labels import check_labels
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.uses import ModelUse
from rlhf_trainer.models.explained import explained
from rlhf_trainer.models.files import check_folder, load_tokenizer
from rlhf_trainer.models.gguf import GGUF, gguf_tokenizer
from rlhf_trainer.models.lengths import attends_everywhere

SCORER = "ForSequenceClassification"
INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 << 20
"""Bytes of an index; the largest models have a seventh of it."""
ASKED: Message = {"role": "user", "content": "How are you?"}
AGAIN = "a further question"
CONVERSATIONS: dict[str, list[Message]] = {
    "a system's turn": [{"role": "system", "content": "Be brief."}, ASKED],
    AGAIN: [ASKED, {"role": "assistant", "content": "Well."}, ASKED],
}
"""What a model's rows may be, and a grader's always are; not every template takes it."""


@dataclass
class ModelFacts:
    """What was found."""

    format: str
    """`safetensors` or `gguf`."""
    architecture: str
    parameters: int
    """Weights, by the headers."""
    tokenizer: Any = None
    """Prepared with what the job fixes of its template."""
    notes: list[str] = field(default_factory=list)


def inspect_model(path: Path, uses: Sequence[ModelUse], template: Template | None = None) -> ModelFacts:
    """Check a model's folder for all its uses.

    Raises:
        InputError: it cannot be loaded without running code of its own, lacks something, or is of another kind.
    """
    files = sorted(path.glob(f"*{GGUF}"))
    if files and not (path / "config.json").is_file():
        return _gguf(files, uses, template)
    _refuse_adapter(path)
    check_folder(path, path.name)
    try:
        config = read_object(path / "config.json")
        facts = ModelFacts("safetensors", _architecture(config), _weights(path))
    except Unreadable as error:
        raise InputError(str(error)) from error
    from transformers import AutoConfig

    with explained(path.name, "configuration (config.json)"):
        AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    for file in sorted(path.glob("tokenizer*.json")):
        what = mistaken(file)
        if what is not None:
            raise InputError(f"{file.name}: found {what}")
    with explained(path.name, "tokenizer or chat template"):
        facts.tokenizer = load_tokenizer(path)
        facts.notes.extend(_check_tokenizer(facts.tokenizer, config, uses, template))
    _check_sizes(path, config)
    return facts


def _check_sizes(path: Path, config: dict[str, Any]) -> None:
    """Refuse a configuration of other sizes than the weights have.

    Raises:
        InputError: names each field.
    """
    if isinstance(config.get("text_config"), dict) or config.get("quantization_config") is not None:
        return  # other names, other shapes
    wrong = list(size_problems(config, dict(tensor_shapes(path))))
    if wrong:
        raise InputError(f"config.json does not describe the weights beside it: {'; '.join(wrong)}")


def _refuse_adapter(path: Path) -> None:
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise InputError("is a LoRA adapter without its base; merge it (peft's merge_and_unload) and give the result")


def _architecture(config: dict[str, Any]) -> str:
    """The architecture that config.json names.

    Raises:
        InputError: transformers does not know it; code of the repository's own is never run.
    """
    from transformers import CONFIG_MAPPING

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        own_code = " and brings code of its own (auto_map), which is never run" if "auto_map" in config else ""
        raise InputError(f"config.json: model_type {model_type!r} is unknown to this transformers{own_code}")
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise InputError("config.json: names no architecture; expected such as LlamaForCausalLM")
    return str(names[0])


def traits_of(path: Path) -> ModelTraits | None:
    """What is known of a model's folder that `inspect_model` takes; None for a GGUF file.

    Raises:
        InputError: transformers cannot read its configuration.
    """
    from transformers import AutoConfig

    traits = read_traits(path)
    if traits is None or traits.composite:
        return traits
    with explained(path.name, "configuration"):
        config = AutoConfig.from_pretrained(str(first_model(path)), trust_remote_code=False)
        return replace(traits, stateful=traits.stateful or not attends_everywhere(config))


def _weights(path: Path) -> int:
    """How many weights all shards hold.

    Raises:
        InputError: a shard is missing or cut off.
    """
    names = sorted(file.name for file in path.glob("*.safetensors"))
    if (path / INDEX).is_file():
        needed = _shards(path / INDEX)
        missing = sorted(needed - set(names))
        if missing:
            raise InputError(f"{INDEX} names {missing[0]}, which is not there; fetch the model again")
        names = sorted(needed)
    return sum(count_weights(path / name) for name in names)


def _shards(index: Path) -> set[str]:
    """Names of the files that an index says the weights are in."""
    where = read_object(index, MAX_INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{index.name}: weight_map: found {describe(where)}; expected the file of each weight")
    return set(where.values())


def _check_tokenizer(
    tokenizer: Any, config: dict[str, Any], uses: Sequence[ModelUse], template: Template | None
) -> list[str]:
    """Prepare the tokenizer; in sentences, what was changed and which rows will be refused."""
    text = config.get("text_config")
    vocabulary = (text if isinstance(text, dict) else config).get("vocab_size")
    if isinstance(vocabulary, int):
        _embedded(tokenizer, vocabulary)
    try:
        notes = prepare_tokenizer(tokenizer, template)
        encode_prompt(tokenizer, [ASKED])
    except Exception as error:  # templates raise what they like
        raise InputError(f"the chat template or tokenizer cannot be used: {error}") from error
    for use in uses:
        if use.labels is not None:
            try:
                check_labels(tokenizer, use.labels)
            except InputError as error:
                raise InputError(f"{use.where}: {error}") from error
    graders = [use.where for use in uses if use.where.endswith("rules.grader")]
    for what, messages in CONVERSATIONS.items():
        try:
            encode_prompt(tokenizer, messages)
        except InputError as error:
            if graders and what == AGAIN:
                raise InputError(f"{graders[0]}: what it is asked follows an answer; {error}") from error
            notes.append(f"rows with {what} will be refused: {error}")
    return notes


def _embedded(tokenizer: Any, vocabulary: int) -> None:
    """Refuse a tokenizer that writes ids which the model does not embed.

    Special tokens beyond the embedding may be there (Gemma 3's text models have one for images): no text becomes one.

    Raises:
        InputError: text, or the chat template, may become such an id.
    """
    beyond = {index: token for token, index in tokenizer.get_vocab().items() if index >= vocabulary}
    added = tokenizer.added_tokens_decoder
    written = [token for index, token in sorted(beyond.items()) if index not in added or not added[index].special]
    template = str(tokenizer.chat_template or "")
    written += [
        token for token in beyond.values() if token in template or token in (tokenizer.eos_token, tokenizer.bos_token)
    ]
    if written:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model embeds {vocabulary}, and rows may use what lies "
            f"beyond ({', '.join(map(repr, written[:3]))}); they do not belong together"
        )


def _gguf(files: list[Path], uses: Sequence[ModelUse], template: Template | None) -> ModelFacts:
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    if len(files) > 1:
        raise InputError(f"holds several GGUF files ({', '.join(file.name for file in files[:4])}); expected one")
    for use in uses:
        if use.kind == "scorer":
            raise InputError(f"{use.where}: found a GGUF file, expected a reward or cost model (...{SCORER})")
    try:
        header = read_header(files[0])
    except ValueError as error:
        raise InputError(str(error)) from error
    fields = header.fields
    architecture = str(fields.get("general.architecture"))
    if architecture not in GGUF_CONFIG_MAPPING:
        supported = ", ".join(sorted(GGUF_CONFIG_MAPPING)[:12])
        raise InputError(
            f"{files[0].name}: architecture {architecture!r} cannot be loaded from GGUF; known: {supported}, ..."
        )
    if "tokenizer.ggml.eos_token_id" not in fields:
        raise InputError(f"{files[0].name}: its tokenizer has no EOS token, which must end every answer")
    facts = ModelFacts("gguf", architecture, header.parameters, tokenizer=gguf_tokenizer(files[0]))
    facts.notes.extend(_check_tokenizer(facts.tokenizer, {}, uses, template))
    return facts
