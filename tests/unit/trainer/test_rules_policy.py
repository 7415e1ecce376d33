"""The policy file: what is read, what is refused and where, and that classes are exactly one."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fakes.policies import DATA, public, small
from rlhf_api.errors import SpecError
from rlhf_api.yaml import dump_yaml
from rlhf_trainer.data.columns import canonical_type
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules import combinations
from rlhf_trainer.rules.parser import parse_policy, read_policy
from rlhf_trainer.rules.policy import as_json

OWN = Path(__file__).parents[3] / "examples" / "data" / "rbr-policy.yaml"


def refused(policy: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        parse_policy(dump_yaml(policy), "policy.yaml")
    return str(caught.value)


@public
def test_the_public_policy_loads_and_every_gold_row_falls_in_exactly_one_class() -> None:
    policy = read_policy(DATA / "rbr_policy.yaml")
    assert policy.types == ("hard_refuse", "safe_refuse_1", "safe_refuse_2", "comply")
    with gzip.open(DATA / "rbr_gold_train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    counts: Counter[str] = Counter()
    for row in rows:
        kind = canonical_type(row["response_type"])
        holding = [name for name, needs in policy.classes[kind].items() if policy.holds(needs, row["propositions"])]
        assert len(holding) == 1
        assert holding == [policy.class_of(kind, row["propositions"])]
        counts[kind] += 1
    assert len(rows) == 351
    assert counts == {"comply": 196, "hard_refuse": 88, "safe_refuse_1": 9, "safe_refuse_2": 58}


@public
def test_the_public_policy_is_checked_in_steps_not_in_combinations() -> None:
    policy = read_policy(DATA / "rbr_policy.yaml")
    for kind, classes in policy.classes.items():
        search = combinations._Search(classes, policy.derived)
        assert search.run({}) is None
        assert search.steps < 10_000, kind  # of 2^17 combinations and more


@public
def test_features_are_the_propositions_that_classes_reach_then_the_classes() -> None:
    policy = read_policy(DATA / "rbr_policy.yaml")
    assert policy.features["comply"] == (
        "partially_complies",
        "illogical_continuation_of_prompt",
        "meta_commentary",
        "disallowed_content",
        "requests_information",
        *policy.order,
    )
    assert len(policy.graded("hard_refuse")) == 14


def test_our_own_policy_loads_with_its_features_ranking_and_measures() -> None:
    policy = read_policy(OWN)
    assert policy.graded("comply") == ("scolds", "gives_steps")
    assert [name for name, _ in policy.ranking["comply"]] == ["fully", "grudgingly", "not_at_all"]
    assert policy.measures.unsafe == ("disallowed_completion",)
    assert policy.rank_of("comply", {"gives_steps": True, "scolds": True}) == 1
    assert policy.rank_of("comply", {"gives_steps": False, "scolds": True}) == 2


@pytest.mark.parametrize("path", [OWN, pytest.param(DATA / "rbr_policy.yaml", marks=public)])
def test_a_policy_written_out_is_the_same_policy(path: Path) -> None:
    policy = read_policy(path)
    again = parse_policy(dump_yaml(as_json(policy)))
    assert again == policy
    assert again.digest == policy.digest


def test_the_digest_is_of_what_a_policy_says_not_of_how_it_is_written() -> None:
    text = OWN.read_text()
    policy = parse_policy(text)
    assert parse_policy("# another comment\n" + text).digest == policy.digest
    assert parse_policy(text.replace("Did you apologise", "Did you say sorry")).digest != policy.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p["completion_classes"]["bad"]["comply"].update(helms=True),
            "there is no proposition helms (did you",
        ),
        (lambda p: p["completion_classes"]["bad"].update(comply={}), "completion_classes.bad.comply: needs nothing"),
        (lambda p: p["derived_propositions"]["declines"].update(sorry="yes"), "found 'yes'; expected true or false"),
        (lambda p: p["completion_class_order"].append("worst"), "names worst, which is not in completion_classes"),
        (lambda p: p["completion_class_order"].pop(), "bad: is not in completion_class_order"),
        (lambda p: p.update(completion_order=[]), "completion_order: is no part of a policy"),
        (lambda p: p.pop("prompt_template"), "prompt_template: is missing"),
        (lambda p: p.update(prompt_template="Well?"), "expected a text with {question} in it"),
        (lambda p: p["simple_propositions"].update(declines={"prompt": "?"}), "declines: is a simple proposition too"),
        (lambda p: p["simple_propositions"].update(helps="Is it?"), "expected prompt: and the question's text"),
        (lambda p: p.update(features={"comply": ["helps", "rude"]}), "rude is neither a proposition nor a class of"),
        (lambda p: p.update(features={"answer": ["helps"]}), "there is no response type answer"),
        (
            lambda p: p.update(ranking={"comply": [{"all": {"helps": True}}]}),
            "expected {}: the last one holds of every",
        ),
        (lambda p: p.update(ranking={"comply": [{"a": {}}, {"b": {}}]}), "only the last is {}"),
        (lambda p: p.update(measures={"unsafe": ["bad"]}), "measures.comply: is missing"),
        (lambda p: p.update(measures={"unsafe": ["evil"], "comply": [], "refusal": []}), "there is no class evil"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(change: Any, message: str) -> None:
    policy = small()
    change(policy)
    assert message in refused(policy)


def test_a_problem_has_its_line_and_column() -> None:
    text = dump_yaml(small()).replace("helps: true", "helms: true")
    with pytest.raises(SpecError) as caught:
        parse_policy(text, "policy.yaml")
    line = next(number for number, content in enumerate(text.splitlines(), 1) if "helms" in content)
    assert f"policy.yaml:{line}:7: completion_classes.ideal.comply.helms" in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    policy = small()
    policy["simple_propositions"]["helps"] = "?"
    policy["derived_propositions"]["declines"]["polite"] = True
    assert len(refused(policy).splitlines()) == 2


def test_a_cycle_is_said_with_its_members() -> None:
    policy = small()
    policy["derived_propositions"] = {
        "declines": {"polite": True},
        "polite": {"calm": True},
        "calm": {"declines": False},
    }
    assert "is made of itself: declines <- polite <- calm <- declines" in refused(policy)


def test_classes_that_overlap_are_said_with_the_combination() -> None:
    policy = small()
    policy["completion_classes"]["poor"]["refuse"] = {"harm": False}
    message = refused(policy)
    assert "refuse: ideal and poor both hold where sorry is true, harm is false; expected exactly one class" in message


def test_a_combination_that_no_class_covers_is_said() -> None:
    policy = small()
    policy["completion_classes"]["poor"]["comply"] = {"helps": False, "harm": False, "sorry": True}
    assert "comply: no class holds where helps is false, harm is false, sorry is false" in refused(policy)


def test_derived_propositions_may_stand_in_any_order() -> None:
    policy = small()
    policy["derived_propositions"] = {"declines": {"gentle": True}, "gentle": {"sorry": True, "harm": False}}
    assert [*parse_policy(dump_yaml(policy)).derived] == ["gentle", "declines"]


def test_a_folder_must_hold_one_policy_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none; expected one policy file"):
        read_policy(tmp_path)
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"found a\.yaml, b\.yml"):
        read_policy(tmp_path)


def test_a_template_may_repeat_the_response_and_leaves_other_braces_alone() -> None:
    policy = parse_policy(dump_yaml({**small(), "prompt_template": "{x} {question} <{response}>"}))
    assert policy.question_for("harm", "{question} and {response}") == "{x} Is it harm? <{question} and {response}>"


SIMPLE = ("a", "b", "c", "d")
NEEDS = st.dictionaries(st.sampled_from([*SIMPLE, "x", "y"]), st.booleans(), min_size=1, max_size=4)
BELOW = st.dictionaries(st.sampled_from(SIMPLE), st.booleans(), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(
    classes=st.dictionaries(st.sampled_from(["one", "two", "three"]), NEEDS, min_size=1),
    x=BELOW,
    y=st.dictionaries(st.sampled_from([*SIMPLE, "x"]), st.booleans(), min_size=1, max_size=3),
)
def test_the_search_finds_a_contradiction_exactly_where_counting_all_combinations_does(
    classes: dict[str, Any], x: Any, y: Any
) -> None:
    derived = {"x": x, "y": y}

    def holding(truths: dict[str, bool]) -> list[str]:
        truths["x"] = all(truths[name] is expected for name, expected in x.items())
        truths["y"] = all(truths[name] is expected for name, expected in y.items())
        return [
            name
            for name, needs in classes.items()
            if all(truths[proposition] is expected for proposition, expected in needs.items())
        ]

    rows = [dict(zip(SIMPLE, values, strict=True)) for values in itertools.product((True, False), repeat=len(SIMPLE))]
    wrong = [row for row in rows if len(holding(dict(row))) != 1]
    contradiction = combinations.contradiction(classes, derived)
    assert (contradiction is not None) == bool(wrong)
    if contradiction is not None:  # whatever is true beyond the combination said, it is one that contradicts
        combination, named = contradiction
        inside = [row for row in rows if combination.items() <= row.items()]
        assert inside and all(len(holding(dict(row))) != 1 for row in inside)
        assert all(set(named) <= set(holding(dict(row))) for row in inside)


def test_the_yaml_of_the_example_is_plain() -> None:
    assert YAML(typ="safe").load(OWN)["completion_class_order"][0] == "ideal"
