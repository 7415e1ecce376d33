"""How the judges' scores of models lie over each other: what a mean does not show."""

from __future__ import annotations

from rlhf_trainer.reporting.axes import percent
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.reporting.histogram import histogram
from rlhf_trainer.reporting.tables import label


def histograms(evaluation: Json) -> list[Json]:
    """A figure a judge, for the page's plots: models over each other, and how much of the probability they share."""
    return [
        {
            "title": label(metric),
            "unit": "; ".join(
                f"{name} has {percent(share)} in common with {evaluation['baseline']}"
                for name, share in drawn["overlap"].items()
                if share is not None
            ),
            "labels": list(drawn["counts"]),
            "svg": histogram(drawn, named=f"{label(metric)}: scores by model", unit="score", counted="answers"),
        }
        for metric, drawn in evaluation.get("distributions", {}).items()
    ]
