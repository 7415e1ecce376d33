"""`rlhf run`: the job, on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import Inputs, JobFile, Output, Storage
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, complain, emit, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlhf_api.job import RLHFJob
    from rlhf_sdk.local.layout import Layout
    from rlhf_sdk.local.locks import FileLock
    from rlhf_sdk.local.runner import Result
    from rlhf_sdk.local.scheduler import Budget
    from rlhf_sdk.local.view import View
    from rlhf_sdk.profile import Spent


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", epilog=EPILOG)(run)


EPILOG = """\b
Examples:
  rlhf run examples/safe-rlhf.yaml
  rlhf run job.yaml --input chat=/data/chat.jsonl --cores 4
  rlhf run job.yaml --profile
  rlhf run job.yaml --output json | jq .stages.evaluate.product

Running again resumes: stages go on from their checkpoints, finished products are verified and reused.

JSON (when it has ended): {"job", "uid", "storage", "phase", "exitCode", "seconds", "report", "stages": {NAME: {"phase",
"attempt", "restarts", "exitCode", "reason", "message", "seconds", "product"}}}; with --profile also "profile": {NAME:
{"seconds", "steps", "peakBytes", "phases": {PHASE: {"seconds", "tokensPerSecond"}}}}.

Exit codes: 0 done; 1 failed; 2 job file, input or argument wrong; 3 a guard tripped or a gate failed; 75 stopped by
SIGTERM or SIGHUP with checkpoints; 130 stopped by Ctrl-C, once with checkpoints, twice at once."""


def run(
    job_file: JobFile,
    storage: Storage = None,
    inputs: Inputs = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores to use; by default all there are.", show_default=False)
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget checkpoints and make anew the products that only this run uses.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of live progress bars.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show at the end where the time went.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Run a job on this machine: prepare, then ready stages side by side, the report last."""
    execute(job_file, storage, inputs or [], cores, fresh=fresh, plain=plain, profile=profile, output=output)


def execute(
    job_file: Path,
    storage: Path | None,
    inputs: Sequence[str],
    cores: int | None,
    *,
    fresh: bool,
    plain: bool,
    output: Format,
    profile: bool = False,
    command: Sequence[str] | None = None,
    wait: Callable[[int], float] | None = None,
) -> None:
    """As `run`, with the program that computes a stage, and the time before a restart, given: tests do.

    Raises:
        typer.Exit: with the run's exit code.
    """
    from rlhf_sdk import jobs
    from rlhf_sdk.local.layout import ignore_in_git
    from rlhf_sdk.local.locks import FileLock
    from rlhf_sdk.local.process import TRAINER, cores_here
    from rlhf_sdk.local.run import Options
    from rlhf_sdk.local.runner import Runner
    from rlhf_sdk.local.scheduler import backoff

    job = jobs.read_to_run(job_file, inputs)
    if job.spec.suspend:
        raise CommandError(f"{job_file}: spec.suspend is true; set it to false to run the job", Exit.INVALID)
    layout = jobs.layout_of(job, job_file, storage)
    ignore_in_git(layout.storage)
    for note in jobs.absent_devices(job):
        complain(note)
    lock = FileLock(layout.lock)
    _take(lock, job.metadata.name)
    try:
        if fresh:
            from rlhf_sdk.local.gc import forget

            for line in forget(layout, job.spec.model_dump(mode="json", exclude_none=True)):
                complain(line)
        options = Options(_budget(job, job_file, cores or cores_here()), command or TRAINER, wait=wait or backoff)
        try:
            runner = Runner(job, job_file, layout, options, _view(plain, output), lock)
        except ValueError as error:
            raise CommandError(str(error)) from error
        result = runner.run()
    finally:
        lock.release()
    _tell(result, layout, job_file, output, profile=profile)
    raise typer.Exit(int(result.code))


def _budget(job: RLHFJob, job_file: Path, cores: int) -> Budget:
    """What the stages may take; says which of them cannot fit."""
    from rlhf_api.gpus import has_gpu
    from rlhf_sdk.local.scheduler import Budget
    from rlhf_sdk.memory import machine_memory, needs, too_large

    if has_gpu():
        return Budget(cores, gpu=True)  # the estimates are of host memory
    machine = machine_memory()
    estimates = needs(job, job_file.resolve().parent)
    for need in estimates.stages:
        words = too_large(need, machine)
        if words is not None:
            complain(words)
    return Budget(cores, machine, {need.stage: need.total for need in estimates.stages})


def _take(lock: FileLock, name: str) -> None:
    """The run's lock; waits for stages of a run that was killed, refuses beside one that lives.

    Raises:
        CommandError: someone runs this job now.
    """
    from rlhf_sdk.local.locks import Busy

    try:
        lock.acquire()
    except Busy as busy:
        if busy.pid is not None:
            raise CommandError(
                f"{name}: process {busy.pid} is running this job; `rlhf status` shows how far it is. "
                "To run another beside it, give it another metadata.name or another --storage.",
                Exit.FAILED,
            ) from busy
        complain(f"{name}: stages of an earlier run are still saving their checkpoints; waiting for them")
        lock.acquire(wait=True)


def _view(plain: bool, output: Format) -> View:
    if plain or output is Format.JSON or not sys.stdout.isatty():
        from rlhf_sdk.local.view import PlainView

        return PlainView(sys.stdout if output is Format.TEXT else sys.stderr)
    from rlhf_sdk.local.live import LiveView

    return LiveView()


def _tell(result: Result, layout: Layout, job_file: Path, output: Format, *, profile: bool) -> None:
    if output is Format.JSON:
        emit(as_json(result, layout) | (_profile_json(result, layout) if profile else {}))
        return
    if profile:
        _show_profile(result, layout)
    state = result.state
    report = report_file(result, layout)
    if result.code is Exit.DONE:
        show(f"{state.job}: done")
    elif result.code in (Exit.STOPPED, Exit.INTERRUPTED):
        show(f"{state.job}: stopped; `rlhf run {job_file}` goes on from the checkpoints")
    else:
        failed = [name for name, stage in state.stages.items() if stage.state == "Failed"]
        what = ", ".join(failed) or state.reason
        show(f"{state.job}: failed ({what}); what is finished stays and will be reused")
    for name, folder in models(result, layout).items():
        show(f"{name}: {folder}")
    if report is not None:
        show(f"report: {report}")


def _spent(result: Result, layout: Layout) -> list[Spent]:
    from rlhf_sdk.profile import read

    products = [(name, result.product(name)) for name in result.state.stages]
    spent = [read(name, layout.product(product)) for name, product in products if product is not None]
    return [entry for entry in spent if entry is not None]


def _profile_json(result: Result, layout: Layout) -> dict[str, Any]:
    from rlhf_sdk.profile import as_json as of_stage

    return {"profile": {entry.stage: of_stage(entry) for entry in _spent(result, layout)}}


def _show_profile(result: Result, layout: Layout) -> None:
    from rlhf_sdk.output import columns
    from rlhf_sdk.text import duration, size

    table = columns("STAGE", "PHASE", "TIME", "SHARE", "TOKENS/S", "PEAK MEMORY")
    for entry in _spent(result, layout):
        peak = "" if entry.peak is None else size(entry.peak)
        table.add_row(entry.stage, f"{entry.steps} steps", duration(entry.seconds), "", "", peak)
        for phase, seconds in entry.phases.items():
            rate = entry.rate(phase)
            share = f"{100 * seconds / entry.seconds:.0f} %" if entry.seconds > 0 else ""
            table.add_row("", phase, duration(seconds), share, "" if rate is None else f"{rate:.0f}")
    show(table)


def models(result: Result, layout: Layout) -> dict[str, Path]:
    """Folders of the models that were made, by stage."""
    from rlhf_sdk.plain_export import is_model

    folders = {}
    for name, stage in result.state.stages.items():
        if stage.complete and stage.product is not None and is_model(stage.product):
            folders[name] = layout.product(stage.product)
    return folders


def report_file(result: Result, layout: Layout) -> Path | None:
    """The report's HTML file, if it was made."""
    from rlhf_sdk.reports import html_of

    product = result.product(result.plan.stages[-1].name)
    return None if product is None else html_of(layout.product(product))


def as_json(result: Result, layout: Layout) -> dict[str, Any]:
    """What `--output json` prints."""
    state = result.state
    report = report_file(result, layout)
    names = ("attempt", "restarts", "exitCode", "reason", "message", "seconds", "product")
    return {
        "job": state.job,
        "uid": state.uid,
        "storage": str(layout.storage),
        "phase": state.phase,
        "exitCode": int(result.code),
        "seconds": round(sum(stage.seconds for stage in state.stages.values()), 3),
        "report": None if report is None else str(report),
        "stages": {
            name: {"phase": stage.state, **{key: stage.model_dump(mode="json")[key] for key in names}}
            for name, stage in state.stages.items()
        },
    }
