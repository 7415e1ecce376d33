"""The grader: what it says against the model's own softmax, and that sharing a conversation's start changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from tiny import WORDS, tiny_policy

from fakes.policies import DATA, public, small
from rlhf_api.yaml import dump_yaml
from rlhf_trainer.data.chat import encode_prompt
from rlhf_trainer.data.rows import Messages
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.generation.cache import right_aligned
from rlhf_trainer.generation.prefix import PrefixCache
from rlhf_trainer.rules.grader import Asking, Grader, Question, answer_tokens
from rlhf_trainer.rules.parser import parse_policy, read_policy
from rlhf_trainer.rules.policy import Policy

ASKING = Asking(("yes", " yes", " up"), ("no", " no", " zebra"), 2048)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("grader") / "model", seed=2, layers=3, positions=8192)


def grader(model: Path, policy: Policy | None = None, asking: Asking = ASKING) -> Grader:
    rules = policy or parse_policy(dump_yaml(small()))
    return Grader(model, rules, asking, dtype="float32", device=CPU, cache=None)


def says(text: str) -> Messages:
    return ({"role": "user", "content": text},)


QUESTIONS = [
    Question(says("how are you"), "I am well", ("helps", "harm", "sorry")),
    Question(says("a fire"), "", ("harm", "sorry")),
    Question(
        (
            {"role": "system", "content": "be good"},
            *says("can I run"),
            {"role": "assistant", "content": "yes"},
            *says("and <|im_end|> now"),
        ),
        "call the doctor please " * 9,
        ("sorry", "helps", "harm"),
    ),
    Question(says("x"), "y", ("harm",)),
    Question(says("nothing is asked of this one"), "z", ()),
]


def test_phi_is_yes_over_yes_and_no_of_the_models_own_softmax(model: Path) -> None:
    loaded_grader = grader(model)
    policy, tokenizer = parse_policy(dump_yaml(small())), loaded_grader.tokenizer
    yes, no = answer_tokens(tokenizer, ASKING)
    assert (yes, no) == ([tokenizer.convert_tokens_to_ids("Ġyes")], [tokenizer.convert_tokens_to_ids("Ġno")])
    for question, grade in zip(QUESTIONS, loaded_grader.grade(QUESTIONS), strict=True):
        masses = []
        for name in question.propositions:
            answer_turn = {"role": "assistant", "content": question.answer}
            question_turn = {"role": "user", "content": policy.question_for(name, question.answer)}
            ids = torch.tensor([encode_prompt(tokenizer, [*question.prompt, answer_turn, question_turn])])
            chances = loaded_grader.model(input_ids=ids).logits[0, -1].double().softmax(-1)
            expected = chances[yes].sum() / (chances[yes].sum() + chances[no].sum())
            assert grade.probabilities[name] == pytest.approx(float(expected), abs=1e-5)
            masses.append(float(chances[yes].sum() + chances[no].sum()))
        assert grade.answered == pytest.approx(sum(masses) / max(1, len(masses)), abs=1e-6)
        assert [*grade.probabilities] == [*question.propositions]


def test_sharing_the_start_of_a_conversation_changes_nothing_but_the_work(model: Path) -> None:
    loaded_grader = grader(model)
    for shared, apart in zip(loaded_grader.grade(QUESTIONS), loaded_grader.grade(QUESTIONS, apart=True), strict=True):
        assert shared.probabilities == pytest.approx(apart.probabilities, abs=1e-5)
        assert shared.answered == pytest.approx(apart.answered, abs=1e-6)


def test_a_grade_does_not_depend_on_what_is_graded_beside_it_beyond_rounding(model: Path) -> None:
    loaded_grader = grader(model)
    together = loaded_grader.grade(QUESTIONS)
    for question, grade in zip(QUESTIONS, together, strict=True):
        assert loaded_grader.grade([question])[0].probabilities == pytest.approx(grade.probabilities, abs=1e-5)


def test_of_a_long_conversation_the_start_is_cut_and_counted(model: Path) -> None:
    long = Question(says("please " * 60), "I am well", ("helps", "harm"))
    loaded_grader = grader(model, asking=replace(ASKING, max_tokens=80))
    grade = loaded_grader.grade([long])[0]
    assert grade.cut > 0
    policy = parse_policy(dump_yaml(small()))
    rows = {}
    for name in long.propositions:
        question_turn = {"role": "user", "content": policy.question_for(name, long.answer)}
        answer_turn = {"role": "assistant", "content": long.answer}
        rows[name] = encode_prompt(loaded_grader.tokenizer, [*long.prompt, answer_turn, question_turn])[grade.cut :]
    assert max(map(len, rows.values())) == 80
    yes, no = answer_tokens(loaded_grader.tokenizer, ASKING)
    for name, ids in rows.items():
        chances = loaded_grader.model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        assert grade.probabilities[name] == pytest.approx(
            float(chances[yes[0]] / (chances[yes[0]] + chances[no[0]])), abs=1e-5
        )


def test_a_question_longer_than_the_grader_reads_is_refused(model: Path) -> None:
    policy = small()
    policy["simple_propositions"]["harm"] = {"prompt": "Is it so? " * 40}
    with pytest.raises(InputError, match=r"question harm takes \d+ tokens .* maxTokens, 64"):
        grader(model, parse_policy(dump_yaml(policy)), replace(ASKING, max_tokens=64)).grade(QUESTIONS[:1])


def test_a_question_that_repeats_a_long_answer_loses_its_start_and_only_a_rows_is_refused(model: Path) -> None:
    policy = small()
    policy["prompt_template"] = "{question} {response}"
    long = replace(QUESTIONS[0], answer="please " * 90)
    reader = grader(model, parse_policy(dump_yaml(policy)), replace(ASKING, max_tokens=64))
    (grades,) = reader.grade([long])
    assert grades.cut > 0
    assert set(grades.probabilities) == set(long.propositions)
    assert reader.grade([long], apart=True)[0].probabilities == pytest.approx(grades.probabilities, abs=1e-5)
    with pytest.raises(InputError, match=r"takes \d+ tokens .* maxTokens, 64"):
        reader.grade([replace(long, where="rows.jsonl:3")])


def test_a_grade_that_is_no_number_ends_the_stage_and_names_row_and_proposition(model: Path) -> None:
    loaded_grader = grader(model)
    with torch.no_grad():
        loaded_grader.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(
        GuardTripped, match=r"rows.jsonl:3: the grader's answer to helps is not a finite number"
    ) as raised:
        loaded_grader.grade([replace(QUESTIONS[0], where="rows.jsonl:3")])
    assert (raised.value.code, raised.value.reason) == (3, "NaN")
    with pytest.raises(GuardTripped, match="the answer 'I am well'"):
        loaded_grader.grade(QUESTIONS[:1])


def test_a_conversation_that_the_graders_template_refuses_is_wrong_input_and_names_the_row(model: Path) -> None:
    loaded_grader = grader(model)
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    loaded_grader.tokenizer.chat_template = refuse + loaded_grader.tokenizer.chat_template
    with pytest.raises(InputError, match=r"rows.jsonl:3: the chat template .* System role not supported") as raised:
        loaded_grader.grade([replace(QUESTIONS[2], where="rows.jsonl:3")])
    assert raised.value.code == 2


@pytest.mark.parametrize(("refused", "answer"), [("content == ''", ""), ("'well' in content", "I am well")])
def test_an_answer_of_a_policy_that_the_template_refuses_is_graded_as_any_other(
    model: Path, refused: str, answer: str
) -> None:
    loaded_grader, question = grader(model), replace(QUESTIONS[0], answer=answer)
    (expected,) = loaded_grader.grade([question])
    refuse = f"{{% for m in messages %}}{{% set content = m['content'] %}}{{% if {refused} %}}{{{{ raise_exception('No') }}}}"
    loaded_grader.tokenizer.chat_template = refuse + "{% endif %}{% endfor %}" + loaded_grader.tokenizer.chat_template
    assert loaded_grader.grade([question]) == [expected]
    with pytest.raises(InputError, match=r"rows.jsonl:3: the chat template .* No\."):
        loaded_grader.grade([replace(question, where="rows.jsonl:3")])


def test_a_template_that_repeats_the_response_is_graded_too(model: Path) -> None:
    policy = parse_policy(dump_yaml({**small(), "prompt_template": "{question}\nIt was: {response}\nWell?"}))
    loaded_grader = grader(model, policy)
    for shared, apart in zip(loaded_grader.grade(QUESTIONS), loaded_grader.grade(QUESTIONS, apart=True), strict=True):
        assert shared.probabilities == pytest.approx(apart.probabilities, abs=1e-5)


@public
def test_the_public_policys_long_questions_are_graded_alike(model: Path) -> None:
    policy = read_policy(DATA / "rbr_policy.yaml")
    loaded_grader = grader(model, policy, replace(ASKING, max_tokens=8192))
    question = [Question(says("a fire"), "please", policy.graded("comply"))]
    assert loaded_grader.grade(question)[0].probabilities == pytest.approx(
        loaded_grader.grade(question, apart=True)[0].probabilities, abs=1e-5
    )


def test_words_count_only_where_their_opposite_is_a_single_token_too(model: Path) -> None:
    tokenizer = grader(model).tokenizer
    assert "up" in WORDS and "zebra" not in WORDS
    words = Asking((" up", " yes"), (" zebra", " no"), 64)
    assert answer_tokens(tokenizer, words) == answer_tokens(tokenizer, ASKING)


def test_a_tokenizer_without_single_tokens_for_the_answers_is_refused_with_what_they_become(model: Path) -> None:
    words = Asking((" affirmative", "yes"), (" negative", "no"), 64)
    with pytest.raises(
        InputError, match=r"no single token for yes and no: ' affirmative' \[.*set yesWords and noWords"
    ):
        grader(model, asking=words)


def test_one_token_may_not_mean_both(model: Path) -> None:
    with pytest.raises(InputError, match="no single token for yes and no"):
        grader(model, asking=Asking((" yes",), (" yes",), 64))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_continuations_of_kept_beginnings_are_as_whole_rows(name: str) -> None:
    model = family(name)
    draw = torch.Generator().manual_seed(0)
    starts = [torch.randint(3, 61, (size,), generator=draw).tolist() for size in (9, 6, 2)]
    rests = [(0, [5, 9, 11]), (2, [7]), (1, [4, 4, 8, 12, 20]), (2, [7, 30, 3]), (0, [60])]
    cache = PrefixCache(4)
    ids, mask = right_aligned(starts, 0, CPU)
    base: Any = model.model
    base(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), past_key_values=cache)
    for _ in range(2):  # continuations leave nothing behind
        cache.rows = torch.tensor([start for start, _ in rests])
        width = max(len(rest) for _, rest in rests)
        more = torch.tensor([rest + [0] * (width - len(rest)) for _, rest in rests])
        rest_mask = torch.tensor([[1] * len(rest) + [0] * (width - len(rest)) for _, rest in rests])
        places = mask.sum(-1)[cache.rows, None] + torch.arange(width)
        both = torch.cat((mask[cache.rows], rest_mask), 1)
        continued = base(
            input_ids=more, attention_mask=both, position_ids=places, past_key_values=cache
        ).last_hidden_state
        for row, (start, rest) in enumerate(rests):
            uncached = base(input_ids=torch.tensor([starts[start] + rest]), use_cache=False).last_hidden_state
            torch.testing.assert_close(
                continued[row, : len(rest)], uncached[0, len(starts[start]) :], atol=1e-5, rtol=1e-4
            )
