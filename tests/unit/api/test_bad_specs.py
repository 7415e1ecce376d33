"""The corpus: every bad spec is refused once, at its place, in words; every good one is accepted and survives a dump."""

from __future__ import annotations

import pytest

from corpus.cases import BASE, BadSpec, bad_specs, good_specs
from rlhf_api.errors import SpecError
from rlhf_api.load import check_document, dump_job, load_job, parse_job
from rlhf_api.yaml import load_yaml

BAD = bad_specs()
GOOD = good_specs()


def test_the_corpus_is_large() -> None:
    assert len(BAD) >= 150


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_a_bad_spec_is_refused_once_at_its_place(case: BadSpec) -> None:
    with pytest.raises(SpecError) as caught:
        document = load_yaml(case.text)
        try:
            parse_job(document.value)  # what the operator does with the same object; YAML's own matters apart
        except SpecError as error:
            assert [problem.path for problem in error.problems] == [case.path]
        else:
            assert case.id.startswith("yaml-"), "the operator would accept it"
        check_document(document)
    places = [(problem.path, problem.line, problem.column) for problem in caught.value.problems]
    assert places == [(case.path, case.line, case.column)], str(caught.value)
    (problem,) = caught.value.problems
    assert case.says in problem.render()


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_good_spec_is_accepted_and_reads_back_equal(text: str) -> None:
    job = load_job(text)
    assert load_job(dump_job(job)) == job


def job_of(**spec: object) -> dict[str, object]:
    stages = [{"name": "words", "report": {}}]
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "a"},
        "spec": {"stages": stages, **spec},
    }


def problems(value: object) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        parse_job(value)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def test_lists_hold_32_entries_at_most() -> None:
    inputs = [{"name": f"i{index}", "source": "a"} for index in range(33)]
    assert problems(job_of(inputs=inputs)) == [("spec.inputs", "found 33 entries; expected at most 32")]
    stages = [
        {"name": f"s{index}", "sft": {"model": {"input": "i0"}, "data": [{"input": "i1"}]}} for index in range(33)
    ]
    assert problems(job_of(inputs=inputs[:2], stages=stages)) == [
        ("spec.stages", "found 33 entries; expected at most 32")
    ]


def test_a_job_calls_32_functions_at_most() -> None:
    """What prepare tells of them must fit a termination message."""
    rewards = [{"function": f"judges:f{index}"} for index in range(32)]
    ppo = {"policy": {"input": "i"}, "rewards": rewards, "prompts": [{"input": "i"}]}
    stages = [{"name": "a", "ppo": ppo}, {"name": "b", "ppo": {**ppo, "rewards": [{"function": "judges:more"}]}}]
    inputs = [{"name": "i", "source": "a"}]
    assert problems(job_of(inputs=inputs, stages=stages)) == [
        ("spec.stages[1].ppo.rewards[0].function", "is function 33 of the job; expected at most 32 different ones")
    ]
    del rewards[0]
    parse_job(job_of(inputs=inputs, stages=stages))


def test_a_stage_that_is_gone_is_missed_by_all_that_took_from_it() -> None:
    """Judges of an evaluation follow from stages that need not be there."""
    value = load_yaml(BASE).value
    value["spec"]["stages"] = [stage for stage in value["spec"]["stages"] if stage["name"] != "reward"]
    assert problems(value) == [
        ("spec.stages[2].ppo.critics.model.stage", "there is no stage reward"),
        ("spec.stages[2].ppo.rewards[0].stage", "there is no stage reward"),
    ]
