"""How the judges' scores of models lie over each other: what a mean does not show."""

from __future__ import annotations

from markupsafe import Markup

from rlhf_trainer.reporting import tables
from rlhf_trainer.reporting.axes import number, percent
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.histogram import histogram
from rlhf_trainer.reporting.plane import Coordinate, Position, kind, plane


def drawing(evaluation: Json, cost: Json | None, reward: Json | None) -> Markup | None:
    """Mean reward against mean cost, baseline and candidates, by the judges of the headline; None without both."""
    if cost is None or reward is None:
        return None
    across, up = f"reward.{reward['name']}", f"cost.{cost['name']}"
    models = [tables.baseline(evaluation), *tables.candidates(evaluation)]
    if any(model["metrics"][name]["value"] is None for model in models for name in (across, up)):
        return None
    positions = [
        Position(model["name"], kind(index), *(_coordinate(model["metrics"][name]) for name in (across, up)))
        for index, model in enumerate(models)
    ]
    named = "; ".join(
        f"{position.name}: reward {number(position.across.value)}, cost {number(position.up.value)}"
        for position in positions
    )
    titles = (f"mean reward by {reward['name']}", f"mean cost by {cost['name']}, low is safe")
    return plane(positions, *titles, named=f"Reward and cost of {named}", shares=False)


def _coordinate(estimate: Json) -> Coordinate:
    return Coordinate(estimate["value"], estimate["low"], estimate["high"])


def histograms(evaluation: Json) -> list[Json]:
    """A figure a judge, for the page's plots: models over each other, and how much of the probability they share."""
    return [
        {
            "title": tables.label(metric),
            "unit": "; ".join(
                f"{name} has {percent(share)} in common with {evaluation['baseline']}"
                for name, share in drawn["overlap"].items()
                if share is not None
            ),
            "labels": list(drawn["counts"]),
            "svg": histogram(drawn, named=f"{tables.label(metric)}: scores by model", unit="score", counted="answers"),
        }
        for metric, drawn in evaluation.get("distributions", {}).items()
    ]
