"""What a job fixes of a chat template: variables, the date, where system texts go; products carry it on."""

from __future__ import annotations

import pytest
import tiny
from pydantic import ValidationError

from rlhf_api.load import parse_job
from rlhf_api.template import Template
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
from rlhf_trainer.data.scored import scored_template
from rlhf_trainer.inspection.lineage import template_notes

USER = {"role": "user", "content": "how are you"}
CLOCK = "{{ strftime_now('%d %b %Y, %H:%M:%S, %-d %B') }}\n"


def prepared(before="", **fixed):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = before + tokenizer.chat_template
    notes = prepare_tokenizer(tokenizer, Template.model_validate(fixed) if fixed else None)
    return tokenizer, notes


def written(tokenizer, *messages):
    return tokenizer.decode(encode_prompt(tokenizer, list(messages)))


def test_a_template_that_reads_the_clock_is_given_the_jobs_date():
    tokenizer, notes = prepared(CLOCK, date="2025-03-09")
    assert written(tokenizer, USER).startswith("09 Mar 2025, 00:00:00, 9 March\n")
    assert notes == []


def test_without_a_date_it_is_the_same_every_day_and_that_is_noted():
    tokenizer, notes = prepared(CLOCK)
    assert written(tokenizer, USER).startswith("01 Jan 2026, 00:00:00, 1 January\n")
    assert "2026-01-01" in notes[0]


def test_what_was_fixed_stays_in_a_product(tmp_path):
    from transformers import AutoTokenizer

    tokenizer, _ = prepared(CLOCK, date="2025-03-09", systemRole="fold")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert prepare_tokenizer(loaded) == []
    assert loaded.chat_template == tokenizer.chat_template
    assert written(loaded, USER) == written(tokenizer, USER)


def test_variables_reach_the_template():
    tokenizer, _ = prepared(
        "{% if not think %}{{ style }}{{ depth }}\n{% endif %}",
        variables={"think": "false", "style": 'it\'s {{ "so" }} {% x %}', "depth": "3"},
    )
    assert written(tokenizer, USER).startswith('it\'s {{ "so" }} {% x %}3\n')


def test_a_systems_text_is_folded_into_the_users_turn():
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer, _ = prepared(refuses, systemRole="fold")
    text = written(tokenizer, {"role": "system", "content": "be brief"}, USER)
    assert text.startswith("<|im_start|>user\nbe brief\n\nhow are you<|im_end|>")


@pytest.mark.parametrize(
    "fixed",
    [{"date": "2026-02-30"}, {"variables": {"messages": "1"}}, {"variables": {"a b": "1"}}, {"variables": {"a": [1]}}],
)
def test_what_cannot_be_fixed_is_refused(fixed):
    with pytest.raises(ValidationError):
        Template.model_validate(fixed)


SWITCH = "{% if think is defined %}{{ think }}\n{% endif %}"


@pytest.mark.parametrize(
    ("policy", "judge", "differs"),
    [({}, {}, False), ({"think": "1"}, {"think": "1"}, False), ({"think": "1"}, {}, True), ({}, {"think": "0"}, True)],
)
def test_a_judge_is_compared_with_what_the_job_fixes_of_both_templates(policy, judge, differs):
    tokenizers = {
        name: prepared(SWITCH, **({"variables": values} if values else {}))[0]
        for name, values in (("base", policy), ("judge", judge))
    }
    assert bool(list(template_notes(judged(), tokenizers.__getitem__))) == differs
    tokenizers["judge"].chat_template = scored_template(tokenizers["judge"])  # as the product of a stage has it
    assert bool(list(template_notes(judged(), tokenizers.__getitem__))) == differs


def judged():
    ppo = {"policy": {"input": "base"}, "rewards": [{"input": "judge"}], "prompts": [{"input": "rows"}]}
    inputs = [{"name": name, "source": name} for name in ("base", "judge", "rows")]
    return parse_job(
        {
            "apiVersion": "rlhf.dev/v1alpha1",
            "kind": "RLHFJob",
            "metadata": {"name": "test"},
            "spec": {"inputs": inputs, "stages": [{"name": "ppo", "ppo": ppo}]},
        }
    )
