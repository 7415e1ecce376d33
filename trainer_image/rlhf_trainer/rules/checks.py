"""Is a policy file a policy: known names, no cycles, and for every response type exactly one class a combination.

All problems are found at once, each with its line and column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_api.errors import Loc, SpecError, SpecProblem, format_path
from rlhf_api.sentences import nearest
from rlhf_api.yaml import Document
from rlhf_trainer.data.columns import canonical_type
from rlhf_trainer.rules.combinations import Combination, Tangled, contradiction
from rlhf_trainer.rules.policy import Measures, Needs, Policy, default_features

REQUIRED = ("prompt_template", "completion_class_order", "completion_classes", "simple_propositions")
OPTIONAL = ("derived_propositions", "features", "ranking", "measures")
MAX_PROPOSITIONS = 256
"""Simple ones; and so many derived ones, classes, completion types and response types."""
MAX_LEVELS = 32
"""Of derived propositions that are made of derived ones."""
MAX_PROBLEMS = 50
"""That are told at once."""
MEASURES = ("unsafe", "comply", "refusal")
USUAL = Measures(("disallowed_completion",), ("comply",), ("unacceptable_completion",))
"""Measured where a policy says nothing of measures and has these names."""


def checked(document: Document) -> Policy:
    """The policy in a document.

    Raises:
        SpecError: with every problem.
    """
    return _Checker(document).policy()


class _Checker:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._problems = list(document.problems)

    def policy(self) -> Policy:
        value = self._document.value
        if not isinstance(value, dict):
            self._refuse((), f"found {_told(value)}; expected a mapping with {', '.join(REQUIRED)}")
            self._raise()
        for name in value:
            if name not in REQUIRED + OPTIONAL:
                self._refuse((name,), "is no part of a policy", _meant(name, REQUIRED + OPTIONAL))
        for name in REQUIRED:
            if name not in value:
                self._refuse((name,), "is missing")
        self._raise()
        template = self._template(value["prompt_template"])
        questions = self._questions(value["simple_propositions"])
        derived = self._derived(value.get("derived_propositions", {}), questions)
        self._raise()  # what follows walks down the propositions
        order = self._names(value["completion_class_order"], ("completion_class_order",))
        classes = self._classes(value["completion_classes"], order, {*questions, *derived})
        self._raise()
        for kind, needs in classes.items():
            self._partition(kind, needs, derived)
        features = {kind: tuple(default_features([*questions], needs, derived)) for kind, needs in classes.items()}
        features |= self._features(value.get("features", {}), {*questions, *derived}, classes)
        ranking = self._ranking(value.get("ranking", {}), {*questions, *derived}, classes)
        measures = self._measures(value.get("measures"), order, classes)
        self._raise()
        return Policy(template, questions, derived, tuple(order), classes, features, ranking, measures)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _template(self, value: Any) -> str:
        if not isinstance(value, str) or "{question}" not in value:
            self._refuse(("prompt_template",), f"found {_told(value)}; expected a text with {{question}} in it")
        return str(value)

    def _questions(self, value: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, entry in self._mapping(value, ("simple_propositions",)).items():
            text = entry.get("prompt") if isinstance(entry, dict) else None
            if not isinstance(text, str) or not text.strip() or set(entry) != {"prompt"}:
                self._refuse(
                    ("simple_propositions", name), f"found {_told(entry)}; expected prompt: and the question's text"
                )
            found[name] = str(text)
        if not found:
            self._refuse(("simple_propositions",), "has no proposition; expected at least one")
        return found

    def _derived(self, value: Any, questions: Mapping[str, str]) -> dict[str, Needs]:
        at: Loc = ("derived_propositions",)
        raw = self._mapping(value, at)
        known = {*questions, *raw}
        found = {name: self._needs(needs, (*at, name), known) for name, needs in raw.items()}
        for name in raw:
            if name in questions:
                self._refuse((*at, name), "is a simple proposition too", "rename one")
        levels, cycle = _levels(found)
        if cycle:
            text = " <- ".join([*cycle[:MAX_LEVELS], cycle[0]])
            self._refuse((*at, cycle[0]), f"is made of itself: {text}", "break the cycle")
            return {}
        if len(levels) > MAX_LEVELS:
            self._refuse(
                (*at, levels[MAX_LEVELS][0]), f"stands on more than {MAX_LEVELS} levels of derived propositions"
            )
            return {}
        return {name: found[name] for level in levels for name in level}

    def _classes(self, value: Any, order: list[str], known: set[str]) -> dict[str, dict[str, Needs]]:
        at: Loc = ("completion_classes",)
        raw = self._mapping(value, at)
        for name in raw:
            if name not in order:
                self._refuse((*at, name), "is not in completion_class_order", _meant(name, order))
        for name in order:
            if name not in raw:
                self._refuse(("completion_class_order",), f"names {name}, which is not in completion_classes")
        found: dict[str, dict[str, Needs]] = {}
        for name in order:
            for kind, needs in self._mapping(raw.get(name, {}), (*at, name)).items():
                if kind != canonical_type(kind):
                    self._refuse((*at, name, kind), f"found {kind}; expected a type such as {canonical_type(kind)}")
                found.setdefault(kind, {})[name] = self._needs(needs, (*at, name, kind), known)
                if name in known:
                    self._refuse((*at, name), "is the name of a proposition too", "rename one")
        if not found:
            self._refuse(at, "has no response type; expected at least one")
        return found

    def _partition(self, kind: str, classes: Mapping[str, Needs], derived: Mapping[str, Needs]) -> None:
        try:
            found = contradiction(classes, derived)
        except Tangled as problem:
            self._refuse(("completion_classes",), f"{kind}: {problem}", "let classes rest on fewer propositions")
            return
        if found is None:
            return
        combination, holding = found
        where = _combination(combination)
        if holding:
            message = f"{kind}: {' and '.join(holding)} both hold where {where}; expected exactly one class"
            self._refuse(("completion_classes", holding[1], kind), message)
        else:
            message = f"{kind}: no class holds where {where}; expected exactly one"
            self._refuse(("completion_classes",), message)

    def _features(
        self, value: Any, known: set[str], classes: Mapping[str, Mapping[str, Needs]]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for kind, names in self._mapping(value, ("features",)).items():
            at: Loc = ("features", kind)
            if self._is_type(kind, classes, at):
                found[kind] = tuple(self._names(names, at))
                for index, name in enumerate(found[kind]):
                    if name not in known and name not in classes[kind]:
                        expected = f"is neither a proposition nor a class of {kind}"
                        self._refuse((*at, index), f"{name} {expected}", _meant(name, [*known, *classes[kind]]))
                if not found[kind]:
                    self._refuse(at, "found an empty list; expected at least one feature")
        return found

    def _ranking(
        self, value: Any, known: set[str], classes: Mapping[str, Mapping[str, Needs]]
    ) -> dict[str, tuple[tuple[str, Needs], ...]]:
        found: dict[str, tuple[tuple[str, Needs], ...]] = {}
        for kind, entries in self._mapping(value, ("ranking",)).items():
            at: Loc = ("ranking", kind)
            if not self._is_type(kind, classes, at):
                continue
            if not isinstance(entries, list) or not 0 < len(entries) <= MAX_PROPOSITIONS:
                self._refuse(at, f"found {_told(entries)}; expected a list of completion types, the best first")
                continue
            tiers = [self._tier(entry, (*at, index), known) for index, entry in enumerate(entries)]
            for index, (name, needs) in enumerate(tiers):
                if bool(needs) == (index == len(tiers) - 1):
                    wanted = (
                        "{}: the last one holds of everything else" if needs else "what it needs: only the last is {}"
                    )
                    self._refuse((*at, index), f"{name}: expected {wanted}")
            found[kind] = tuple(tiers)
        return found

    def _tier(self, entry: Any, at: Loc, known: set[str]) -> tuple[str, Needs]:
        if not isinstance(entry, dict) or len(entry) != 1:
            self._refuse(at, f"found {_told(entry)}; expected one name: and what the completion type needs")
            return "", {}
        name, needs = next(iter(entry.items()))
        return str(name), self._needs(needs, (*at, name), known, empty=True)

    def _measures(self, value: Any, order: list[str], classes: Mapping[str, Mapping[str, Needs]]) -> Measures:
        if value is None:
            there = set(USUAL.unsafe + USUAL.refusal) <= set(order) and set(USUAL.comply) <= set(classes)
            return USUAL if there else Measures()
        raw = self._mapping(value, ("measures",))
        for name in raw:
            if name not in MEASURES:
                self._refuse(("measures", name), "is no measure", _meant(name, MEASURES))
        for name in MEASURES:
            if name not in raw:
                self._refuse(("measures", name), "is missing", "leave measures out altogether for none")
        lists = {name: self._names(raw.get(name, []), ("measures", name)) for name in MEASURES}
        for name, known, what in (
            ("unsafe", order, "class"),
            ("comply", [*classes], "response type"),
            ("refusal", order, "class"),
        ):
            for index, one in enumerate(lists[name]):
                if one not in known:
                    self._refuse(("measures", name, index), f"there is no {what} {one}", _meant(one, known))
        return Measures(*(tuple(lists[name]) for name in MEASURES))

    # -- values -------------------------------------------------------------------------------------------------------

    def _needs(self, value: Any, at: Loc, known: set[str], *, empty: bool = False) -> Needs:
        found: dict[str, bool] = {}
        for name, wanted in self._mapping(value, at).items():
            if name not in known:
                self._refuse((*at, name), f"there is no proposition {name}", _meant(name, sorted(known)))
            elif not isinstance(wanted, bool):
                self._refuse((*at, name), f"found {_told(wanted)}; expected true or false")
            else:
                found[name] = wanted
        if not value and not empty:
            self._refuse(at, "needs nothing; expected at least one proposition")
        return found

    def _mapping(self, value: Any, at: Loc) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(at, f"found {_told(value)}; expected a mapping")
            return {}
        return value if self._is_short(value, at) else {}

    def _is_short(self, value: dict[str, Any] | list[Any], at: Loc) -> bool:
        if len(value) > MAX_PROPOSITIONS:
            self._refuse(at, f"found {len(value)} entries; expected at most {MAX_PROPOSITIONS}")
        return len(value) <= MAX_PROPOSITIONS

    def _names(self, value: Any, at: Loc) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self._refuse(at, f"found {_told(value)}; expected a list of names")
            return []
        if not self._is_short(value, at):
            return []
        for index, one in enumerate(value):
            if one in value[:index]:
                self._refuse((*at, index), f"found {one} twice", "leave one out")
        return list(value)

    def _is_type(self, kind: str, classes: Mapping[str, Any], at: Loc) -> bool:
        if kind not in classes:
            self._refuse(at, f"there is no response type {kind}", _meant(kind, [*classes]))
        return kind in classes

    def _refuse(self, at: Loc, message: str, hint: str | None = None) -> None:
        line, column = self._document.position(at, on_key=True)
        self._problems.append(SpecProblem(format_path(at), message, hint, line, column))
        if len(self._problems) >= MAX_PROBLEMS:
            self._raise()

    def _raise(self) -> None:
        if self._problems:
            raise SpecError(self._problems, self._document.source)


def _levels(derived: Mapping[str, Needs]) -> tuple[list[list[str]], list[str]]:
    """Derived propositions by level, each above those that it is made of, and the names along a cycle, if there is one."""
    waiting = dict(derived)
    levels: list[list[str]] = []
    while waiting:
        ready = [name for name, needs in waiting.items() if not any(part in waiting for part in needs)]
        if not ready:
            return levels, _cycle(waiting)
        levels.append(ready)
        for name in ready:
            del waiting[name]
    return levels, []


def _cycle(derived: Mapping[str, Needs]) -> list[str]:
    """Names along a cycle, where every proposition is made of another one."""
    path: dict[str, None] = {}
    name = next(iter(derived))
    while name not in path:
        path[name] = None
        name = next(part for part in derived[name] if part in derived)
    names = list(path)
    return names[names.index(name) :]


def _combination(combination: Combination) -> str:
    told = [f"{name} is {str(value).lower()}" for name, value in combination.items()]
    return ", ".join(told) + ("" if told else "anything is true")


def _meant(name: str, known: Any) -> str | None:
    close = nearest(str(name), list(known))
    return f"did you mean {close}?" if close is not None else f"there are {_listed(known)}"


def _told(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return f"a mapping of {_listed(value) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else repr(value)[:60]


def _listed(names: Iterable[Any]) -> str:
    """The first of some names."""
    listed = [str(name)[:60] for name in names]
    return ", ".join([*listed[:12], *(["..."] if len(listed) > 12 else [])])
