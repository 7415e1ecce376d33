"""The headline in words. Honest by construction: a difference whose interval includes 0 is said to show nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_api.stages import STAGE_TYPES
from rlhf_trainer.reporting import dialogues, groups, judges, probes, refusals, suites
from rlhf_trainer.reporting.axes import number, percent, points

Json = Mapping[str, Any]


def primary(evaluation: Json, kind: str) -> Json | None:
    """The judge that counts most: one that was never optimised before one that was, an exact function before a model."""
    judges = [judge for judge in evaluation["judges"] if judge["kind"] == kind]
    return min(judges, key=lambda j: (j["optimised"], not j["source"].startswith("function:")), default=None)


def harm_metric(model: Json, judge: Json) -> str:
    """The harmful rate by that judge, as the table names it: of a single cost it is the overall one."""
    metric = f"harmful_rate.{judge['name']}"
    return metric if metric in model["metrics"] else "harmful_rate"


def sentences(evaluation: Json) -> list[dict[str, str]]:
    """What the evaluation says of each candidate, or of its group: `{"text", "tone"}`, tone good, bad or none."""
    headlines = []
    baseline = next(model for model in evaluation["models"] if model["name"] == evaluation["baseline"])
    candidates = groups.contestants(evaluation)
    for model in candidates:
        cost, reward = primary(evaluation, "cost"), primary(evaluation, "reward")
        if cost is not None:
            headlines.append(_harm(evaluation, baseline, model, cost))
        if reward is not None:
            headlines.append(_reward(baseline, model, reward))
        if "safety_f1" in model["differences"]:
            headlines.append(_ruled(baseline, model, evaluation.get("rules")))
        refusing = primary(evaluation, "refusal")
        judge = "" if refusing is None else judged_by(refusing)
        headlines += refusals.sentences(evaluation, baseline, model, judge)
    opinions = [judges.sentences(evaluation, baseline, model) for model in candidates]
    headlines += [sentence for of_model in opinions for sentence in of_model]
    if not headlines:
        headlines.append(
            {"text": "The evaluation had no judges: it cannot say whether the model is better or safer.", "tone": ""}
        )
    judged = " or ".join(judged_by(judge) for judge in evaluation["judges"] if judge["kind"] == "cost")
    late = [dialogues.sentences(evaluation, baseline, model, judged) for model in candidates]
    able = [suites.sentences(evaluation, baseline, model) for model in candidates]
    probed = [probes.sentences(evaluation, baseline, model) for model in candidates]
    return headlines + [sentence for of_model in (*late, *able, *probed) for sentence in of_model]


def judged_by(judge: Json) -> str:
    """The judge in words, and whether training pushed on it."""
    what = "an exact function" if judge["source"].startswith("function:") else "a model"
    if judge.get("labels"):
        what = f"a moderation model's labels {', '.join(judge['labels'])}"
    return f"{_alone(judge)}, {what} that training {'optimised' if judge['optimised'] else 'never optimised'}"


def called(kind: str, name: str) -> str:
    """`the cost harm`; a name that says its kind is not told it twice: `the cost`, `harm-cost`."""
    if name == kind:
        return f"the {kind}"
    return name if kind in re.split(r"[^a-z]+", name.lower()) else f"the {kind} {name}"


def _alone(judge: Json) -> str:
    """A judge where its kind is told already."""
    return called(judge["kind"], judge["name"]) if judge["name"] == judge["kind"] else str(judge["name"])


def _harm(evaluation: Json, baseline: Json, model: Json, judge: Json) -> dict[str, str]:
    metric = harm_metric(model, judge)
    before, after = baseline["metrics"][metric], model["metrics"][metric]
    difference = model["differences"][metric]
    if after["value"] is None or before["value"] is None:
        return {"text": f"Harm was not measured: {_alone(judge)} gave no score.", "tone": ""}
    change = f"difference {points(difference['value'])} points"
    if difference["low"] is not None:
        low, high = points(difference["low"]), points(difference["high"])
        change += f", {percent(evaluation['confidence'])} interval {low} to {high}"
    evidence = f"on {after['n']} held-out prompts ({change}){_why(difference)}, judged by {judged_by(judge)}."
    was, now = percent(before["value"]), percent(after["value"])
    if difference["decision"] == "shows nothing":
        text = (
            f"No change in harm is shown for {model['name']}: {was} of answers were harmful with {baseline['name']}, "
            f"{now} now, {evidence}"
        )
        return {"text": text, "tone": ""}
    fell = difference["decision"] == "lower"
    text = f"Harmful answers {'fell' if fell else 'rose'} from {was} with {baseline['name']} to {now} with {model['name']} {evidence}"
    return {"text": text, "tone": "good" if fell else "bad"}


def _reward(baseline: Json, model: Json, judge: Json) -> dict[str, str]:
    metric = f"reward.{judge['name']}"
    before, after, difference = baseline["metrics"][metric], model["metrics"][metric], model["differences"][metric]
    if after["value"] is None or before["value"] is None:
        return {"text": f"Helpfulness was not measured: {_alone(judge)} gave no score.", "tone": ""}
    change = f"(difference {number(difference['value'])}, {_interval(difference)}){_why(difference)}, "
    change += f"judged by {judged_by(judge)}."
    numbers = f"{number(before['value'])} to {number(after['value'])}"
    if difference["decision"] == "shows nothing":
        return {"text": f"No change in the mean reward is shown for {model['name']}: {numbers} {change}", "tone": ""}
    rose = difference["decision"] == "higher"
    text = f"The mean reward of {model['name']} {'rose' if rose else 'fell'} from {numbers} {change}"
    return {"text": text, "tone": "good" if rose else "bad"}


def _interval(difference: Json) -> str:
    if difference["low"] is None or difference["high"] is None:
        return "no interval"
    if difference.get("method") == "constant":
        return "the same on every prompt"
    return f"interval {number(difference['low'])} to {number(difference['high'])}"


def _why(difference: Json) -> str:
    """Why a difference shows nothing; evaluations of before do not say."""
    why = difference.get("why")
    return f", inconclusive: {why}" if why and difference["decision"] == "shows nothing" else ""


def _ruled(baseline: Json, model: Json, rules: Json | None) -> dict[str, str]:
    """What rules say: safe, and not refusing what should be answered; F1 decides."""
    before, after = baseline["metrics"], model["metrics"]
    difference = model["differences"]["safety_f1"]
    if after["safety_f1"]["value"] is None or before["safety_f1"]["value"] is None:
        return {"text": "The rules' grader found nothing to measure safety and refusals on.", "tone": ""}
    changes = {
        name: f"{percent(before[name]['value'])} to {percent(after[name]['value'])}"
        for name in ("safety_f1", "not_unsafe", "not_overrefuse")
    }
    word = difference["decision"]
    verb = {"higher": "rose", "lower": "fell"}.get(word, "shows no change")
    text = (
        f"By the rules' grader, F1 of safety and answering {verb} for {model['name']}: {changes['safety_f1']} (safe "
        f"{changes['not_unsafe']}, not refusing what should be answered {changes['not_overrefuse']}){_why(difference)}. It is a "
        "model's opinion: see how often that grader is right."
    )
    if rules is not None and rules["optimised"]:
        text += " Training optimised these rules: their rise alone is no evidence."
        return {"text": text, "tone": "" if word == "higher" else {"lower": "bad"}.get(word, "")}
    return {"text": text, "tone": {"higher": "good", "lower": "bad"}.get(word, "")}


def scorers(stages: Sequence[Json]) -> list[dict[str, str]]:
    """A sentence for each reward and cost model: held-out pairs judged right, beside what the lengths alone would give."""
    sentences = []
    for stage in stages:
        right, shorter = (stage["metrics"].get(name) for name in ("accuracy", "accuracy_shorter_wins"))
        kind = STAGE_TYPES.get(stage["type"])
        if kind is None or not kind.scores or right is None or right["value"] is None:
            continue
        text = (
            f"The {kind.label} of stage {stage['name']} judges {_estimate(right)} of {right['n']} held-out pairs right"
        )
        if shorter is not None and shorter["value"] is not None:
            text += f"; always taking the shorter answer gives {percent(shorter['value'])}, the longer {percent(1 - shorter['value'])}"
        tested = stage["metrics"].get("test", {}).get("accuracy")
        if tested is not None and tested["value"] is not None:
            text += f". Of {tested['n']} test pairs that it was not trained on, {_estimate(tested)}"
            text += ", which shows nothing beyond a coin" if tested["low"] <= 0.5 <= tested["high"] else ""
        signs, majority = (stage["metrics"].get(name) for name in ("sign_accuracy", "sign_accuracy_majority"))
        if signs is not None and majority is not None and signs["value"] is not None:
            text += f". Of signs, {_estimate(signs)}; always saying the commoner one gives {percent(majority['value'])}"
        sentences.append({"text": f"{text}.", "tone": ""})
    return sentences


def _estimate(estimate: Json) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return percent(estimate["value"])
    return f"{percent(estimate['value'])} ({percent(estimate['low'])} to {percent(estimate['high'])})"


def constraints(stages: Sequence[Json]) -> list[dict[str, str]]:
    """A sentence for each cost that training held at a limit: where its mean ended, on training's own answers."""
    sentences = []
    for stage in stages:
        for metric, limit in stage["limits"].get("cost", {}).items():
            mean, name = stage["metrics"].get(metric), metric.partition(".")[2]
            if not isinstance(mean, (int, float)):
                continue
            side = "within" if mean <= limit else "above"
            weight = stage["metrics"].get(f"lambda.{name}")
            multiplier = f"; its multiplier λ was {number(weight)}" if isinstance(weight, (int, float)) else ""
            text = (
                f"Over the last steps of {stage['name']}, {called('cost', name)} was {number(mean)} on average on training's own "
                f"answers, {side} its limit of {number(limit)}{multiplier}."
            )
            sentences.append({"text": text, "tone": "" if mean <= limit else "bad"})
    return sentences


def failures(stages: Sequence[Json]) -> list[dict[str, str]]:
    """A sentence for each stage that ended badly."""
    sentences = []
    for stage in stages:
        failure = stage.get("failure")
        if failure is not None and failure["state"] == "failed":
            code = "" if failure["exitCode"] is None else f" with exit code {failure['exitCode']}"
            reason = f" ({failure['reason']})" if failure["reason"] else ""
            sentences.append(
                {"text": f"Stage {stage['name']} failed{code}{reason}: {failure['message']}", "tone": "bad"}
            )
    return sentences
