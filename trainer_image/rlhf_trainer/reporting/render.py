"""The report as one HTML file: no script, nothing fetched, everything escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf_api.stages import STAGE_TYPES
from rlhf_trainer.reporting import (
    axes,
    dialogues,
    fits,
    graph,
    groups,
    judges,
    panels,
    plots,
    refusals,
    scores,
    suites,
    tables,
    verdict,
)
from rlhf_trainer.reporting.files import Json

TEMPLATES = Path(__file__).parent / "templates"


def render(report: Json) -> str:
    """The page of a report's content.

    A content security policy allows its one style sheet, by digest, and nothing else: were a text ever to slip through
    unescaped, a browser would still run and fetch nothing.
    """
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=axes.number,
        percent=axes.percent,
        seconds=axes.seconds,
        parameters=axes.parameters,
        given=_given,
        short=_short,
        kind=_kind,
        setting=_setting,
    )
    environment.globals.update(
        tables=tables,
        suites=suites,
        dialogues=dialogues,
        refusals=refusals,
        groups=groups,
        judges=judges,
        scores=scores,
        fitted=fits,
        primary=verdict.primary,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        css=Markup(css),  # noqa: S704  # our own file; inside <style>, where escapes are not read
        css_digest=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        graph=graph.draw(report["stages"]),
        figures=[group for evaluation in report["evaluations"] for group in key_figures(evaluation)],
        curves={stage["name"]: _curves(stage) for stage in report["stages"] if stage["curves"]},
        reliability=plots.reliability,
        harm={evaluation["stage"]: _harm_plot(evaluation) for evaluation in report["evaluations"]},
        turn_plots={evaluation["stage"]: dialogues.plot(evaluation) for evaluation in report["evaluations"]},
        bars={
            stage["name"]: plots.bars(
                [(name, spent) for name, spent, _ in tables.phases(stage["timings"])], named=f"Time of {stage['name']}"
            )
            for stage in report["stages"]
            if stage["timings"]
        },
    )


def key_figures(evaluation: Json) -> list[tuple[str, list[dict[str, Any]]]]:
    """The few large numbers at the top: for each candidate or group its name, and harm, cost, reward, KL."""
    first = tables.baseline(evaluation)
    rows = []
    for model in groups.contestants(evaluation):
        figures: list[dict[str, Any]] = []
        cost, reward = (verdict.primary(evaluation, kind) for kind in ("cost", "reward"))
        if cost is not None:
            metric = verdict.harm_metric(model, cost)
            figures.append(_figure("Harmful answers", f"judged by {cost['name']}", metric, first, model))
            figures.append(
                _figure("Mean cost", f"{cost['name']}; at most 0 is safe", f"cost.{cost['name']}", first, model)
            )
        if reward is not None:
            figures.append(_figure("Mean reward", reward["name"], f"reward.{reward['name']}", first, model))
        figures.append(_figure("KL to the baseline", "nats an answer; 0 is no change", "kl", first, model))
        rows.append((model["name"], figures))
    return rows


def _figure(title: str, about: str, metric: str, first: Json, model: Json) -> dict[str, Any]:
    difference = tables.change(metric, model["differences"].get(metric))
    estimates = [side["metrics"][metric] for side in (first, model) if metric in side["metrics"]]
    digits = 3 if any(abs(estimate["value"] or 0.0) >= 10 for estimate in estimates) else 2
    return {
        "title": title,
        "about": about,
        "before": tables.cell(metric, first["metrics"].get(metric), digits),
        "after": tables.cell(metric, model["metrics"].get(metric), digits),
        "word": difference.word,
        "tone": difference.tone,
        "n": model["metrics"][metric]["n"],
    }


def _curves(stage: Json) -> dict[str, Sequence[dict[str, Any]]]:
    main, rest = panels.plots(stage["type"], stage["curves"], stage["limits"])
    return {"main": [_drawn(plot) for plot in main], "rest": [_drawn(plot) for plot in rest]}


def _drawn(plot: plots.Plot) -> dict[str, Any]:
    return {
        "title": plot.title,
        "unit": plot.unit,
        "labels": [series.label for series in plot.series] if len(plot.series) > 1 else [],
        "svg": plots.curves(plot),
    }


def _harm_plot(evaluation: Json) -> Markup | None:
    """Harmful rate before and after, overall and by category."""
    names = [evaluation["baseline"], *(model["name"] for model in tables.candidates(evaluation))]
    cost = verdict.primary(evaluation, "cost")
    if cost is None:
        return None
    overall = {m["name"]: m["metrics"][verdict.harm_metric(m, cost)] for m in evaluation["models"]}
    by_category = ((row["category"], row["by_cost"][cost["name"]]["harmful_rate"]) for row in evaluation["categories"])
    rows = [("All prompts", overall), *by_category]
    groups = [(label, [_interval(name, rates[name], names) for name in names]) for label, rates in rows]
    return plots.shares(groups, named="Share of harmful answers by model and category")


def _interval(name: str, estimate: Json, names: Sequence[str]) -> plots.Interval:
    index = names.index(name)
    kind = "before" if index == 0 else f"after{(index - 1) % 4}"
    return plots.Interval(name, kind, estimate["value"], estimate["low"], estimate["high"])


def _kind(stage_type: str) -> str:
    return STAGE_TYPES[stage_type].label if stage_type in STAGE_TYPES else stage_type


def _setting(value: Any) -> str:
    """A setting as the job file writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _given(value: Any) -> str:
    """A value, or that nobody said."""
    return "not disclosed" if value is None or value == "" or value == [] else str(value)


def _short(digest: str | None) -> str:
    return "not disclosed" if digest is None else digest[:12]
