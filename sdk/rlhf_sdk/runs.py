"""Runs of jobs as the storage's index has them, found by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.bounded import exists
from rlhf_api.store import DamagedProduct, Run, find_verified, read_runs, run_path, runs_of
from rlhf_sdk import jobs
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.local.layout import STORAGE, Layout
from rlhf_sdk.local.locks import is_held
from rlhf_sdk.local.state import current_word
from rlhf_sdk.paths import is_job_file


@dataclass(frozen=True)
class Entry:
    """A run that an index names."""

    storage: Path
    run: Run
    latest: bool
    """Of its UID."""

    @property
    def index(self) -> Path:
        """Its index file."""
        run = self.run
        return run_path(self.storage, run.namespace, run.job, run.uid, None if self.latest else run.number)

    @property
    def live(self) -> bool:
        """Whether a process runs it now."""
        return self.latest and is_held(Layout(self.storage, self.run.uid).lock)

    @property
    def phase(self) -> str | None:
        """How it stands; None: its executor does not write that into the index, as on a cluster."""
        phase: str | None = current_word(self.run.phase)
        return "Killed" if phase == "Running" and not self.live else phase

    @property
    def missing(self) -> list[str]:
        """Stages whose product is not there."""
        return [
            stage
            for stage, product in self.run.products.items()
            if not Layout(self.storage, self.run.uid).product(product).is_dir()
        ]


def entries(storage: Path) -> list[Entry]:
    """Every run in a storage, by namespace, job and UID, each UID's from the first to the last.

    Raises:
        CommandError: an index cannot be read.
    """
    storage = storage.resolve()
    try:
        uids = {(run.namespace, run.job, run.uid): None for run in read_runs(storage)}
        runs = [runs_of(storage, *uid) for uid in uids]
    except ValueError as error:
        raise CommandError(str(error)) from error
    return [
        Entry(storage, run, run is of_uid[0]) for of_uid in runs for run in sorted(of_uid, key=lambda run: run.number)
    ]


def select(what: str, storage: Path | None) -> list[Entry]:
    """The runs of one UID that a job file, a job's name or a UID points at, from the first to the last.

    Raises:
        CommandError: no run, or several UIDs have the name.
    """
    path = Path(what)
    if is_job_file(what):
        namespace, name = jobs.identity(path)
        layout = jobs.layout_at(namespace or "default", name, path, storage)
        where, keys = layout.storage, (layout.uid,)
    else:
        where, keys = (storage or Path(STORAGE)).resolve(), (what,)
    matching = [entry for entry in entries(where) if entry.run.uid in keys or entry.run.job in keys]
    uids = sorted({entry.run.uid for entry in matching})
    if len(uids) > 1:
        raise CommandError(
            f"{what}: several jobs in {where} have this name; say which by UID: {', '.join(uids)}", Exit.INVALID
        )
    if not matching:
        run = jobs.locate(what, storage)  # says so where it was never run at all
        raise CommandError(
            f"{what}: its prepare has never ended, so there is nothing to show ({run.layout.root})", Exit.INVALID
        )
    return matching


def find(what: str, storage: Path | None) -> Entry:
    """The run that a name such as `beaver@1` or `job.yaml@2` means; without a number, the latest.

    Raises:
        CommandError: no such run.
    """
    base, number = split(what)
    numbered = {entry.run.number: entry for entry in select(base, storage)}
    if number is None:
        return next(entry for entry in numbered.values() if entry.latest)
    if number not in numbered:
        names = ", ".join(f"{base}@{run}" for run in numbered)
        raise CommandError(f"{what}: no such run; found {names}", Exit.INVALID)
    return numbered[number]


def split(what: str) -> tuple[str, int | None]:
    """`job.yaml@2` as `job.yaml` and 2; without a number, or where a file has that name, as it is."""
    base, at, number = what.rpartition("@")
    if not at or not number.isdecimal() or exists(Path(what)):
        return what, None
    return base, int(number)


def verified(entry: Entry, product: str) -> Path:
    """A product's folder, every byte of it verified.

    Raises:
        CommandError: it is not made, or gone, or damaged.
    """
    try:
        verified_product = find_verified(entry.storage, product)
    except DamagedProduct as damage:
        raise CommandError(f"{damage}; run the job again to make it anew") from damage
    if verified_product is None:
        raise CommandError(f"{name_of(entry)}: {product} is not made, or was removed")
    return verified_product.path


def name_of(entry: Entry, every: Sequence[Entry] = ()) -> str:
    """`beaver@2`; by UID where several of `every` have the job's name."""
    uids = {candidate.run.uid for candidate in every if candidate.run.job == entry.run.job}
    return f"{entry.run.uid if len(uids) > 1 else entry.run.job}@{entry.run.number}"
