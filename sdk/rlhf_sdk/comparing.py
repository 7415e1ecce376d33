"""Runs and products side by side: final metrics, and where their specs differ. Pure, once they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.store import DamagedProduct, Product, Run, read_product, run_path
from rlhf_sdk import jobs
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.text import number

ABSENT = "-"


@dataclass(frozen=True)
class Side:
    """One of those compared."""

    name: str
    metrics: Mapping[str, Any]
    """By dotted name: a number, a text, or an estimate {value, low, high, n}."""
    spec: Mapping[str, Any]
    """By dotted path: everything that was written."""
    missing: tuple[str, ...] = ()
    """Stages whose product is not there."""


def read(what: str, storage: Path | None) -> Side:
    """A run (by job file, name, UID or index file), or a product (by folder).

    Raises:
        CommandError: it is neither, or never run.
    """
    path = Path(what)
    if (path / "manifest.json").is_file():
        return _product_side(path)
    if path.suffix == ".json" and path.is_file() and path.parent.parent.parent.name == "runs":
        return run_side(_index(path), path.resolve().parents[3], what)
    run = jobs.locate(what, storage)
    index = run_path(run.layout.storage, run.state.namespace, run.state.job, run.state.uid)
    if not index.exists():
        raise CommandError(f"{what}: its prepare has never ended, so there is nothing to compare", Exit.INVALID)
    return run_side(_index(index), run.layout.storage, run.state.job)


def run_side(run: Run, storage: Path, name: str) -> Side:
    """A run: the metrics of all its products, by `stage.metric`."""
    metrics: dict[str, Any] = {}
    missing = []
    for stage, product in run.products.items():
        found = _read(storage, product)
        if found is None:
            missing.append(stage)
        else:
            metrics |= flatten(found.manifest.metrics, stage)
    return Side(name, metrics, flatten(by_name(run.spec), ""), tuple(missing))


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested values by dotted path; an estimate stays whole."""
    if isinstance(value, Mapping) and "value" not in value:
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list) and value and all(isinstance(item, Mapping | list) for item in value):
        found = {}
        for position, item in enumerate(value):
            found |= flatten(item, f"{prefix}[{position}]")
        return found
    return {prefix: value}


def by_name(spec: Any) -> Any:
    """Lists of named things as mappings, so that a stage put in between moves no path."""
    if isinstance(spec, Mapping):
        return {key: by_name(item) for key, item in spec.items() if item not in ({}, [])}
    if isinstance(spec, list):
        names = [item.get("name") if isinstance(item, Mapping) else None for item in spec]
        if names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            rest = [{key: value for key, value in item.items() if key != "name"} for item in spec]
            return {name: by_name(item) for name, item in zip(names, rest, strict=True)}
        return [by_name(item) for item in spec]
    return spec


def rows(sides: Sequence[Side], part: str) -> dict[str, list[Any]]:
    """Every name of `metrics` or `spec` any side has, with each side's value (None: it has none)."""
    names: dict[str, None] = {}
    for side in sides:
        names |= dict.fromkeys(getattr(side, part))
    return {name: [getattr(side, part).get(name) for side in sides] for name in names}


def different(found: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows in which the sides are not all the same."""
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def cell(value: Any) -> str:
    """`0.42 [0.31, 0.53]` for an estimate."""
    if value is None:
        return ABSENT
    if isinstance(value, Mapping) and "value" in value:
        middle = cell(value["value"])
        low, high = value.get("low"), value.get("high")
        return f"{middle} [{cell(low)}, {cell(high)}]" if low is not None and high is not None else middle
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return number(value)


def _product_side(path: Path) -> Side:
    found = _read(path.resolve().parents[1], path.resolve().name)
    if found is None:
        raise CommandError(f"{path}: not a product", Exit.INVALID)
    short = f"{found.manifest.type}-{found.manifest.digest[:8]}"
    spec = {"seed": found.manifest.seed, **by_name(found.manifest.spec), "takes": found.manifest.inputs}
    return Side(short, flatten(found.manifest.metrics, ""), flatten(spec, ""))


def _read(storage: Path, product: str) -> Product | None:
    try:
        return read_product(storage, product)
    except DamagedProduct as error:
        raise CommandError(str(error)) from error


def _index(path: Path) -> Run:
    try:
        return Run.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise CommandError(f"{path}: not a run's index: {str(error).splitlines()[0]}") from error
