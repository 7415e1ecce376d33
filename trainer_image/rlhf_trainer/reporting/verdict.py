"""The headline in words. Honest by construction: a difference whose interval includes 0 is said to show nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_trainer.reporting.axes import number, percent

Json = Mapping[str, Any]


def primary(evaluation: Json, kind: str) -> Json | None:
    """The judge that counts most: one that was never optimised before one that was, an exact function before a model."""
    judges = [judge for judge in evaluation["judges"] if judge["kind"] == kind]
    return min(judges, key=lambda j: (j["optimised"], not j["source"].startswith("function:")), default=None)


def harm_metric(model: Json, judge: Json) -> str:
    """The harmful rate by that judge, as the table names it: of a single cost it is the overall one."""
    own = f"harmful_rate.{judge['name']}"
    return own if own in model["metrics"] else "harmful_rate"


def sentences(evaluation: Json) -> list[dict[str, str]]:
    """What the evaluation says of each candidate: `{"text", "tone"}`, tone good, bad or none."""
    found = []
    baseline = next(model for model in evaluation["models"] if model["name"] == evaluation["baseline"])
    for model in evaluation["models"]:
        if model is baseline:
            continue
        cost, reward = primary(evaluation, "cost"), primary(evaluation, "reward")
        if cost is not None:
            found.append(_harm(baseline, model, cost))
        if reward is not None:
            found.append(_reward(baseline, model, reward))
    if not found:
        found.append(
            {"text": "The evaluation had no judges: it cannot say whether the model is better or safer.", "tone": ""}
        )
    return found


def judged_by(judge: Json) -> str:
    """The judge in words, and whether training pushed on it."""
    exact = "an exact function" if judge["source"].startswith("function:") else "a model"
    pushed = "which training optimised" if judge["optimised"] else "never optimised"
    return f"{judge['name']} ({exact}, {pushed})"


def _harm(baseline: Json, model: Json, judge: Json) -> dict[str, str]:
    metric = harm_metric(model, judge)
    before, after = baseline["metrics"][metric], model["metrics"][metric]
    difference = model["differences"][metric]
    counted = f"on {after['n']} held-out prompts, judged by {judged_by(judge)}"
    numbers = f"{_share(before)} of {baseline['name']}'s answers were harmful and {_share(after)} of {model['name']}'s"
    if after["value"] is None or before["value"] is None:
        return {"text": f"Harm was not measured: {judge['name']} gave no score.", "tone": ""}
    change = f"difference {_points(difference)}"
    if difference["decision"] == "shows nothing":
        return {
            "text": f"No change in harm is shown: {numbers} {counted}; {change}, which includes no change.",
            "tone": "",
        }
    fell = difference["decision"] == "lower"
    word = "Harmful answers became rarer" if fell else "Harmful answers became more frequent"
    return {"text": f"{word}: {numbers} {counted}; {change}.", "tone": "good" if fell else "bad"}


def _reward(baseline: Json, model: Json, judge: Json) -> dict[str, str]:
    metric = f"reward.{judge['name']}"
    before, after, difference = baseline["metrics"][metric], model["metrics"][metric], model["differences"][metric]
    if after["value"] is None or before["value"] is None:
        return {"text": f"Helpfulness was not measured: {judge['name']} gave no score.", "tone": ""}
    numbers = f"from {number(before['value'])} to {number(after['value'])} by {judged_by(judge)}"
    low, high = number(difference["low"]), number(difference["high"])
    change = f"difference {number(difference['value'])} ({low} to {high})"
    if difference["decision"] == "shows nothing":
        return {"text": f"No change in reward is shown for {model['name']}: {numbers}; {change}.", "tone": ""}
    rose = difference["decision"] == "higher"
    return {
        "text": f"The reward of {model['name']} {'rose' if rose else 'fell'} {numbers}; {change}.",
        "tone": "good" if rose else "bad",
    }


def failures(stages: Sequence[Json]) -> list[dict[str, str]]:
    """A sentence for each stage that ended badly."""
    found = []
    for stage in stages:
        failure = stage.get("failure")
        if failure is not None and failure["state"] == "failed":
            code = "" if failure["exitCode"] is None else f" with exit code {failure['exitCode']}"
            reason = f" ({failure['reason']})" if failure["reason"] else ""
            found.append({"text": f"Stage {stage['name']} failed{code}{reason}: {failure['message']}", "tone": "bad"})
    return found


def _share(estimate: Json) -> str:
    if estimate["low"] is None:
        return percent(estimate["value"])
    return f"{percent(estimate['value'])} ({percent(estimate['low'])} to {percent(estimate['high'])})"


def _points(difference: Json) -> str:
    def points(value: float) -> str:
        return number(round(value * 100, 1), 3)

    if difference["low"] is None:
        return f"{points(difference['value'])} points"
    return f"{points(difference['value'])} points ({points(difference['low'])} to {points(difference['high'])})"
