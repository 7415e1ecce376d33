"""Rules in CEL, so that the API server refuses what `rlhf validate` refuses.

A rule stands beside the model it is about (`ApiModel.cel`), next to `rules()`, which says the same in Python. Rules
that follow references over stages are generated: `spec_rules`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rlhf_api.base import Cel, bare
from rlhf_api.fields import MAX_ITEMS, Reference
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES
from rlhf_api.stages.rows import MADE, needed

MUTABLE = ("suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "runPolicy")
"""Fields of a spec that may change once the job exists."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z.]+)\}")


Rule = dict[str, Any]
"""One of a schema's `x-kubernetes-validations`."""


def rules_of(model: type[BaseModel]) -> list[Rule]:
    """The `x-kubernetes-validations` of a model, placeholders `{field}` replaced by the value or its default."""
    rules: tuple[Cel, ...] = getattr(model, "cel", ())
    return [_written(Cel(expand(cel.rule, model), cel.message, cel.field)) for cel in rules]


def _written(cel: Cel) -> Rule:
    rest = {"messageExpression": cel.tells, "fieldPath": cel.field}
    return {"rule": cel.rule, "message": cel.message} | {key: value for key, value in rest.items() if value is not None}


def expand(rule: str, model: type[BaseModel]) -> str:
    """`{rollout.prompts}` becomes the value at that path, or the default where it is not given."""

    def value(match: re.Match[str]) -> str:
        names = match[1].split(".")
        holder: Any = model
        default: Any = None
        for name in names:
            field = next(candidate for candidate in holder.model_fields.values() if candidate.alias == name)
            default, holder = field.default, bare(field.annotation)
        is_set = " && ".join(f"has(self.{'.'.join(names[: depth + 1])})" for depth in range(len(names)))
        return f"({is_set} ? self.{match[1]} : {_literal(default)})"

    return _PLACEHOLDER.sub(value, rule)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def spec_rules(spec: type[BaseModel]) -> list[Rule]:
    """The rules of the whole spec: references, reserved names, what may change."""
    fixed = (*_names(), *_references(), *_suites(), *_judges())
    return [_written(cel) for cel in (*_immutable(spec), *_overrides())] + [_once(_written(cel)) for cel in fixed]


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
    sizes = "self.stages.map(s, has(s.repeat) ? s.repeat.seeds.size() : 1)"
    yield Cel(f"{sizes}.sum() <= {MAX_ITEMS}", f"at most {MAX_ITEMS} stages, repeats counted", ".stages")
    yield Cel(f"self.stages.filter(s, has(s.{REPORT})).size() <= 1", "a job has one report", ".stages")


def _overrides() -> Iterator[Cel]:
    yield Cel(
        "!has(self.runPolicy) || !has(self.runPolicy.overrides) || self.runPolicy.overrides.all(o,"
        f" o.stage == '{PREPARE}' || o.stage == '{REPORT}' || self.stages.exists(s, s.name == o.stage))",
        "an override names no stage of this job",
        ".runPolicy",
    )


def _references() -> Iterator[Cel]:
    """One rule of every field that holds references. The API server pays for every rule, however little that finds to
    look at, and kubectl apply for every byte of the CRD: so the fields are data, through which the rule goes. Its
    message is of the first field, and there of the first fault in the order of `_FAULTS`.
    """
    fields = ", ".join(f"[{', '.join(_literal(word) for word in (kind, *entries))}]" for kind, entries in _fields())
    faults = ", ".join(_literal(fault) for fault in _FAULTS)
    words = "c == 1 && e.contains(': ') ? ' (%s)'.format([e.split(': ')[1]]) : ''"
    message = f"'%s.%s: %s%s'.format([g[0], e.split(': ')[0], ['', {faults}][c], {words}])"
    typed = "[self.stages.filter(s, dyn(s)[?g[0]].hasValue())]"
    some = f"{typed}.exists(z, z.size() > 0 && g.exists(e, {_first_fault()} < {_NONE}))"
    each = f"g.map(e, [{_first_fault()}].map(c, c < {_NONE} ? {message} : '')[0]).filter(m, m != '')"
    tells = f"{typed}.map(z, z.size() > 0 ? {each} : [])[0]"
    tells = f"[{fields}].map(g, {tells}).filter(m, m.size() > 0)[0][0]"
    yield Cel(
        f"!{_bound('exists', f'[{fields}].exists(g, {some})')}",
        "a reference does not fit",
        ".stages",
        _bound("map", tells) + "[0]" * len(_LISTS),
    )
    yield Cel(
        "self.stages.all(s, !has(s.ppo) || s.ppo.rewards.all(r, !has(r.stage) || (has(r.weight) && r.weight < 0.0)"
        " || !self.stages.exists(t, t.name == r.stage && has(t.costModel))))",
        "ppo.rewards: a cost model needs a negative weight there, or belongs under costs",
        ".stages",
    )


def _judges() -> Iterator[Cel]:
    """Models of judges stand one list deeper, too: inputs, or stages that make a model that writes."""
    makers = " || ".join(f"has(t.{name})" for name, kind in STAGE_TYPES.items() if kind.product == "policy")
    yield Cel(
        f"[{_LISTS['a']}].all(a, [self.stages.filter(t, {makers}).map(t, t.name)].all(n,"
        " self.stages.all(s, !has(s.evaluate) || !has(s.evaluate.judges) || s.evaluate.judges.all(u,"
        " !has(u.model) || (has(u.model.stage) ? u.model.stage in n : !has(u.model.input) || u.model.input in a)))))",
        "evaluate.judges: model names no input of this job, and no stage that makes a model",
        ".stages",
    )


def _suites() -> Iterator[Cel]:
    """References of suites and personas stand one list deeper than those of other fields, and are inputs alone."""
    inputs = "(has(self.inputs) && self.inputs.exists(i, i.name == {0}.input))"
    in_job = [f"(!has({at}) || !has({at}.input) || {inputs.format(at)})" for at in ("u.data", "u.file", "u.shotsFrom")]
    yield Cel(
        "self.stages.all(s, !has(s.evaluate) || !has(s.evaluate.suites) || s.evaluate.suites.all(u,"
        f" {' && '.join(in_job)}))",
        "evaluate.suites: data, file or shotsFrom names no input of this job",
        ".stages",
    )
    yield Cel(
        f"self.stages.all(s, !has(s.evaluate) || !has(s.evaluate.personas) || s.evaluate.personas.all(u, {in_job[0]}))",
        "evaluate.personas: data names no input of this job",
        ".stages",
    )


_LISTS = {
    "n": "self.stages.map(t, t.name)",
    "a": "has(self.inputs) ? self.inputs.map(i, i.name) : []",
    "h": "has(self.inputs) ? self.inputs.filter(i, has(i.heldout) && i.heldout > 0.0).map(i, i.name) : []",
}
"""What the rule of references looks names up in: stages, inputs, inputs that hold rows out."""
_FAULTS = (
    "names no stage of this job that fits",
    "stages refer to earlier stages only",
    "names no input of this job",
    "split heldout of an input that holds no rows out",
    "split heldout of a stage, which holds no rows out",
)
_FITS = "e.split(' ').exists(k, dyn(t)[?'simulate'].orValue(dyn(t))[?k].hasValue())"
"""Whether stage t is of a type, or a simulation by a method, that field e can use."""
_HELDOUT = "has(r.split) && r.split == 'heldout'"
_NONE = 9
_FAULT = (
    f"has(r.stage) ? [n.indexOf(r.stage)].map(x, x < 0 || ![self.stages[x]].exists(t, {_FITS}) ? 1"
    f" : x >= y ? 2 : {_HELDOUT} ? 5 : {_NONE})[0]"
    f" : has(r.input) ? (!(r.input in a) ? 3 : {_HELDOUT} && !(r.input in h) ? 4 : {_NONE}) : {_NONE}"
)
"""The number of the first fault of reference r in field e of stage number y, from 1; _NONE: it has none."""


def _fields() -> Iterator[tuple[str, list[str]]]:
    """The stage types, with their fields that hold references and what fits: types of stages, of `simulate` its methods."""
    for kind, stage_type in STAGE_TYPES.items():
        entries = []
        for path, takes in _references_in(stage_type.spec):
            rows = needed(kind, path)
            fitting = " or ".join(name for name, maker in STAGE_TYPES.items() if maker.product in takes)
            methods = " ".join(method for method, makes in MADE.items() if rows in makes)
            entries.append(
                f"{path}: {fitting}: {methods}" if "data" in takes else f"{path}: {fitting}" if takes else path
            )
        if entries:
            yield kind, entries


def _bound(macro: str, inner: str) -> str:
    """CEL in which the names of `_LISTS` are bound: it has nothing for that but a list of one."""
    for name, value in reversed(_LISTS.items()):
        inner = f"[{value}].{macro}({name}, {inner})"
    return inner


def _first_fault() -> str:
    """The least number of a fault that references in field e of the stages z have, which are of the type of group g.

    Which fields there are is not known to the type checker: stages, and what their fields hold (v), are dynamic.
    """
    indices = ", ".join(str(index) for index in range(MAX_ITEMS))
    fault = f"[type(v) == list ? dyn(v)[i] : dyn(v)].map(r, {_FAULT})[0]"
    least = f"(type(v) == list ? [{indices}] : [0]).map(i, i < dyn(v).size() ? {fault} : {_NONE}).min()"
    value = "(p.size() > 1 ? dyn(s)[?g[0]][?p[0]][?p[1]] : dyn(s)[?g[0]][?p[0]])"
    stage = f"[n.indexOf(s.name)].map(y, {value}.optMap(v, {least}).orValue({_NONE}))[0]"
    return f"[e.find('[^:]+').split('.')].map(p, z.map(s, {stage}).min())[0]"


def _references_in(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """Every field below a model that holds references, with the products they may be."""
    for field in model.model_fields.values():
        inner = bare(field.annotation)
        many = typing.get_origin(inner) is list
        if many:
            inner = bare(typing.get_args(inner)[0])
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            continue
        if issubclass(inner, Reference):
            yield f"{path}{field.alias}", inner.takes
        if not many:
            yield from _references_in(inner, f"{path}{field.alias}.")
