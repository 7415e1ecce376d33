"""What a job asks of its models that they cannot do: by stage and field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.capability.traits import ModelTraits, local_traits
from rlhf_api.error_messages import nearest
from rlhf_api.errors import Finding, SpecError, format_path
from rlhf_api.fields import CostScorer, ModelRef, Reference, Scorer, TrunkRef, located_references
from rlhf_api.job import RLHFJob, Stage
from rlhf_api.load import located
from rlhf_api.memory.lineage import origin
from rlhf_api.stages import Evaluate, Moderation, Ppo, Rules, Sft, Simulate
from rlhf_api.stages.common import Optimizer
from rlhf_api.stages.preference import Preference
from rlhf_api.yaml import Document

CLASSIFIER = "ForSequenceClassification"
PLACED = re.compile(
    r"(?:input (?P<input>[^:]+)|stage (?P<stage>[^,:]+), (?P<field>[^:;]+)(?:; stage [^:]+)?): (?P<message>.*)",
    re.DOTALL,
)
WRITERS = ("ForCausalLM", "LMHeadModel")
ONE_LABEL = "which label is meant, and its sign, is not guessed: save a head of that row alone"
MANY_LABELS = "; labels that are each true or false are those of a problem_type multi_label_classification"


@dataclass(frozen=True)
class _Used:
    """A model that a stage takes."""

    reference: Reference
    name: str
    """The input it descends from."""
    traits: ModelTraits

    @property
    def direct(self) -> bool:
        """Whether it is the input itself, rather than a product made from it."""
        return self.reference.input is not None


def problems(job: RLHFJob, traits: Mapping[str, ModelTraits]) -> list[Finding]:
    """Every stage that cannot work with its models, at its place in the job.

    Args:
        job: A valid job.
        traits: Of inputs that are models, by name; of others nothing is said.
    """
    findings: dict[tuple[Any, ...], Finding] = {}
    for index, stage in enumerate(job.spec.stages):
        for finding in _of_stage(job, stage, traits):
            at = ("spec", "stages", index, stage.type, *finding.at)
            findings.setdefault(at, Finding(at, finding.message, finding.hint))
    return list(findings.values())


def check_local(job: RLHFJob, document: Document, folder: Path) -> None:
    """Look at the models that lie on this machine, as far as files can tell without their code.

    Args:
        job: A valid job.
        document: Its file.
        folder: That relative paths are taken from.

    Raises:
        SpecError: a stage cannot work with its model.
    """
    findings = problems(job, local_traits(job, folder))
    if findings:
        raise SpecError(list(dict.fromkeys(located(document, finding) for finding in findings)), document.source)


def words(job: RLHFJob, finding: Finding) -> str:
    """A finding as `prepare` tells it: `stage sft, sft.maxLength: found ... (hint)`."""
    stage = job.spec.stages[int(finding.at[2])]
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"stage {stage.name}, {format_path(finding.at[3:])}: {finding.message}{hint}"


def located_words(job: RLHFJob, text: str) -> Finding:
    """What `prepare` tells, at its place in the job: of a stage's field as `words` has it, or `input chat: found ...`.

    Of several fields, the first is taken.
    """
    match = PLACED.fullmatch(text)
    if match is None:
        return Finding((), text)
    if match["input"] is not None:
        names = [entry.name for entry in job.spec.inputs]
        return Finding(("spec", "inputs", names.index(match["input"]), "source"), match["message"])
    names = [stage.name for stage in job.spec.stages]
    keys = (int(key) if key.isdecimal() else key for key in re.findall(r"[^.\[\]]+", match["field"]))
    return Finding(("spec", "stages", names.index(match["stage"]), *keys), match["message"])


def _of_stage(job: RLHFJob, stage: Stage, traits: Mapping[str, ModelTraits]) -> Iterator[Finding]:
    for loc, reference in located_references(stage.spec):
        source = origin(job, reference) if isinstance(reference, ModelRef | Scorer) else None
        if source is None or source.input not in traits:
            continue
        used = _Used(reference, source.input, traits[source.input])
        for finding in _of_model(stage, used):
            yield finding.below(loc)
        if loc in (("model",), ("policy",)):
            yield from _of_training(stage.spec, used)
            yield from _packing(stage.spec, used)
        if loc in (("policy",), ("critics", "model")) and isinstance(stage.spec, Ppo):
            yield from _layers(stage.spec.critics.trainable_layers, used, ("critics", "trainableLayers"))
        yield from _lengths(stage.spec, used)


def _of_model(stage: Stage, used: _Used) -> Iterator[Finding]:
    """What a reference to a model cannot be."""
    traits, scorer = used.traits, isinstance(used.reference, Scorer)
    if used.direct and traits.quantised is not None:
        message = f"{used.name} has quantised weights ({traits.quantised}); expected plain float32, bfloat16 or float16"
        yield Finding((), message, "give the base that was quantised, or dequantise it and save it again")
    if traits.composite or (not scorer and not traits.writes and not traits.scores):
        message = f"{used.name} is a {traits.model_type} model ({traits.architecture or 'no architecture'}), "
        message += "of several parts or of none that writes text; expected a causal language model of text alone"
        yield Finding((), message, "give the text model of that family, or save the text part as a model of its own")
    elif scorer and used.direct:
        yield from _of_scorer(used)
    elif used.direct and not isinstance(used.reference, TrunkRef) and _other(traits.architecture):
        yield Finding((), f"found {traits.architecture} ({used.name}); expected a language model (...ForCausalLM)")
    elif isinstance(stage.spec, Preference | Moderation) and not traits.scores:
        yield Finding((), *_no_classifier(used))
    elif _samples(stage, used.reference) and traits.stateful:
        message = f"{used.name} is a {traits.model_type} model, whose layers are not attention alone (recurrent, "
        message += "linear attention or convolutions); sampling here keeps keys and values only"
        yield Finding((), message, "give a model whose layers are all attention, such as Llama, Mistral or Qwen3")
    elif _weighs(stage, used.reference) and traits.changed_logits:
        message = f"{used.name} is a {traits.model_type} model that changes its logits after the output head (a cap or "
        message += "a scale); expected logits that are the head's product"
        yield Finding((), message, "give a model such as Llama, Mistral or Qwen3")


def _other(architecture: str) -> bool:
    """Whether an architecture is known and is no language model's."""
    return architecture != "" and not architecture.endswith(WRITERS)


def _of_scorer(used: _Used) -> Iterator[Finding]:
    traits = used.traits
    if not traits.architecture.endswith(CLASSIFIER):
        message = f"found {traits.architecture} ({used.name}); expected a reward or cost model (...{CLASSIFIER})"
        yield Finding((), message, "a rewardModel or costModel stage makes one of it")
    elif not traits.scores:
        yield Finding((), *_no_classifier(used))
    elif traits.label_names and isinstance(used.reference, CostScorer):
        yield from _of_labels(used.reference, used)
    elif traits.moderation or (traits.label_names and len(traits.label_names) > 1):
        message = f"{used.name} is a moderation model ({_listed(traits.label_names)}); expected a reward model, of one "
        yield Finding(
            (), message + "label, whose logit is the score", "put it under costs: its labels say what is harmful"
        )
    elif not traits.ensemble and traits.labels is not None and traits.labels > 1:
        message = f"{used.name} is a classifier of {traits.labels} labels; expected one label, whose logit is the score"
        yield Finding((), message, ONE_LABEL + (MANY_LABELS if isinstance(used.reference, CostScorer) else ""))
    elif isinstance(used.reference, CostScorer) and used.reference.labels:
        message = f"found labels for {used.name}, which has none; only moderation models have labels"
        yield Finding(("labels",), message, "leave them out")


def _of_labels(reference: CostScorer, used: _Used) -> Iterator[Finding]:
    names = used.traits.label_names
    for index, label in enumerate(reference.labels):
        if label not in names:
            close = nearest(label, names)
            hint = f"did you mean {close}?" if close is not None else f"there are {_listed(names)}"
            yield Finding(("labels", index), f"{used.name} has no label {label}", hint)


def _listed(names: Sequence[str]) -> str:
    """Names in a message: the first of many."""
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])])


def _no_classifier(used: _Used) -> tuple[str, str]:
    return (
        f"{used.name} is a {used.traits.model_type} model, which has no sequence classifier (...{CLASSIFIER}) with a "
        "linear head in transformers; no reward, cost or moderation model can be made of it",
        "train it from another family; in ppo it must share the policy's tokenizer",
    )


def _samples(stage: Stage, reference: Reference) -> bool:
    """Whether a stage samples from a model, or asks it with what was computed kept."""
    asks = isinstance(stage.spec, Ppo | Evaluate | Simulate) and not isinstance(reference, TrunkRef | Scorer)
    return asks and not _reads_labels(stage, reference)


def _weighs(stage: Stage, reference: Reference) -> bool:
    """Whether a stage computes a model's log-probabilities from its states and head; an evaluation may do without."""
    asks = isinstance(stage.spec, Sft | Ppo | Rules) and not isinstance(reference, TrunkRef | Scorer)
    return asks or _reads_labels(stage, reference)


def _reads_labels(stage: Stage, reference: Reference) -> bool:
    """Whether an evaluation reads a judge's choice from the probabilities of its labels, and samples nothing."""
    judges = stage.spec.judges if isinstance(stage.spec, Evaluate) else []
    return any(judge.model is reference and judge.asks != "guard" for judge in judges)


def _of_training(spec: Any, used: _Used) -> Iterator[Finding]:
    if not isinstance(spec, Optimizer):
        return
    yield from _layers(spec.trainable_layers, used, ("trainableLayers",))
    if spec.lora is not None and not used.traits.linear:
        message = (
            f"found lora; {used.name} is a {used.traits.model_type} model, which has no linear layers for adapters"
        )
        yield Finding(("lora",), message, "leave it out to train the weights")
    elif spec.lora is not None and used.traits.modules:
        for index, target in enumerate(spec.lora.targets):
            if target not in used.traits.modules:
                modules = ", ".join(sorted(used.traits.modules))
                yield Finding(("lora", "targets", index), f"found {target}; {used.name} has {modules}")


def _packing(spec: Any, used: _Used) -> Iterator[Finding]:
    if isinstance(spec, Sft) and spec.packing and not used.traits.packs:
        message = f"found true; in a {used.traits.model_type} model ({used.name}) packed conversations see each other"
        yield Finding(("packing",), message, "leave it out: rows are put into batches of like length")


def _layers(trained: int | None, used: _Used, at: tuple[str, ...]) -> Iterator[Finding]:
    layers = used.traits.layers
    if trained is not None and layers is not None and trained >= layers:
        message = f"found {trained} of {used.name}, a model of {layers} layers; expected fewer"
        yield Finding(at, message, "leave it out to train all of them")
    elif trained is not None and not used.traits.cuts:
        message = (
            f"found {trained}; {used.name} is a {used.traits.model_type} model, which cannot be cut below its layers"
        )
        yield Finding(at, message, "leave it out, or use lora")


def _lengths(spec: Any, used: _Used) -> Iterator[Finding]:
    """Rows that a spec allows beyond what a model can take."""
    traits = used.traits
    if traits.positions is None:
        return
    for at, length in _rows(spec):
        prompt = 1 if at[-1] == "maxNewTokens" else 0
        if length > traits.positions:
            message = f"found {length - prompt}; {used.name} has {traits.positions} positions, and no row may be longer"
            yield Finding(at, message, f"expected at most {traits.positions - prompt}")
        elif traits.stable is not None and length > traits.stable:
            message = f"found {length - prompt}; beyond {traits.stable} tokens the positions of {used.name} depend on the longest "
            message += "row of a batch (dynamic or longrope), so that rows would change one another's results"
            yield Finding(
                at, message, f"expected at most {traits.stable - prompt}, or a model with a fixed rope_scaling"
            )


def _rows(spec: Any) -> Iterator[tuple[tuple[str, ...], int]]:
    """Fields that say how long a row may be, and the least that the longest may have: of a prompt, one token."""
    if isinstance(spec, Sft | Preference | Moderation):
        yield ("maxLength",), spec.max_length
    if isinstance(spec, Ppo):
        yield ("rollout", "maxNewTokens"), spec.rollout.max_new_tokens + 1
        if spec.ptx is not None:
            yield ("ptx", "maxLength"), spec.ptx.max_length
    if isinstance(spec, Evaluate | Simulate):
        yield ("generation", "maxNewTokens"), spec.generation.max_new_tokens + 1
