"""The storage as executors and the trainer share it: verified products, the runs index, what prepare resolved.

    <storage>/products/<type>-<digest>/manifest.json    a product
    <storage>/runs/<namespace>/<job>/<uid>.json         which products a job's latest run uses
    <storage>/runs/<namespace>/<job>/<uid>.<n>.json     the same of its run n, before the job was edited
    <storage>/work/<uid>/prepare/resolved.json          what prepare found
    <storage>/locks/gc                                  an flock: shared while someone looks up what a run will use

Reading and verifying only, and small JSON files written atomically; who makes products, and their lock, is the
trainer's matter.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from rlhf_api.base import ApiModel
from rlhf_api.bounded import read_bytes
from rlhf_api.digest import digest_file
from rlhf_api.plan import Resolved
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile
from rlhf_api.stages import REPORT

MANIFEST = "manifest.json"
MAX_MANIFEST = 64 << 20
"""Bytes of a product's manifest."""


def gc_lock(storage: Path) -> Path:
    """Held shared from a look for what a run will use until the run's index names it; alone by garbage collection."""
    return storage / "locks" / "gc"


class DamagedProduct(Exception):
    """A product whose files are not what its manifest says. The message names product, file and what differs."""


@dataclass(frozen=True)
class Product:
    """A product in place."""

    path: Path
    manifest: Manifest


def read_product(storage: Path, name: str) -> Product | None:
    """The product `<type>-<digest>`, its files not verified; None: there is none.

    Raises:
        DamagedProduct: its manifest is missing, unreadable, or another product's.
    """
    folder = storage / "products" / name
    if not folder.is_dir():
        return None
    try:
        manifest = Manifest.model_validate_json(read_bytes(folder / MANIFEST, MAX_MANIFEST))
    except ValueError as error:  # it is no file, or no manifest
        first = str(error).splitlines()[0]
        raise DamagedProduct(f"{name}: {MANIFEST} cannot be read ({first})") from error
    if f"{manifest.type}-{manifest.digest}" != name:
        raise DamagedProduct(f"{name}: {MANIFEST} is of {manifest.type}-{manifest.digest}")
    return Product(folder, manifest)


def find_verified(storage: Path, name: str) -> Product | None:
    """The product `<type>-<digest>` with the digest of every file verified; None: there is none.

    Reads every byte of it.

    Raises:
        DamagedProduct: a file is missing, changed or not in the manifest.
    """
    product = read_product(storage, name)
    if product is None:
        return None
    present = {path.relative_to(product.path).as_posix() for path in product.path.rglob("*") if not path.is_dir()}
    present.discard(MANIFEST)
    named = set(product.manifest.files)
    for file in sorted(named - present):
        raise DamagedProduct(f"{name}: {file} is missing")
    for file in sorted(present - named):
        raise DamagedProduct(f"{name}: {file} is not in its manifest")
    for file, expected in sorted(product.manifest.files.items()):
        if not (product.path / file).is_file():
            raise DamagedProduct(f"{name}: {file} is no file")
        digest = digest_file(product.path / file)
        if digest != expected:
            raise DamagedProduct(f"{name}: {file} was changed (SHA-256 {digest[:12]}, manifest says {expected[:12]})")
    return product


class Run(ApiModel):
    """Which inputs and products a run uses: what is named here is never collected as garbage.

    A job that was edited so that it makes other products is another run of it; the earlier ones keep their indexes.
    """

    version: str = "1"
    """Of this format."""
    job: str
    """Name of the job."""
    namespace: str = "default"
    """Its namespace."""
    uid: str
    """Its UID."""
    number: int = 1
    """Counts the runs of this UID: `job@number` is the run's name."""
    started: float = 0.0
    """When its prepare first ran, seconds since 1970; 0: not known."""
    phase: str | None = None
    """How it stood when this was written (local runner)."""
    job_file: str | None = None
    """Where the job file lies (local runner)."""
    inputs: dict[str, str] = {}
    """Digest of each input's content, by name."""
    products: dict[str, str] = {}
    """`<type>-<digest>` by stage: made, or about to be."""
    spec: dict[str, Any] = {}
    """The job's spec."""

    def same_as(self, run: Run) -> bool:
        """Whether it makes the same products. Reports tell of a run: the one of a failed run is another."""
        return _without_report(self.products) == _without_report(run.products)


def _without_report(products: dict[str, str]) -> dict[str, str]:
    return {stage: product for stage, product in products.items() if not product.startswith(f"{REPORT}-")}


def run_path(storage: Path, namespace: str, job: str, uid: str, number: int | None = None) -> Path:
    """Where the index of the latest run of a UID lies; with a number, that of an earlier one."""
    suffix = "" if number is None else f".{number}"
    return storage / "runs" / namespace / job / f"{uid}{suffix}.json"


def write_run(storage: Path, run: Run) -> Run:
    """Write the index of the UID's latest run, numbered; that of a run with other products stays beside it.

    A run that makes the products of an earlier one is that one, gone on with: its number and start stay.
    """
    path = run_path(storage, run.namespace, run.job, run.uid)
    runs = runs_of(storage, run.namespace, run.job, run.uid)
    same = next((earlier for earlier in runs if earlier.same_as(run)), None)
    if same is None:
        number = max((earlier.number for earlier in runs), default=0) + 1
        run = run.model_copy(update={"number": number})
    else:
        run = run.model_copy(update={"number": same.number, "started": same.started or run.started})
    if runs and runs[0].number != run.number:
        _write_index(run_path(storage, run.namespace, run.job, run.uid, runs[0].number), runs[0])
    _write_index(path, run)
    run_path(storage, run.namespace, run.job, run.uid, run.number).unlink(missing_ok=True)
    return run


def _write_index(path: Path, run: Run) -> None:
    write_atomically(path, run.model_dump_json(indent=1).encode())


def runs_of(storage: Path, namespace: str, job: str, uid: str) -> list[Run]:
    """The runs of a UID, the latest first, then the earlier ones from the last to the first.

    Raises:
        ValueError: an index cannot be read.
    """
    latest = run_path(storage, namespace, job, uid)
    earlier = [_read_index(path) for path in latest.parent.glob(f"{uid}.*.json")]
    earlier.sort(key=lambda run: run.number, reverse=True)
    if not latest.exists():
        return earlier
    first = _read_index(latest)
    return [first, *(run for run in earlier if run.number != first.number)]


def forget_run(storage: Path, run: Run) -> None:
    """Remove a run's index; the run before it becomes the UID's latest, where it was that."""
    latest = run_path(storage, run.namespace, run.job, run.uid)
    first, *earlier = runs_of(storage, run.namespace, run.job, run.uid)
    if first.number == run.number:
        if not earlier:
            latest.unlink()
            return
        _write_index(latest, earlier[0])
        run = earlier[0]
    run_path(storage, run.namespace, run.job, run.uid, run.number).unlink(missing_ok=True)


def name_product(file: StageFile, product: str) -> None:
    """Name the stage's product in its run's index, where another is named: the report of a run that failed is another.

    A run that has no index (any more) has none of its products kept.
    """
    path = run_path(Path(file.directories.storage), file.namespace, file.job, file.uid)
    try:
        run = Run.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return
    if run.products.get(file.stage) != product:
        products = {**run.products, file.stage: product}
        _write_index(path, run.model_copy(update={"products": products}))


def read_runs(storage: Path) -> Iterator[Run]:
    """Every run's index, also those of earlier runs of edited jobs.

    Raises:
        ValueError: one cannot be read; collecting garbage without it would remove what it names.
    """
    for path in sorted((storage / "runs").glob("*/*/*.json")):
        yield _read_index(path)


def _read_index(path: Path) -> Run:
    try:
        return Run.model_validate_json(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: not a run's index: {str(error).splitlines()[0]}") from error


def write_resolved(path: Path, resolved: Resolved) -> None:
    """Write prepare's `resolved.json`."""
    write_atomically(path, orjson.dumps({"version": "1", **_RESOLVED.dump_python(resolved, mode="json")}))


def read_resolved(path: Path) -> Resolved:
    """Read prepare's `resolved.json`: {version, inputs: {name: {digest, path}}, functions: {name: digest}, hits: [stage]}.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is of another version, or not that.
    """
    raw = orjson.loads(path.read_bytes())
    if not isinstance(raw, dict) or raw.pop("version", None) != "1":
        raise ValueError(f'{path}: not what prepare of this version writes (expected "version": "1")')
    return _RESOLVED.validate_python(raw)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all: beside it, synced, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def free_work(work: Path) -> None:
    """Remove what only a stage that goes on needs: checkpoints, and states of frozen layers (`*.bin`); the rest stays."""
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    for remembered in work.glob("*.bin"):
        remembered.unlink(missing_ok=True)


_RESOLVED: TypeAdapter[Resolved] = TypeAdapter(Resolved)
