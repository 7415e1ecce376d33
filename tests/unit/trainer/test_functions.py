"""User functions: found beside the job or installed, their source digested, their results checked."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rlhf_trainer.exits import InputError
from rlhf_trainer.functions import UserFunction, load, probe, source_digest

PROMPTS = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
ANSWERS = ["one two", ""]


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job's folder; what is imported from it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


WORDS = "def words(prompts, responses):\n    return [len(r.split()) for r in responses]\n"


def test_a_module_beside_the_job_is_called_with_messages_and_strings(job):
    write(
        job,
        "judge_a.py",
        "def score(prompts, responses):\n    return [len(p[0]['content']) + len(r) for p, r in zip(prompts, responses)]\n",
    )
    assert load("judge_a:score", job)(PROMPTS, ANSWERS) == [8.0, 1.0]


def test_a_module_of_a_package_beside_the_job(job):
    write(job, "judges_b/__init__.py", "")
    write(
        job,
        "judges_b/words.py",
        "from judges_b.helper import count\n\ndef words(prompts, responses):\n    return [count(r) for r in responses]\n",
    )
    write(job, "judges_b/helper.py", "def count(text):\n    return len(text.split())\n")
    assert load("judges_b.words:words", job)(PROMPTS, ANSWERS) == [2.0, 0.0]


def test_an_installed_module(job, tmp_path, monkeypatch):
    write(tmp_path / "site", "installed_judge.py", WORDS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert load("installed_judge:words", None)(PROMPTS, ANSWERS) == [2.0, 0.0]


@pytest.mark.parametrize("scores", [[1, 2.5], (1, 2.5), np.array([1.0, 2.5]), [np.float32(1), np.float64(2.5)]])
def test_numbers_of_any_kind_are_taken(scores):
    assert UserFunction("m:f", lambda *_: scores)(PROMPTS, ANSWERS) == [1.0, 2.5]


def test_a_function_cannot_change_what_it_was_given():
    def spoil(prompts, responses):
        prompts.clear()
        responses[0] = "other"
        return [1, 2]

    prompts, answers = list(PROMPTS), list(ANSWERS)
    UserFunction("m:f", spoil)(prompts, answers)
    assert (prompts, answers) == (PROMPTS, ANSWERS)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "returned 1 scores for 2 answers, expected one an answer"),
        ([1.0, float("nan")], "returned nan for answer 1, expected a finite number"),
        ([float("inf"), 1.0], "returned inf for answer 0"),
        ([1.0, None], "returned None for answer 1"),
        (["1", "2"], "returned '1' for answer 0"),
        (None, "returned NoneType, expected a list of 2 numbers"),
        ("12", "returned str, expected a list of 2 numbers"),
        (3.0, "returned float, expected a list of 2 numbers"),
        ({"a": 1, "b": 2}, "returned dict"),
    ],
)
def test_wrong_results_are_named(scores, message):
    with pytest.raises(InputError, match=message) as caught:
        UserFunction("m:f", lambda *_: scores)(PROMPTS, ANSWERS)
    assert str(caught.value).startswith("function m:f: ")
    assert caught.value.code == 2


def test_an_exception_is_named_with_its_line(job):
    write(job, "judge_c.py", "def score(prompts, responses):\n    return [1 / len(r) for r in responses]\n")
    function = load("judge_c:score", job)
    with pytest.raises(InputError, match=r"function judge_c:score: raised ZeroDivisionError: .* \(judge_c.py:2\)"):
        probe(function)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("judge_d:none", WORDS, "judge_d has no function 'none'; it has words"),
        ("judge_e:value", "value = 3\n", "has no function 'value'"),
        ("judge_f:one", "def one(prompts):\n    return []\n", r"cannot be called as function\(prompts, responses\)"),
        ("judge_g:words", "import not_installed_anywhere\n" + WORDS, "ModuleNotFoundError: .*not_installed_anywhere"),
        ("judge_h:words", "def words(:\n", r"SyntaxError: .*judge_h.py, line 1"),
        ("judge_i:words", "raise ValueError('no')\n", r"ValueError: no \(judge_i.py:1\)"),
    ],
)
def test_what_cannot_be_loaded_is_named(job, name, source, message):
    write(job, f"{name.partition(':')[0]}.py", source)
    with pytest.raises(InputError, match=message):
        load(name, job)


def test_a_module_that_is_nowhere_says_where_it_may_be(job):
    with pytest.raises(
        InputError, match=r"no module 'nowhere'; expected nowhere.py beside the job file, or an installed"
    ):
        load("nowhere:f", job)


def test_a_file_with_the_name_of_an_installed_module_is_refused(job):
    write(job, "colorsys.py", WORDS)
    with pytest.raises(InputError, match="is hidden by another module of that name"):
        load("colorsys:words", job)


class TestSourceDigest:
    def test_follows_the_modules_source(self, job):
        write(job, "judge_j.py", WORDS)
        before = source_digest("judge_j:words", job)
        assert source_digest("judge_j:words", job) == before
        write(job, "judge_j.py", WORDS + "# changed\n")
        assert source_digest("judge_j:words", job) != before

    def test_differs_by_function(self, job):
        write(job, "judge_j.py", WORDS + "more = words\n")
        assert source_digest("judge_j:words", job) != source_digest("judge_j:more", job)

    @pytest.mark.parametrize(
        "line", ["import helper_k", "from helper_k import x", "def f():\n    import helper_k", "from pack_k import mod"]
    )
    def test_follows_what_the_module_imports_from_beside_it(self, job, line):
        write(job, "judge_k.py", f"{line}\n{WORDS}")
        write(job, "helper_k.py", "x = 1\n")
        write(job, "pack_k/__init__.py", "")
        write(job, "pack_k/mod.py", "from .deep import y\n")
        write(job, "pack_k/deep.py", "y = 1\n")
        before = source_digest("judge_k:words", job)
        write(job, "helper_k.py", "x = 2\n")
        write(job, "pack_k/deep.py", "y = 2\n")
        assert source_digest("judge_k:words", job) != before

    def test_not_of_what_lies_beside_it_unused(self, job):
        write(job, "judge_l.py", WORDS)
        before = source_digest("judge_l:words", job)
        write(job, "other.py", "x = 1\n")
        assert source_digest("judge_l:words", job) == before

    def test_runs_nothing(self, job):
        write(job, "judge_m.py", "raise RuntimeError\n")
        assert len(source_digest("judge_m:words", job)) == 40

    def test_is_the_same_in_another_folder(self, job):
        write(job / "a", "judge_n.py", WORDS)
        write(job / "b", "judge_n.py", WORDS)
        assert source_digest("judge_n:words", job / "a") == source_digest("judge_n:words", job / "b")
