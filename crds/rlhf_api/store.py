"""The storage as executors and the trainer share it: verified products, the runs index, what prepare resolved.

    <storage>/products/<type>-<digest>/manifest.json    a product
    <storage>/runs/<namespace>/<job>/<uid>.json         which products a run uses
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
from pydantic import TypeAdapter, ValidationError

from rlhf_api.digest import digest_file
from rlhf_api.fields import ApiModel
from rlhf_api.plan import Resolved
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile

MANIFEST = "manifest.json"


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
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
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
    there = {path.relative_to(product.path).as_posix() for path in product.path.rglob("*") if not path.is_dir()}
    there.discard(MANIFEST)
    named = set(product.manifest.files)
    for file in sorted(named - there):
        raise DamagedProduct(f"{name}: {file} is missing")
    for file in sorted(there - named):
        raise DamagedProduct(f"{name}: {file} is not in its manifest")
    for file, expected in sorted(product.manifest.files.items()):
        found = digest_file(product.path / file)
        if found != expected:
            raise DamagedProduct(f"{name}: {file} was changed (SHA-256 {found[:12]}, manifest says {expected[:12]})")
    return product


class Run(ApiModel):
    """Which inputs and products a run uses: what is named here is never collected as garbage."""

    version: str = "1"
    """Of this format."""
    job: str
    """Name of the job."""
    namespace: str = "default"
    """Its namespace."""
    uid: str
    """Its UID."""
    job_file: str | None = None
    """Where the job file lies (local runner)."""
    inputs: dict[str, str] = {}
    """Digest of each input's content, by name."""
    products: dict[str, str] = {}
    """`<type>-<digest>` by stage: made, or about to be."""
    spec: dict[str, Any] = {}
    """The job's spec."""


def run_path(storage: Path, namespace: str, job: str, uid: str) -> Path:
    """Where the run's index lies."""
    return storage / "runs" / namespace / job / f"{uid}.json"


def write_run(storage: Path, run: Run) -> Path:
    """Write the run's index, replacing an earlier one of the same UID."""
    path = run_path(storage, run.namespace, run.job, run.uid)
    write_atomically(path, run.model_dump_json(indent=1).encode())
    return path


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
        write_run(Path(file.directories.storage), run.model_copy(update={"products": products}))


def read_runs(storage: Path) -> Iterator[Run]:
    """Every run's index.

    Raises:
        ValueError: one cannot be read; collecting garbage without it would remove what it names.
    """
    for path in sorted((storage / "runs").glob("*/*/*.json")):
        try:
            yield Run.model_validate_json(path.read_bytes())
        except ValidationError as error:
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
