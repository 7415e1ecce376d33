"""Rules in CEL, so that the API server refuses what `rlhf validate` refuses.

A rule stands beside the model it is about (`ApiModel.cel`), next to `rules()`, which says the same in Python. Rules
that follow references over stages are generated: `spec_rules`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rlhf_api.fields import Cel, Reference, bare
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES
from rlhf_api.stages.rows import MADE, needed

MUTABLE = ("suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "runPolicy")
"""Fields of a spec that may change once the job exists."""

MOST_CLAIMS = 20
"""In a rule: the API server bounds what a rule may cost."""
_NAMES = "self.stages.map(t, t.name)"
_PLACEHOLDER = re.compile(r"\{([A-Za-z.]+)\}")


@dataclass(frozen=True)
class _Edge:
    """A field of a stage type that holds references."""

    type: str
    path: tuple[str, ...]
    many: bool
    takes: frozenset[str]


Rule = dict[str, Any]
"""One of a schema's `x-kubernetes-validations`."""


def rules_of(model: type[BaseModel]) -> list[Rule]:
    """The `x-kubernetes-validations` of a model, placeholders `{field}` replaced by the value or its default."""
    rules: tuple[Cel, ...] = getattr(model, "cel", ())
    return [_written(Cel(expand(one.rule, model), one.message, one.field)) for one in rules]


def _written(one: Cel) -> Rule:
    rest = {"messageExpression": one.tells, "fieldPath": one.field}
    return {"rule": one.rule, "message": one.message} | {key: value for key, value in rest.items() if value is not None}


def expand(rule: str, model: type[BaseModel]) -> str:
    """`{rollout.prompts}` becomes the value at that path, or the default where it is not given."""

    def value(match: re.Match[str]) -> str:
        names = match[1].split(".")
        here: Any = model
        default: Any = None
        for name in names:
            field = next(one for one in here.model_fields.values() if one.alias == name)
            default, here = field.default, bare(field.annotation)
        given = " && ".join(f"has(self.{'.'.join(names[: depth + 1])})" for depth in range(len(names)))
        return f"({given} ? self.{match[1]} : {_literal(default)})"

    return _PLACEHOLDER.sub(value, rule)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def spec_rules(spec: type[BaseModel]) -> list[Rule]:
    """The rules of the whole spec: references, reserved names, what may change."""
    fixed = (*_names(), *_references())
    return [_written(one) for one in (*_immutable(spec), *_overrides())] + [_once(_written(one)) for one in fixed]


def check_once(spec: Rule) -> None:
    """Make the rules below what may not change hold for new objects alone.

    The API server runs every rule of the spec at each write of a status, which took it a third of its time. Below
    lists that are no maps it cannot tell an item's old value: rules stay there as they are.
    """
    for name, field in spec["properties"].items():
        if name not in MUTABLE:
            _check_once(field)


def _check_once(node: Rule) -> None:
    if "x-kubernetes-validations" in node:
        node["x-kubernetes-validations"] = [_once(rule) for rule in node["x-kubernetes-validations"]]
    below = list(node.get("properties", {}).values())
    if "additionalProperties" in node:
        below.append(node["additionalProperties"])
    if node.get("x-kubernetes-list-type") == "map":
        below.append(node["items"])
    for child in below:
        _check_once(child)


def _once(rule: Rule) -> Rule:
    """The rule where there was no value before."""
    return {**rule, "rule": f"oldSelf.hasValue() || ({rule['rule']})", "optionalOldSelf": True}


def _immutable(spec: type[BaseModel]) -> Iterator[Cel]:
    message = f"may not change; only {', '.join(MUTABLE)} may. Make a new job"
    for field in spec.model_fields.values():
        name = field.alias
        if name in MUTABLE:
            continue
        same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
        yield Cel(f"self.{name} == oldSelf.{name}" if field.is_required() else same, message, f".{name}")


def _names() -> Iterator[Cel]:
    yield Cel(
        f"self.stages.all(s, s.name != '{PREPARE}' && (s.name != '{REPORT}' || has(s.report)))",
        f"a stage may not be named {PREPARE}, and only a report may be named {REPORT}",
        ".stages",
    )
    yield Cel(f"self.stages.filter(s, has(s.{REPORT})).size() <= 1", "a job has one report", ".stages")


def _overrides() -> Iterator[Cel]:
    yield Cel(
        "!has(self.runPolicy) || !has(self.runPolicy.overrides) || self.runPolicy.overrides.all(o,"
        f" o.stage == '{PREPARE}' || o.stage == '{REPORT}' || self.stages.exists(s, s.name == o.stage))",
        "an override names no stage of this job",
        ".runPolicy",
    )


def _references() -> Iterator[Cel]:
    """A few rules a stage type, each of many claims. The API server pays for every rule, however little that finds to
    look at: with a rule a claim, rules took two thirds of its time for making a job."""
    for kind, one in STAGE_TYPES.items():
        claims = [claim for edge in _edges(one.spec, kind, ()) for claim in _claims(edge)]
        if kind == "ppo":
            claims.append(_shaping())
        for start in range(0, len(claims), MOST_CLAIMS):
            yield _together(kind, claims[start : start + MOST_CLAIMS])


def _together(kind: str, claims: Sequence[tuple[str, str]]) -> Cel:
    """One rule of claims about stages s of a type; its message is that of the first that does not hold."""

    def of_each(claim: str) -> str:
        return f"self.stages.all(s, !has(s.{kind}) || ({claim}))"

    tells = "''"
    for claim, message in reversed(claims):
        tells = f"{of_each(claim)} ? ({tells}) : '{message}'"
    rule = of_each(" && ".join(f"({claim})" for claim, _ in claims))
    return Cel(
        f"[{_NAMES}].all(names, {rule})",
        f"{kind}: a reference does not fit",
        ".stages",
        f"[{_NAMES}].map(names, {tells})[0]",
    )


def _claims(edge: _Edge) -> Iterator[tuple[str, str]]:
    """What must hold of a stage s of the edge's type, and the message where it does not."""
    where = ".".join((edge.type, *edge.path))
    makers = [_made(name, edge) for name, other in STAGE_TYPES.items() if other.product in edge.takes]
    fits = " || ".join(makers) or "false"
    wanted = " or ".join(name for name, other in STAGE_TYPES.items() if other.product in edge.takes)
    yield (
        _over(edge, "stage", f"self.stages.exists(t, t.name == $ && ({fits}))"),
        f"{where}: names no stage of this job that fits" + (f" ({wanted})" if wanted else ""),
    )
    yield (
        _over(edge, "stage", "names.indexOf($) < names.indexOf(s.name)"),
        f"{where}: stages refer to earlier stages only",
    )
    known = "has(self.inputs) && self.inputs.exists(i, i.name == $)"
    yield _over(edge, "input", known), f"{where}: names no input of this job"
    if "data" in edge.takes:
        held = "has(self.inputs) && self.inputs.exists(i, i.name == r.input && has(i.heldout) && i.heldout > 0.0)"
        asked = "has(r.split) && r.split == 'heldout'"
        yield (
            _all(edge, f"!(has(r.input) && {asked}) || ({held})"),
            f"{where}: split heldout of an input that holds no rows out",
        )
        yield _all(edge, f"!(has(r.stage) && {asked})"), f"{where}: split heldout of a stage, which holds no rows out"


def _made(name: str, edge: _Edge) -> str:
    """That stage t is of a type, and makes rows that the edge can use."""
    if name != "simulate" or "data" not in edge.takes:
        return f"has(t.{name})"
    wanted = needed(edge.type, ".".join(edge.path))
    methods = [f"has(t.simulate.{method})" for method, made in MADE.items() if wanted in made]
    return f"(has(t.simulate) && ({' || '.join(methods) or 'false'}))"


def _shaping() -> tuple[str, str]:
    """A cost model among rewards is a penalty: its weight is negative."""
    cost = "self.stages.exists(t, t.name == r.stage && has(t.costModel))"
    return (
        f"s.ppo.rewards.all(r, !has(r.stage) || (has(r.weight) && r.weight < 0.0) || !{cost})",
        "ppo.rewards: a cost model needs a negative weight there, or belongs under costs",
    )


def _over(edge: _Edge, field: str, claim: str) -> str:
    """The claim, in which $ is the name referred to, for every reference of the edge in stage s."""
    one = f"r.{field}" if edge.many else f"s.{edge.type}.{'.'.join(edge.path)}.{field}"
    return _all(edge, f"!has({one}) || ({claim.replace('$', one)})")


def _all(edge: _Edge, claim: str) -> str:
    """The claim for every reference of the edge in stage s: each is r where there are many."""
    absent = " || ".join(f"!has(s.{edge.type}.{'.'.join(edge.path[: depth + 1])})" for depth in range(len(edge.path)))
    return f"{absent} || " + (f"s.{edge.type}.{'.'.join(edge.path)}.all(r, {claim})" if edge.many else claim)


def _edges(model: type[BaseModel], kind: str, path: tuple[str, ...]) -> Iterator[_Edge]:
    for field in model.model_fields.values():
        here = (*path, str(field.alias))
        inner = bare(field.annotation)
        many = typing.get_origin(inner) is list
        if many:
            inner = bare(typing.get_args(inner)[0])
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            continue
        if issubclass(inner, Reference):
            yield _Edge(kind, here, many, inner.takes)
        if not many:
            yield from _edges(inner, kind, here)
