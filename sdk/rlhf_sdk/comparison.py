"""Runs and products side by side: final metrics, and where their specs differ. Pure, once they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_api.bounded import exists
from rlhf_api.store import DamagedProduct, Product, Run, read_product
from rlhf_sdk import runs
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
    run: bool = True
    """A run; else a product."""


def read(what: str, storage: Path | None) -> Side:
    """A run (by job file, name or UID, `@N` for an earlier one, or index file), or a product (by folder).

    Raises:
        CommandError: it is neither, or never run.
    """
    path = Path(what)
    if exists(path / "manifest.json"):
        return _product_side(path)
    if path.suffix == ".json" and exists(path) and path.parent.parent.parent.name == "runs":
        index = _index(path)
        return run_side(index, path.resolve().parents[3], index.job)
    entry = runs.find(what, storage)
    return run_side(entry.run, entry.storage, entry.run.job if entry.latest else runs.name_of(entry))


def named(sides: Sequence[Side], what: Sequence[str]) -> list[Side]:
    """Sides of the same name called what the user called them.

    Raises:
        CommandError: runs and products are mixed.
    """
    names = [side.name for side in sides]
    if len({side.run for side in sides}) > 1:
        raise CommandError("compare takes runs, or products, not one with the other", Exit.INVALID)
    return [
        replace(side, name=argument) if names.count(side.name) > 1 else side
        for side, argument in zip(sides, what, strict=True)
    ]


def run_side(run: Run, storage: Path, name: str) -> Side:
    """A run: the metrics of all its products, by `stage.metric`."""
    metrics: dict[str, Any] = {}
    missing = []
    for stage, product in run.products.items():
        stored = _read(storage, product)
        if stored is None:
            missing.append(stage)
        else:
            metrics |= single(stored.manifest.metrics, stage)
    return Side(name, metrics, flatten(by_name(run.spec), ""), tuple(missing))


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested values by dotted path; an estimate stays whole."""
    if isinstance(value, Mapping) and "value" not in value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(value, list) and value and all(isinstance(item, Mapping | list) for item in value):
        flat = {}
        for position, item in enumerate(value):
            flat |= flatten(item, f"{prefix}[{position}]")
        return flat
    return {prefix: value}


def single(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The metrics that are one value; lists (bins, histograms, samples) are for the report."""
    return {name: value for name, value in flatten(metrics, prefix).items() if "[" not in name and value != []}


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


def collapsed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Names of a flat spec's stages and inputs."""
    return {".".join(path.split(".")[:2]): "there" for path in spec if path.startswith(("stages.", "inputs."))}


def spec_rows(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """Where the specs differ: stages and inputs that not all have as one row, then field by field."""
    parts = [collapsed(side.spec) for side in sides]
    every: dict[str, None] = {name: None for part in parts for name in part}
    partly = {name for name in every if not all(name in part for part in parts)}
    presence = {name: [part.get(name) for part in parts] for name in every if name in partly}
    fields = different(rows(sides, "spec"))
    return presence | {path: row for path, row in fields.items() if ".".join(path.split(".")[:2]) not in partly}


def changes(before: Run, after: Run) -> dict[str, list[Any]]:
    """What differs from one run of a job to the next, by path: [before, after]; an input's content as `inputs.NAME`."""
    rows_of_spec = spec_rows([Side("", {}, flatten(by_name(run.spec), "")) for run in (before, after)])
    contents = {
        f"inputs.{name}": [f"content {before.inputs[name][:8]}", f"content {digest[:8]}"]
        for name, digest in after.inputs.items()
        if before.inputs.get(name, digest) != digest
    }
    return rows_of_spec | contents


def apart(values: Sequence[Any]) -> bool:
    """Whether two of the estimates have intervals without a common point."""
    intervals = [
        (value["low"], value["high"])
        for value in values
        if isinstance(value, Mapping) and value.get("low") is not None and value.get("high") is not None
    ]
    return any(first[1] < second[0] for first in intervals for second in intervals)


def different(values_by_name: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows in which the sides are not all the same."""
    return {name: values for name, values in values_by_name.items() if any(value != values[0] for value in values)}


def cell(value: Any, *, exact: bool = False) -> str:
    """`0.42 [0.31, 0.53]` for an estimate; numbers rounded unless `exact`."""
    if value is None:
        return ABSENT
    if isinstance(value, Mapping) and "value" in value:
        middle = cell(value["value"])
        low, high = value.get("low"), value.get("high")
        return f"{middle} [{cell(low)}, {cell(high)}]" if low is not None and high is not None else middle
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return str(value) if exact else number(value)


def _product_side(path: Path) -> Side:
    stored = _read(path.resolve().parents[1], path.resolve().name)
    if stored is None:
        raise CommandError(f"{path}: not a product", Exit.INVALID)
    short = f"{stored.manifest.type}-{stored.manifest.digest[:8]}"
    spec = {"seed": stored.manifest.seed, **by_name(stored.manifest.spec), "takes": stored.manifest.inputs}
    return Side(short, single(stored.manifest.metrics, ""), flatten(spec, ""), run=False)


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
