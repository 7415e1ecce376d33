"""Read a policy file: known names, no cycles, and for every response type exactly one class a combination.

All problems are reported at once, each with its line and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, read_bytes
from rlhf_api.errors import Loc, SpecError
from rlhf_api.yaml import MAX_BYTES, Document, load_yaml
from rlhf_trainer.data.columns import canonical_type
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules.combinations import Combination, Tangled, contradiction
from rlhf_trainer.rules.policy import Measures, Needs, Policy, default_features
from rlhf_trainer.rules.problems import MAX_ENTRIES, Problems, describe, suggest
from rlhf_trainer.sources.choose import yaml_file

REQUIRED = ("prompt_template", "completion_class_order", "completion_classes", "simple_propositions")
OPTIONAL = ("derived_propositions", "features", "ranking", "measures")
MAX_LEVELS = 32
"""Of derived propositions that are made of derived ones."""
MEASURES = ("unsafe", "comply", "refusal")
USUAL = Measures(("disallowed_completion",), ("comply",), ("unacceptable_completion",))
"""Measured where a policy says nothing of measures and has these names."""


def read_policy(path: Path) -> Policy:
    """Read and check a policy: a YAML file, or a folder that holds one.

    Raises:
        InputError: no such file, or a policy with problems: all of them, with line and column.
    """
    file = yaml_file(path, "policy file")
    try:
        return parse_policy(read_bytes(file, MAX_BYTES), file.name)
    except (SpecError, Unreadable) as error:
        raise InputError(f"the policy has problems:\n{error}", reason="InvalidPolicy") from error


def parse_policy(content: bytes | str, source: str | None = None) -> Policy:
    """Check a policy's text.

    Raises:
        SpecError: with every problem, its path, line and column.
    """
    return policy_of(load_yaml(content, source))


def policy_of(document: Document) -> Policy:
    """The policy in a document.

    Raises:
        SpecError: with every problem.
    """
    return _Parser(document).policy()


class _Parser(Problems):
    def policy(self) -> Policy:
        value = self.document.value
        if not isinstance(value, dict):
            self.refuse((), f"found {describe(value)}; expected a mapping with {', '.join(REQUIRED)}")
            self.raise_all()
        for name in value:
            if name not in REQUIRED + OPTIONAL:
                self.refuse((name,), "is no part of a policy", suggest(name, REQUIRED + OPTIONAL))
        for name in REQUIRED:
            if name not in value:
                self.refuse((name,), "is missing")
        self.raise_all()
        template = self._template(value["prompt_template"])
        questions = self._questions(value["simple_propositions"])
        derived = self._derived(value.get("derived_propositions", {}), questions)
        self.raise_all()  # what follows walks down the propositions
        order = self.names(value["completion_class_order"], ("completion_class_order",))
        classes = self._classes(value["completion_classes"], order, {*questions, *derived})
        self.raise_all()
        for kind, needs in classes.items():
            self._partition(kind, needs, derived)
        features = {kind: tuple(default_features([*questions], needs, derived)) for kind, needs in classes.items()}
        features |= self._features(value.get("features", {}), {*questions, *derived}, classes)
        ranking = self._ranking(value.get("ranking", {}), {*questions, *derived}, classes)
        measures = self._measures(value.get("measures"), order, classes)
        self.raise_all()
        return Policy(template, questions, derived, tuple(order), classes, features, ranking, measures)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _template(self, value: Any) -> str:
        if not isinstance(value, str) or "{question}" not in value:
            self.refuse(("prompt_template",), f"found {describe(value)}; expected a text with {{question}} in it")
        return str(value)

    def _questions(self, value: Any) -> dict[str, str]:
        questions: dict[str, str] = {}
        for name, entry in self.mapping(value, ("simple_propositions",)).items():
            text = entry.get("prompt") if isinstance(entry, dict) else None
            if not isinstance(text, str) or not text.strip() or set(entry) != {"prompt"}:
                self.refuse(
                    ("simple_propositions", name), f"found {describe(entry)}; expected prompt: and the question's text"
                )
            questions[name] = str(text)
        if not questions:
            self.refuse(("simple_propositions",), "has no proposition; expected at least one")
        return questions

    def _derived(self, value: Any, questions: Mapping[str, str]) -> dict[str, Needs]:
        at: Loc = ("derived_propositions",)
        raw = self.mapping(value, at)
        propositions = {*questions, *raw}
        derived = {name: self._needs(needs, (*at, name), propositions) for name, needs in raw.items()}
        for name in raw:
            if name in questions:
                self.refuse((*at, name), "is a simple proposition too", "rename one")
        levels, cycle = _levels(derived)
        if cycle:
            text = " <- ".join([*cycle[:MAX_LEVELS], cycle[0]])
            self.refuse((*at, cycle[0]), f"is made of itself: {text}", "break the cycle")
            return {}
        if len(levels) > MAX_LEVELS:
            self.refuse(
                (*at, levels[MAX_LEVELS][0]), f"stands on more than {MAX_LEVELS} levels of derived propositions"
            )
            return {}
        return {name: derived[name] for level in levels for name in level}

    def _classes(self, value: Any, order: list[str], propositions: set[str]) -> dict[str, dict[str, Needs]]:
        at: Loc = ("completion_classes",)
        raw = self.mapping(value, at)
        for name in raw:
            if name not in order:
                self.refuse((*at, name), "is not in completion_class_order", suggest(name, order))
        for name in order:
            if name not in raw:
                self.refuse(("completion_class_order",), f"names {name}, which is not in completion_classes")
        classes: dict[str, dict[str, Needs]] = {}
        for name in order:
            for kind, needs in self.mapping(raw.get(name, {}), (*at, name)).items():
                if kind != canonical_type(kind):
                    self.refuse((*at, name, kind), f"found {kind}; expected a type such as {canonical_type(kind)}")
                classes.setdefault(kind, {})[name] = self._needs(needs, (*at, name, kind), propositions)
                if name in propositions:
                    self.refuse((*at, name), "is the name of a proposition too", "rename one")
        if not classes:
            self.refuse(at, "has no response type; expected at least one")
        return classes

    def _partition(self, kind: str, classes: Mapping[str, Needs], derived: Mapping[str, Needs]) -> None:
        try:
            counterexample = contradiction(classes, derived)
        except Tangled as problem:
            self.refuse(("completion_classes",), f"{kind}: {problem}", "let classes rest on fewer propositions")
            return
        if counterexample is None:
            return
        combination, holding = counterexample
        where = _combination(combination)
        if holding:
            message = f"{kind}: {' and '.join(holding)} both hold where {where}; expected exactly one class"
            self.refuse(("completion_classes", holding[1], kind), message)
        else:
            message = f"{kind}: no class holds where {where}; expected exactly one"
            self.refuse(("completion_classes",), message)

    def _features(
        self, value: Any, propositions: set[str], classes: Mapping[str, Mapping[str, Needs]]
    ) -> dict[str, tuple[str, ...]]:
        features: dict[str, tuple[str, ...]] = {}
        for kind, names in self.mapping(value, ("features",)).items():
            at: Loc = ("features", kind)
            if self._is_type(kind, classes, at):
                features[kind] = tuple(self.names(names, at))
                for index, name in enumerate(features[kind]):
                    if name not in propositions and name not in classes[kind]:
                        expected = f"is neither a proposition nor a class of {kind}"
                        self.refuse((*at, index), f"{name} {expected}", suggest(name, [*propositions, *classes[kind]]))
                if not features[kind]:
                    self.refuse(at, "found an empty list; expected at least one feature")
        return features

    def _ranking(
        self, value: Any, propositions: set[str], classes: Mapping[str, Mapping[str, Needs]]
    ) -> dict[str, tuple[tuple[str, Needs], ...]]:
        rankings: dict[str, tuple[tuple[str, Needs], ...]] = {}
        for kind, entries in self.mapping(value, ("ranking",)).items():
            at: Loc = ("ranking", kind)
            if not self._is_type(kind, classes, at):
                continue
            if not isinstance(entries, list) or not 0 < len(entries) <= MAX_ENTRIES:
                self.refuse(at, f"found {describe(entries)}; expected a list of completion types, the best first")
                continue
            tiers = [self._tier(entry, (*at, index), propositions) for index, entry in enumerate(entries)]
            for index, (name, needs) in enumerate(tiers):
                if bool(needs) == (index == len(tiers) - 1):
                    expectation = (
                        "{}: the last one holds of everything else" if needs else "what it needs: only the last is {}"
                    )
                    self.refuse((*at, index), f"{name}: expected {expectation}")
            rankings[kind] = tuple(tiers)
        return rankings

    def _tier(self, entry: Any, at: Loc, propositions: set[str]) -> tuple[str, Needs]:
        if not isinstance(entry, dict) or len(entry) != 1:
            self.refuse(at, f"found {describe(entry)}; expected one name: and what the completion type needs")
            return "", {}
        name, needs = next(iter(entry.items()))
        return str(name), self._needs(needs, (*at, name), propositions, empty=True)

    def _measures(self, value: Any, order: list[str], classes: Mapping[str, Mapping[str, Needs]]) -> Measures:
        if value is None:
            has_usual = set(USUAL.unsafe + USUAL.refusal) <= set(order) and set(USUAL.comply) <= set(classes)
            return USUAL if has_usual else Measures()
        raw = self.mapping(value, ("measures",))
        for name in raw:
            if name not in MEASURES:
                self.refuse(("measures", name), "is no measure", suggest(name, MEASURES))
        for name in MEASURES:
            if name not in raw:
                self.refuse(("measures", name), "is missing", "leave measures out altogether for none")
        lists = {name: self.names(raw.get(name, []), ("measures", name)) for name in MEASURES}
        for name, candidates, what in (
            ("unsafe", order, "class"),
            ("comply", [*classes], "response type"),
            ("refusal", order, "class"),
        ):
            for index, entry in enumerate(lists[name]):
                if entry not in candidates:
                    self.refuse(("measures", name, index), f"there is no {what} {entry}", suggest(entry, candidates))
        return Measures(*(tuple(lists[name]) for name in MEASURES))

    def _needs(self, value: Any, at: Loc, propositions: set[str], *, empty: bool = False) -> Needs:
        needs: dict[str, bool] = {}
        for name, truth in self.mapping(value, at).items():
            if name not in propositions:
                self.refuse((*at, name), f"there is no proposition {name}", suggest(name, sorted(propositions)))
            elif not isinstance(truth, bool):
                self.refuse((*at, name), f"found {describe(truth)}; expected true or false")
            else:
                needs[name] = truth
        if not value and not empty:
            self.refuse(at, "needs nothing; expected at least one proposition")
        return needs

    def _is_type(self, kind: str, classes: Mapping[str, Any], at: Loc) -> bool:
        if kind not in classes:
            self.refuse(at, f"there is no response type {kind}", suggest(kind, [*classes]))
        return kind in classes


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
    parts = [f"{name} is {str(value).lower()}" for name, value in combination.items()]
    return ", ".join(parts) + ("" if parts else "anything is true")
