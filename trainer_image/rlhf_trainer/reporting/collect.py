"""Reads what a job's folders say: products and their manifests, curves, timings, evaluations, failures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from rlhf_api.job import RLHFJob
from rlhf_api.plan import PlannedStage, plan
from rlhf_api.product import Manifest
from rlhf_api.stage_file import Outcome, StageFile
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import MANIFEST
from rlhf_trainer.exits import InputError
from rlhf_trainer.simulation.audits import agreement, read_answers
from rlhf_trainer.timings import summarise

Json = dict[str, Any]
PROVENANCE = "provenance.json"
EVALUATION = "evaluation.json"
SAMPLES = "samples.jsonl"
SIMULATION = "simulation.json"
AUDIT = "audit-key.jsonl"
FIT = "fit.json"


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
    """As `rlhf_trainer.timings.summarise` gives them."""
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
        ValidationError: `file.spec` is not a job.
        InputError: a filled-in audit sample is not its stage's.
    """
    job = RLHFJob.model_validate_json(orjson.dumps(file.spec))
    work = Path(file.directories.work).parent
    problems: list[str] = []
    stages = [
        _stage(planned, file, work / planned.name, problems)
        for planned in plan(job).stages
        if planned.type not in (PREPARE, REPORT)
    ]
    resolved = _json(work / PREPARE / "resolved.json", problems) or {}
    return Collected(
        job=job,
        uid=file.uid,
        stages=stages,
        provenance=_json(work / PREPARE / PROVENANCE, problems) or {},
        digests={name: str(entry["digest"]) for name, entry in resolved.get("inputs", {}).items()},
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


def _stage(planned: PlannedStage, file: StageFile, work: Path, problems: list[str]) -> StageFolder:
    found = StageFolder(planned, outcome=file.outcomes.get(planned.name))
    given = file.inputs.get(f"stage:{planned.name}")
    found.product = Path(given.path) if given is not None else _own_product(file, work, problems)
    if found.product is not None:
        found.manifest = _manifest(found.product, problems)
    if found.manifest is not None and found.product is not None:
        found.reused = not (work / "stage.json").exists()
        found.model = _model(found.product, problems)
        found.evaluation = _json(found.product / EVALUATION, problems)
        found.simulation = _json(found.product / SIMULATION, problems)
        found.audit = _lines(found.product / AUDIT, problems)
        found.fit = _json(found.product / FIT, problems)
        found.samples = _samples(found.product, found.evaluation, problems)
    folders = [folder for folder in (found.product, work) if folder is not None]
    for folder in folders:
        found.rows = found.rows or _lines(folder / "metrics.jsonl", problems)
        found.timings = found.timings or _json(folder / "timings.json", problems)
    found.timings = found.timings or summarise(work / "timings.jsonl")
    return found


def _own_product(file: StageFile, work: Path, problems: list[str]) -> Path | None:
    """The product of a stage that failed after it was published (a gate), found by its stage file."""
    written = _json(work / "stage.json", problems)
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


def _samples(product: Path, evaluation: Json | None, problems: list[str]) -> list[Json]:
    if evaluation is None:
        return []
    shown = set(evaluation.get("shown", []))
    rows = _lines(product / SAMPLES, problems)
    return [row for row in rows if row.get("prompt") in shown and row.get("sample") == 0]


def _model(product: Path, problems: list[str]) -> Json | None:
    """Facts of a Hugging Face folder, its parameters counted from the headers of its safetensors."""
    first = product / "members" / "0"
    config = _json((first if first.is_dir() else product) / "config.json", problems)
    if config is None:
        return None
    architectures = config.get("architectures") or [None]
    return {
        "architecture": architectures[0],
        "layers": config.get("num_hidden_layers"),
        "hidden": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "parameters": sum(_parameters(path) for path in _weights(product)) or None,
    }


def _weights(product: Path) -> list[Path]:
    """The model's own files, or those of an ensemble's members; not critics, which lie in a folder of their own."""
    return sorted(product.glob("*.safetensors")) or sorted(product.glob("members/*/*.safetensors"))


def _parameters(path: Path) -> int:
    """Elements of all tensors of a safetensors file: 8 bytes of length, then the header as JSON."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for extent in entry["shape"]:
                count *= extent
            total += count
    return total


def _json(path: Path, problems: list[str]) -> Json | None:
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        problems.append(f"{path.parent.name}/{path.name} is not JSON: {error}")
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path, problems: list[str]) -> list[Json]:
    """Lines of a JSONL file; a torn last line (a kill while writing) is left out, a broken one named."""
    if not path.is_file():
        return []
    rows = []
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            row = orjson.loads(raw)
        except orjson.JSONDecodeError:
            if raw.endswith(b"\n"):
                problems.append(f"{path.parent.name}/{path.name}:{number} is not JSON: left out")
            continue
        if isinstance(row, Mapping):
            rows.append(dict(row))
    return rows
