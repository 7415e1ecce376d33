"""Reads what a job's folders say: products and their manifests, curves, timings, evaluations, failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from rlhf_api.job import RLHFJob
from rlhf_api.load import parse_job
from rlhf_api.plan import PlannedStage, plan
from rlhf_api.product import Manifest, first_model
from rlhf_api.safetensors import count_weights
from rlhf_api.stage_file import Outcome, StageFile
from rlhf_api.stages import PREPARE, SINGLE_PROCESS_STAGES
from rlhf_api.store import MANIFEST, read_resolved
from rlhf_trainer.exits import InputError, validation_message
from rlhf_trainer.reporting.files import Folder, Json, read_json, short_name
from rlhf_trainer.reporting.texts import Quality, Twins
from rlhf_trainer.simulation.audits import agreement, read_answers
from rlhf_trainer.telemetry.timings import summarise

PROVENANCE = "provenance.json"
EVALUATION = "evaluation.json"
SAMPLES = "samples.jsonl"
SIMULATION = "simulation.json"
AUDIT = "audit-key.jsonl"
FIT = "fit.json"


class _Provenance(BaseModel):
    """What prepare noted of an input, as far as the report tells of it."""

    kind: str | None = None
    commit: str | None = None
    licence: str | None = None
    bytes: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    counts: dict[str, int] | None = None
    examples: list[str] | None = None
    quality: list[Quality] | None = None
    twins: list[Twins] | None = None


_PROVENANCE: TypeAdapter[dict[str, _Provenance]] = TypeAdapter(dict[str, _Provenance])


@dataclass
class StageFolder:
    """What is left of one stage."""

    planned: PlannedStage
    outcome: Outcome | None = None
    """Why it has no product, or why it failed although it has one."""
    product: Path | None = None
    manifest: Manifest | None = None
    rows: list[Json] = field(default_factory=list)
    """Lines of metrics.jsonl."""
    timings: Json | None = None
    """As `rlhf_trainer.telemetry.timings.summarise` gives them."""
    reused: bool = False
    """The product was made by an earlier run."""
    evaluation: Json | None = None
    samples: list[Json] = field(default_factory=list)
    """Answers that the evaluation drew to be shown."""
    simulation: Json | None = None
    audit: list[Json] = field(default_factory=list)
    """Rows that a simulation set aside for people, as they were made."""
    fit: Json | None = None
    """What fitting rules found: errors, weights, histograms, the grader."""
    model: Json | None = None
    """Facts of the model it made: architecture, layers, hidden, vocabulary, parameters."""

    @property
    def state(self) -> str:
        """`done`, or the outcome's state; `blocked` where nothing is known of it."""
        if self.outcome is not None:
            return self.outcome.state
        return "done" if self.manifest is not None else "blocked"


@dataclass
class Collected:
    """Everything the report is made of."""

    job: RLHFJob
    uid: str
    stages: list[StageFolder]
    provenance: dict[str, Json]
    """By input; empty where prepare left none."""
    digests: dict[str, str]
    """Of inputs, by name, where resolved."""
    problems: list[str] = field(default_factory=list)
    """Files that could not be read, in words: the report says so."""
    audits: dict[str, list[Json]] = field(default_factory=dict)
    """What people said of a simulation's audit sample, by stage; one entry a file."""


def collect(file: StageFile) -> Collected:
    """Read all there is, whatever of it is missing: a job may have failed anywhere.

    Raises:
        SpecError: `file.spec` is not a job.
        InputError: a filled-in audit sample is not its stage's.
    """
    job = parse_job(file.spec)
    work = Path(file.directories.work).parent
    problems: list[str] = []
    stages = [
        _stage(planned, file, work / planned.name, problems)
        for planned in plan(job).stages
        if planned.type not in SINGLE_PROCESS_STAGES
    ]
    return Collected(
        job=job,
        uid=file.uid,
        stages=stages,
        provenance=_provenance(work / PREPARE / PROVENANCE, problems),
        digests=_digests(work / PREPARE / "resolved.json", problems),
        problems=problems,
        audits=_audits(job, file, stages, problems),
    )


def _audits(job: RLHFJob, file: StageFile, stages: list[StageFolder], problems: list[str]) -> dict[str, list[Json]]:
    """Filled-in audit samples beside the labels of their stages.

    Raises:
        InputError: a file is not the filled-in sample of its stage.
    """
    by_name = {stage.planned.name: stage for stage in stages}
    written = next((stage.report for stage in job.spec.stages if stage.report is not None), None)
    people: dict[str, list[Json]] = {}
    for index, audit in enumerate(written.audits if written is not None else []):
        stage, filled = by_name[audit.stage], file.inputs.get(f"input:{audit.input}")
        if stage.simulation is None or filled is None:
            problems.append(f"report.audits[{index}]: {audit.stage} made no audit sample to compare with")
            continue
        try:
            compared = agreement(read_answers(Path(filled.path)), stage.audit)
        except InputError as error:
            raise InputError(f"report.audits[{index}], input {audit.input} for {audit.stage}: {error}") from error
        people.setdefault(audit.stage, []).append({"input": audit.input, **compared})
    return people


def _provenance(path: Path, problems: list[str]) -> dict[str, Json]:
    written = read_json(path, problems) or {}
    try:
        _PROVENANCE.validate_python(written)
    except ValidationError as error:
        problems.append(f"{short_name(path)} is damaged and left out: {validation_message(error)}")
        return {}
    return written


def _digests(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        return {name: entry.digest for name, entry in read_resolved(path).inputs.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # ValidationError is one
        problems.append(f"{short_name(path)} is damaged and left out: {str(error).splitlines()[0]}")
        return {}


def _stage(planned: PlannedStage, file: StageFile, work: Path, problems: list[str]) -> StageFolder:
    stage = StageFolder(planned, outcome=file.outcomes.get(planned.name))
    reused = file.inputs.get(f"stage:{planned.name}")
    stage.product = Path(reused.path) if reused is not None else _own_product(file, work, problems)
    if stage.product is not None:
        stage.manifest = _manifest(stage.product, problems)
    if stage.manifest is not None and stage.product is not None:
        stage.reused = not (work / "stage.json").exists()
        product = Folder(stage.product, problems, stage.manifest.files)
        stage.model = _model(product)
        stage.evaluation = product.json(EVALUATION)
        stage.simulation = product.json(SIMULATION)
        stage.audit = product.lines(AUDIT)
        stage.fit = product.json(FIT)
        stage.samples = _samples(product, stage.evaluation)
        stage.rows = _metrics(product)
        stage.timings = product.json("timings.json")
    stage.rows = stage.rows or _metrics(Folder(work, problems))
    stage.timings = stage.timings or summarise(work / "timings.jsonl", problems)
    return stage


def _metrics(folder: Folder) -> list[Json]:
    """Rows of metrics.jsonl: a step and numbers."""
    rows = folder.lines("metrics.jsonl")
    usable = [row for row in rows if isinstance(row.get("step"), int) and all(map(_is_number, row.values()))]
    if len(usable) < len(rows):
        folder.problems.append(
            f"{short_name(folder.path / 'metrics.jsonl')}: {len(rows) - len(usable)} lines are no metrics: left out"
        )
    return usable


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _own_product(file: StageFile, work: Path, problems: list[str]) -> Path | None:
    """The product of a stage that failed after it was published (a gate), found by its stage file."""
    written = read_json(work / "stage.json", problems)
    if written is None:
        return None
    product = Path(file.directories.storage) / "products" / f"{written.get('type')}-{written.get('digest')}"
    return product if (product / MANIFEST).is_file() else None


def _manifest(product: Path, problems: list[str]) -> Manifest | None:
    try:
        return Manifest.model_validate_json((product / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        problems.append(f"{product.name}/{MANIFEST} cannot be read: {str(error).splitlines()[0]}")
        return None


def _samples(product: Folder, evaluation: Json | None) -> list[Json]:
    if evaluation is None:
        return []
    shown = set(evaluation.get("shown", []))
    return [row for row in product.lines(SAMPLES) if row.get("prompt") in shown and row.get("sample") == 0]


def _model(product: Folder) -> Json | None:
    """Facts of a Hugging Face folder, its parameters counted from the headers of its safetensors."""
    config = product.json(str(first_model(product.path).relative_to(product.path) / "config.json"))
    if config is None:
        return None
    architectures = config.get("architectures")
    return {
        "architecture": str(architectures[0]) if isinstance(architectures, list) and architectures else None,
        "layers": config.get("num_hidden_layers"),
        "hidden": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "parameters": _parameters(product),
    }


def _parameters(product: Folder) -> int | None:
    """Of the model's own files, or those of an ensemble's members; not critics, which lie in a folder of their own."""
    files = sorted(product.path.glob("*.safetensors")) or sorted(product.path.glob("members/*/*.safetensors"))
    try:
        return sum(count_weights(path) for path in files) or None
    except ValueError as error:
        product.problems.append(f"{product.path.name}: {error}")
        return None
