"""Which curves of a stage are shown, in which order, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_trainer.reporting.axes import Point
from rlhf_trainer.reporting.plots import Plot, Series
from rlhf_trainer.telemetry import catalog

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """A plot to be: its title and the metrics that share it (`cost.*`: all that begin so)."""

    title: str
    metrics: tuple[str, ...]
    log: bool = False
    zero: bool = False
    limits: str = ""
    """Which limits are drawn: `cost`, `kl`, or none."""
    apart: bool = False
    """A plot for each of what stands before the last dot, which names it."""


LEARNING = (
    Panel("Loss", ("loss", "heldout_loss")),
    Panel("Judged right", ("accuracy", "heldout_accuracy", "sign_accuracy")),
    Panel("Margin", ("margin",)),
)
ALIGNING = (
    Panel("Reward", ("reward",)),
    Panel("Reward by judge", ("reward.*",)),
    Panel("Reward by rules", ("rbr.*",)),
    Panel("Classes of answers, by rules", ("class_share.*",), zero=True, apart=True),
    Panel("Cost against its limit", ("cost.*",), limits="cost"),
    Panel("Multiplier λ", ("lambda.*",), log=True),
    Panel("KL to the reference", ("kl",), zero=True, limits="kl"),
    Panel("Answer length", ("length",), zero=True),
    Panel("Entropy", ("entropy",), zero=True),
    Panel("Explained variance of the critics", ("explained_variance", "cost_explained_variance.*")),
    Panel("Gold score, never optimised", ("gold", "gold.*", "goldGap")),
)
SIMULATING = (
    Panel("Answer length", ("length",), zero=True),
    Panel("Both orders agree", ("order_agreement",)),
)
PANELS: dict[str, tuple[Panel, ...]] = {"ppo": ALIGNING, "simulate": SIMULATING}
HIDDEN = {"step"}
LABELS = {
    "accuracy": "pairs",
    "sign_accuracy": "signs",
    "explained_variance": "reward",
    "cost_explained_variance": "{}",
    "heldout_loss": "held out",
    "heldout_accuracy": "held-out pairs",
    "loss": "training",
    "goldGap": "reward beyond gold",
}
"""What series are called beside others."""


def plots(kind: str, rows: Sequence[Row], limits: Mapping[str, Mapping[str, float]]) -> tuple[list[Plot], list[Plot]]:
    """The plots of a stage type, and the rest of its metrics, one plot each.

    `limits`: by panel's `limits`, lines by metric, such as `{"cost": {"cost.harm": 0.0}}`.
    """
    names = dict.fromkeys(name for row in rows for name in row if name not in HIDDEN)
    main, used = [], set[str]()
    for panel in PANELS.get(kind, LEARNING):
        matching = [name for name in names if any(_fits(name, pattern) for pattern in panel.metrics)]
        if panel.metrics == ("reward.*",) and len(matching) < 2:
            used.update(matching)
            continue
        used.update(matching)
        if panel.apart:
            main += [_plot(part, part_names, rows, {}) for part, part_names in _apart(panel, matching)]
        elif matching:
            main.append(_plot(panel, matching, rows, limits.get(panel.limits, {})))
    rest = [_plot(Panel(_title(name), (name,)), [name], rows, {}) for name in sorted(set(names) - used)]
    return main, rest


def _apart(panel: Panel, names: Sequence[str]) -> list[tuple[Panel, list[str]]]:
    """A panel for each of what stands before the last dot of names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    heads = {head: head.partition(".")[2].replace("_", " ") for head in groups}
    return [(replace(panel, title=f"{panel.title}: {heads[head]}"), members) for head, members in groups.items()]


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _plot(panel: Panel, names: Sequence[str], rows: Sequence[Row], limits: Mapping[str, float]) -> Plot:
    series = [Series(_label(name, names), _points(rows, name)) for name in names]
    definition = catalog.find(names[0])
    lines = {f"limit {value:g}" if len(set(limits.values())) < 2 else f"{key.partition('.')[2]} limit {value:g}": value
             for key, value in limits.items() if key in names}  # fmt: skip
    return Plot(panel.title, definition.unit if definition else "", series, lines, panel.log, panel.zero)


def _points(rows: Sequence[Row], name: str) -> list[Point]:
    return [(float(row["step"]), _value(row[name])) for row in rows if name in row and "step" in row]


def _value(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _label(name: str, names: Sequence[str]) -> str:
    """The part after the dot where all share what is before it; the whole name else."""
    head, _, tail = name.partition(".")
    if head in LABELS:
        return LABELS[head].format(tail)
    same = all(sibling.partition(".")[0] == head for sibling in names)
    if name.count(".") > 1 and len({sibling.rpartition(".")[0] for sibling in names}) == 1:
        return name.rpartition(".")[2].replace("_", " ")
    return tail if tail and same else name.replace("_", " ")


def _title(name: str) -> str:
    return name.replace("_", " ")
