"""The corpus: every bad spec is refused once, at its place, in words; every good one is accepted and survives a dump."""

from __future__ import annotations

import pytest

from corpus.cases import BadSpec, bad_specs, good_specs
from rlhf_api import SpecError, dump_job, load_job, parse_job
from rlhf_api.load import check_document
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
    found = [(problem.path, problem.line, problem.column) for problem in caught.value.problems]
    assert found == [(case.path, case.line, case.column)], str(caught.value)
    (problem,) = caught.value.problems
    assert case.says in problem.render()


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_good_spec_is_accepted_and_reads_back_equal(text: str) -> None:
    job = load_job(text)
    assert load_job(dump_job(job)) == job
