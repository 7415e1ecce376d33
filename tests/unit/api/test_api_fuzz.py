"""Random edits of valid jobs: refused in words or accepted, never a crash; what is accepted survives a dump."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.cases import BASE, MARK, good_specs
from rlhf_api.errors import SpecError
from rlhf_api.job import RLHFJob
from rlhf_api.load import check_document, dump_job, job_to_dict, load_job, parse_job
from rlhf_api.yaml import dump_yaml, load_yaml

VALUE = load_yaml(BASE).value
QUICK = settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "no", "1e-5", "sft", "ppo", "base", "prepare", "report", "cost", "input", "../x", "a:b"])
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, loc: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path below the root."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inner for path in ((*loc, key), *places(item, (*loc, key)))]


PLACES = places(VALUE)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """The base job with up to three places replaced, removed, doubled or moved."""
    value = copy.deepcopy(VALUE)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES))
        holder = value
        for part in path[:-1]:
            try:
                holder = holder[part]
            except (KeyError, IndexError, TypeError):
                break
        else:
            _edit(draw, holder, path[-1], value)
    return value


def _edit(draw: st.DrawFn, holder: Any, key: str | int, document: Any) -> None:
    if isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        how = draw(st.sampled_from(["replace", "remove", "double", "graft"]))
    elif isinstance(holder, dict) and key in holder:
        how = draw(st.sampled_from(["replace", "remove", "rename", "graft"]))
    else:
        return
    if how == "replace":
        holder[key] = draw(values)
    elif how == "remove":
        del holder[key]
    elif how == "double":
        holder.insert(int(key), copy.deepcopy(holder[int(key)]))
    elif how == "rename":
        holder[draw(st.text(min_size=1, max_size=10))] = holder.pop(key)
    else:
        graft: Any = document
        for part in draw(st.sampled_from(PLACES)):
            graft = graft[part] if isinstance(graft, dict) and part in graft else graft
        holder[key] = copy.deepcopy(graft)


@QUICK
@given(mutated())
def test_a_mutated_job_is_accepted_or_refused_in_words(value: Any) -> None:
    try:
        job = parse_job(value)
    except SpecError as error:
        for problem in error.problems:
            assert problem.message
            assert "rlhf_findings" not in problem.render()
    else:
        assert parse_job(job_to_dict(job)) == job


@settings(QUICK, max_examples=30)
@given(mutated())
def test_text_and_object_get_the_same_verdict(value: Any) -> None:
    """What `rlhf validate` says of a file is what the operator says of the same object."""

    def verdict(read: Any, source: Any) -> set[tuple[str, str]]:
        try:
            read(source)
        except SpecError as error:
            return {(problem.path, problem.message) for problem in error.problems}
        return set()

    document = load_yaml(dump_yaml(value))
    assert verdict(check_document, document) == verdict(parse_job, document.value)


@settings(QUICK, max_examples=60)
@given(st.data())
def test_mangled_text_is_accepted_or_refused_with_a_place(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(BASE)))
    end = min(len(BASE), start + data.draw(st.integers(0, 30)))
    put = data.draw(st.text(st.sampled_from("ab1:-#&*[]{}'\"\n\t ,|>?!%@`é" + MARK), max_size=12))
    try:
        load_job(BASE[:start] + put + BASE[end:])
    except SpecError as error:
        for problem in error.problems:
            assert problem.message and problem.line is not None and problem.column is not None


@settings(QUICK, max_examples=30)
@given(st.sampled_from(sorted(good_specs().values())), st.integers(0, 2**31 - 1), st.booleans(), st.text(max_size=30))
def test_what_is_dumped_reads_back_equal(text: str, seed: int, suspend: bool, note: str) -> None:
    value = load_yaml(text).value
    value["spec"] |= {"seed": seed, "suspend": suspend}
    value["metadata"]["annotations"] = {"note": note}
    job = parse_job(value)
    assert load_job(dump_job(job)) == job
    assert RLHFJob.model_validate(job.model_dump(mode="json", exclude_none=True)) == job


def test_two_mistakes_are_both_told() -> None:
    """One mistake never hides another, be it in YAML, in a field or across stages."""
    text = BASE.replace("seed: 7", "seed: no").replace("clip: 0.2", "clip: -1").replace("{stage: ppo}", "{stage: pppo}")
    text = text.replace("- name: summary", "- name: prepare")
    try:
        load_job(text)
    except SpecError as error:
        assert [problem.path for problem in error.problems] == [
            "spec.seed",
            "spec.stages[3].ppo.clip",
            "spec.stages[4].evaluate.candidates[0].stage",
            "spec.stages[5].name",
        ]
    else:
        raise AssertionError("accepted")
