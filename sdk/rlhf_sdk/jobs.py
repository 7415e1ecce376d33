"""Job files as commands get them: read, checked, with inputs given on the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.bounded import exists
from rlhf_api.errors import Finding, SpecError
from rlhf_api.gpus import has_gpu
from rlhf_api.job import RLHFJob
from rlhf_api.load import located, read_document, read_job
from rlhf_api.quantities import amount
from rlhf_api.sources import parse_source
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.local.layout import STORAGE, Layout, local_uid
from rlhf_sdk.local.locks import is_held
from rlhf_sdk.local.state import RunState, load
from rlhf_sdk.paths import is_job_file, meant

GPU = "nvidia.com/gpu"


def read(path: Path) -> RLHFJob:
    """The job in a file.

    Raises:
        CommandError: it is refused; every problem on a line of its own, as `file:line:column: path: message`.
    """
    try:
        return read_job(path)[0]
    except SpecError as error:
        raise CommandError(str(error), Exit.INVALID) from error


def read_to_run(path: Path, inputs: Sequence[str]) -> RLHFJob:
    """The job in a file, sources of inputs replaced by `NAME=PATH`, all of which could be on this machine.

    Raises:
        CommandError: as `read`; or an input cannot be here, with its place in the file.
    """
    try:
        job, document = read_job(path)
    except SpecError as error:
        raise CommandError(str(error), Exit.INVALID) from error
    job = with_inputs(job, inputs)
    problems = [located(document, finding) for finding in absent_inputs(job, path.resolve().parent)]
    if problems:
        raise CommandError("\n".join(problem.render(str(path)) for problem in problems), Exit.INVALID)
    return job


def absent_inputs(job: RLHFJob, folder: Path) -> list[Finding]:
    """Inputs that cannot be had on this machine, each at its place in the job."""
    findings = []
    for index, why in absent(job, folder).items():
        entry = job.spec.inputs[index]
        source = parse_source(entry.source)
        guess = meant(source.location, folder, Path.cwd()) if source.kind == "path" else None
        hint = f"or give another with --input {entry.name}=PATH"
        findings.append(
            Finding(("spec", "inputs", index, "source"), why, hint if guess is None else f"{guess}; {hint}")
        )
    return findings


def absent(job: RLHFJob, folder: Path) -> dict[int, str]:
    """Inputs that cannot be had on this machine, by position, each with what was found."""
    reasons: dict[int, str] = {}
    for index, entry in enumerate(job.spec.inputs):
        source = parse_source(entry.source)
        if source.kind == "claim":
            reasons[index] = f"found {entry.source}; expected something on this machine, where there is no cluster"
        elif source.kind == "path" and not exists(folder / source.location):
            reasons[index] = f"{folder / source.location} does not exist"
    return reasons


def absent_devices(job: RLHFJob, folder: Path = Path("/dev")) -> list[str]:
    """A sentence where stages ask for NVIDIA GPUs and this machine has none; `folder` is where devices lie."""
    stages = [
        stage.name
        for stage in job.spec.stages
        if stage.resources is not None and float(amount(stage.resources.limits.get(GPU, "0"))) > 0
    ]
    if not stages or has_gpu(folder):
        return []
    return [f"{GPU} is asked for by {', '.join(stages)}, and this machine has none: they run on the CPU"]


def with_inputs(job: RLHFJob, overrides: Sequence[str]) -> RLHFJob:
    """The job with the sources of some inputs replaced.

    Args:
        job: the job.
        overrides: `NAME=PATH` or `NAME=URL` each; a path is taken from the working directory.

    Raises:
        CommandError: no such input, or no such file.
    """
    names = [entry.name for entry in job.spec.inputs]
    sources: dict[str, str] = {}
    for text in overrides:
        name, equals, source = text.partition("=")
        if not equals or not source:
            raise CommandError(f"--input {text}: expected NAME=PATH", Exit.INVALID)
        if name not in names:
            listing = ", ".join(names) or "none"
            raise CommandError(f"--input {text}: the job has no input {name!r}; it has: {listing}", Exit.INVALID)
        if "://" not in source:
            path = Path(source).expanduser().resolve()
            if not exists(path):
                raise CommandError(f"--input {text}: {path} does not exist", Exit.INVALID)
            source = str(path)
        sources[name] = source
    changed = [entry.model_copy(update={"source": sources.get(entry.name, entry.source)}) for entry in job.spec.inputs]
    return job.model_copy(update={"spec": job.spec.model_copy(update={"inputs": changed})})


@dataclass(frozen=True)
class Located:
    """A run, found by what the user typed."""

    layout: Layout
    state: RunState
    file: Path
    """The job file."""

    @property
    def live(self) -> bool:
        """Whether a process runs it now."""
        return is_held(self.layout.lock)

    def seconds(self, stage: str) -> float:
        """Running time of a stage; the state of a running one is only written when something changes."""
        state = self.state.stages[stage]
        if state.running and state.started is not None and self.live:
            return state.seconds + max(0.0, time.time() - max(state.started, self.state.saved))
        return state.seconds


def reload(run: Located) -> Located:
    """The same run as it stands now."""
    return Located(run.layout, _load(run.layout) or run.state, run.file)


def layout_of(job: RLHFJob, file: Path, storage: Path | None) -> Layout:
    """Where the job's run lies."""
    return layout_at(job.metadata.namespace or "default", job.metadata.name, file, storage)


def locate(what: str, storage: Path | None) -> Located:
    """The run that a job file, a job's name or a UID points at.

    Args:
        what: path of a job file; else a name or UID looked up in the storage.
        storage: by default `.rlhf` beside the job file, or in the working directory for names.

    Raises:
        CommandError: there is none, or several.
    """
    path = Path(what)
    if is_job_file(what):
        namespace, name = identity(path)
        layout = layout_at(namespace or "default", name, path, storage)
        state = _load(layout)
        if state is None:
            raise CommandError(f"{what}: never run in {layout.storage} (looked for {layout.root})", Exit.INVALID)
        return Located(layout, state, path.resolve())
    matches = [run for run in runs(storage or Path(STORAGE)) if what in (run.state.job, run.layout.uid)]
    if len(matches) == 1:
        return matches[0]
    where = (storage or Path(STORAGE)).resolve()
    if not matches:
        raise CommandError(
            f"{what}: no such job file, and no run of that name or UID in {where}; "
            "a job on a cluster is meant with -n NAMESPACE, --context or --cluster, or as `kubectl rlhf`",
            Exit.INVALID,
        )
    uids = ", ".join(run.layout.uid for run in matches)
    raise CommandError(f"{what}: several runs in {where} have this name; say which by UID: {uids}", Exit.INVALID)


def runs(storage: Path) -> list[Located]:
    """Every run in a storage, the latest first."""
    located = []
    for path in (storage / "work").glob("*/state.json"):
        layout = Layout(storage.resolve(), path.parent.name)
        state = _load(layout)
        if state is not None:
            located.append(Located(layout, state, Path(state.job_file)))
    return sorted(located, key=lambda run: run.state.started, reverse=True)


def _load(layout: Layout) -> RunState | None:
    try:
        return load(layout.state)
    except ValueError as error:
        raise CommandError(str(error)) from error


def layout_at(namespace: str, name: str, file: Path, storage: Path | None) -> Layout:
    """Where the run of a job lies, of which only the names and the file's place are known."""
    folder = file.resolve().parent
    return Layout((storage or folder / STORAGE).resolve(), local_uid(namespace, name, folder))


def identity(path: Path) -> tuple[str | None, str]:
    """Namespace, if it says one, and name in a job file that may have become invalid since it was run.

    Raises:
        CommandError: it is no job.
    """
    try:
        value = read_document(path).value
    except SpecError as error:
        raise CommandError(str(error), Exit.INVALID) from error
    metadata = value.get("metadata") if isinstance(value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str):
        raise CommandError(f"{path}: no metadata.name; expected an RLHFJob", Exit.INVALID)
    namespace = metadata.get("namespace")
    return None if namespace is None else str(namespace), name
