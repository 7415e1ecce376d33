"""Chat templates are tried in a child process before use: what would not come back is refused in words."""

from __future__ import annotations

import os

import pytest
import tiny

from rlhf_sdk.local.guard import descendants
from rlhf_trainer.data import trial
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.data.template import TemplateProblem

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
"""They write nothing: a fast machine would pass the bound on memory before that on time."""
DOUBLED = "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
COSTLY = {
    LOOPS: "takes more than 1 s",
    "{{ (10**10)**(10**7) }}": "takes more than 1 s",
    "{{ 'a' * 10**10 }}": "takes too much memory",
    DOUBLED: "takes too much memory",
    "{% if messages[0]['content'] == 'odd' %}{{ 'a' * 10**10 }}{% endif %}": "takes too much memory",
    "{% if messages[0]['content'] == 'odd' %}{% set a = ('a' * 10**10) | length %}{% endif %}": "takes too much memory",
    "{{ 'a' * 10**6 }}": "writes 1,000,000 characters",
    "{% if tools %}" + LOOPS + "{% endif %}": "takes more than 1 s",
    "{% if bos_token == '<|im_start|>' %}" + LOOPS + "{% endif %}": "takes more than 1 s",
}


def prepared(template):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = template
    prepare_tokenizer(tokenizer)
    return tokenizer


def test_what_would_not_come_back_is_refused_and_leaves_no_process():
    before = descendants(os.getpid())
    for template, words in COSTLY.items():
        with pytest.raises(TemplateProblem, match=f"the chat template {words}"):
            prepared(template)
        with pytest.raises(TemplateProblem, match=words):
            prepared({"default": tiny.TEMPLATE, "tool_use": template})
    assert descendants(os.getpid()) <= before


def test_a_child_goes_on_behind_a_template_that_ended_one(monkeypatch):
    monkeypatch.setattr(trial, "_tried", {})
    templates = ["fine", LOOPS, "{{ 1 / 0 }}", "{{ 'a' * 10**10 }}", "{{ messages.__class__ }}"]
    trial.try_templates(templates, {})
    assert [template for template in templates if trial._tried[template] is not None] == [LOOPS, templates[3]]


def test_it_knows_what_transformers_templates_may_use():
    """What ends here before its costly part would not be seen to be costly."""
    transformers_syntax = (
        "{% generation %}a{% endgeneration %}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% break %}{% endfor %}{{ messages | tojson(indent=2, ensure_ascii=True) }}{{ strftime_now('%d') }}"
        "{% set n = namespace(a=1) %}{{ dict(a=1) }}"
    )
    assert prepared(tiny.TEMPLATE + transformers_syntax)
    with pytest.raises(TemplateProblem, match="takes more than 1 s"):
        prepared(transformers_syntax + LOOPS)
