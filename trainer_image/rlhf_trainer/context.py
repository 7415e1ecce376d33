"""`StageContext`: everything a stage's code is given, and all it may know of where it runs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from rlhf_api.contract import IMAGE
from rlhf_api.fields import Reference
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile, StageInput
from rlhf_api.stages import PREPARE, STAGE_TYPES
from rlhf_trainer import distributed
from rlhf_trainer.cards.card import README, Source, product_source, write_card
from rlhf_trainer.exits import InputError, validation_message
from rlhf_trainer.stopping import StopRequest
from rlhf_trainer.storage import products
from rlhf_trainer.storage.checkpoints import Checkpoints
from rlhf_trainer.telemetry.metrics import Metrics
from rlhf_trainer.telemetry.progress import Progress
from rlhf_trainer.telemetry.timings import summarise

if TYPE_CHECKING:
    import torch  # not where a stage computes nothing with it

Spec = TypeVar("Spec", bound=BaseModel)

LIBRARIES = ("torch", "transformers", "deepspeed", "peft", "safetensors", "datasets", "numpy", "lm_eval")
"""Whose versions a product records."""
MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Most tokens of a forward where the execution says nothing: small ones pad less, and a CPU gains nothing from large."""


@dataclass
class Facts:
    """What a stage says of the product it built."""

    counts: dict[str, int] = field(default_factory=dict)
    """Rows, tokens, what was cut, rejected or dropped."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Final metrics: numbers, or an estimate {value, low, high, n}."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know, in sentences."""
    failure: str | None = None
    """Why the stage fails although its product is whole: a gate that was not kept."""


@dataclass
class LightContext:
    """What `run(context)` of a stage of one process without a device is given: `prepare`, `report`."""

    file: StageFile
    rank: int
    world: int
    work: Path
    metrics: Metrics
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    """Set by SIGTERM and SIGINT on this rank; ask `stop_requested()`, which all ranks answer alike."""
    result: dict[str, Any] = field(default_factory=dict)
    """Goes into the termination summary (2 KiB in all); `prepare` puts what it resolved here."""
    _effective: dict[str, Any] | None = field(default=None, init=False, repr=False)
    """The spec with its defaults, for the manifest: stage.json may leave them out."""

    @property
    def storage(self) -> Path:
        """Root of the storage."""
        return Path(self.file.directories.storage)

    @property
    def seed(self) -> int:
        """The stage's effective seed."""
        return self.file.seed

    def spec(self, cls: type[Spec]) -> Spec:
        """The effective spec as `cls`.

        Raises:
            InputError: it is not one; the message names every wrong field.
        """
        try:
            spec = cls.model_validate_json(orjson.dumps(self.file.spec))
        except ValidationError as error:
            raise InputError(
                f"stage.json: spec of {self.file.stage} ({self.file.type}): {validation_message(error)}",
                reason="InvalidSpec",
            ) from error
        self._effective = spec.model_dump(mode="json")
        return spec

    def input(self, reference: Reference) -> StageInput:
        """Where what a reference points at lies.

        Raises:
            InputError: stage.json does not have it, or nothing is there.
        """
        stage_input = self.file.inputs.get(reference.key)
        if stage_input is None:
            keys = ", ".join(sorted(self.file.inputs)) or "none"
            raise InputError(
                f"stage.json: inputs: no entry {reference.key!r}; found {keys}. The executor must give every "
                "reference of the spec a path.",
                reason="MissingInput",
            )
        if not Path(stage_input.path).exists():
            raise InputError(
                f"{reference.key}: nothing lies at {stage_input.path}. Run the job again: prepare fetches inputs, and stages "
                "whose product is gone are computed again.",
                reason="MissingInput",
            )
        return stage_input

    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop. A collective: every rank calls it, once a step."""
        return distributed.any_rank(self.stop.is_set())[0]

    def publish(self, build: Callable[[Path], Facts]) -> Path:
        """Build the product in a temporary folder on rank 0, then put it in place whole. A collective.

        Whatever needs every rank (gathering weights) must be done before; `build` runs on rank 0 alone. What was
        measured (metrics.jsonl, timings.json) goes in beside what it built.

        Raises:
            StorageFull: no space.
            Fenced: a later attempt of this stage has started.
        """
        self.progress.say("publishing")
        path = products.product_path(self.storage, self.file)
        if self.rank == 0:
            self.metrics.flush(sync=True)
            products.publish(self.storage, self.file, lambda folder: self._built(folder, build))
        distributed.barrier()
        return path

    def _built(self, folder: Path, build: Callable[[Path], Facts]) -> Manifest:
        facts = build(folder)
        if self.metrics.path.exists():
            shutil.copyfile(self.metrics.path, folder / "metrics.jsonl")
        timings = summarise(self.work / "timings.jsonl")
        if timings is not None:
            (folder / "timings.json").write_bytes(orjson.dumps(timings, option=orjson.OPT_SORT_KEYS))
        manifest = self._manifest(facts)
        if STAGE_TYPES[manifest.type].product != "report":
            text = write_card(manifest, self._sources(), members=(folder / "members").is_dir())
            (folder / README).write_text(text, encoding="utf-8")
        return manifest

    def _sources(self) -> dict[str, Source]:
        """Where inputs came from and their licences: as this run's `prepare` recorded them, and as products' cards say."""
        stages = {key: entry for key, entry in self.file.inputs.items() if key.startswith("stage:")}
        sources = {key: product_source(Path(entry.path)) for key, entry in stages.items()}
        path = self.work.parent / PREPARE / "provenance.json"
        if path.is_file():
            recorded = orjson.loads(path.read_bytes())
            sources |= {
                f"input:{name}": Source(entry["source"], entry.get("licence")) for name, entry in recorded.items()
            }
        return sources

    def _manifest(self, facts: Facts) -> Manifest:
        file = self.file
        return Manifest(
            type=file.type,
            digest=file.digest,
            recipe=STAGE_TYPES[file.type].recipe,
            job=file.job,
            stage=file.stage,
            spec=file.spec if self._effective is None else self._effective,
            seed=file.seed,
            inputs={key: entry.digest for key, entry in file.inputs.items()},
            files={},
            versions=versions(),
            image=os.environ.get(IMAGE) or None,
            world=self.world,
            counts=facts.counts,
            metrics=facts.metrics,
            failure=facts.failure,
            notes=facts.notes,
        )


@dataclass(kw_only=True)
class StageContext(LightContext):
    """What a trained stage's `run(context)` is given."""

    local_rank: int
    device: torch.device
    checkpoints: Checkpoints

    @property
    def micro_batch_tokens(self) -> int:
        """Most tokens (padding included) of one forward."""
        return self.file.execution.micro_batch_tokens or MICRO_BATCH_TOKENS[self.device.type]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute, where installed."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
