"""Rows are checked in a child within limits: a template that is slow or large for certain rows is told by row and model."""

from __future__ import annotations

import os
import signal

import pytest
import tiny

from rlhf_sdk.local.guard import descendants
from rlhf_trainer.data import limited
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.data.checks import check_of
from rlhf_trainer.data.limited import Limited
from rlhf_trainer.data.rows import Conversation, Pair, Prompt, Where
from rlhf_trainer.data.template import TemplateProblem
from rlhf_trainer.exits import InputError

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
NESTED = (
    "{% set a = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set a.x = [a.x, a.x] %}"
    "{% set a.y = [a.y, a.y] %}{% endfor %}{{ a.x == a.y }}"
)
"""An endless comparison within the interpreter, which no exception from a signal would end."""
HUGE = "{{ message['content'] * 10**10 }}"
DOUBLED = (
    "{% set n = namespace(x=message['content'] * 10**6) %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
)
SLOW = {"loop": LOOPS, "nest": NESTED}
LARGE = {"huge": HUGE, "double": DOUBLED}


@pytest.fixture(scope="module")
def tokenizer():
    """Its template costs much for messages that name one of the costly programs."""
    tokenizer = tiny.tiny_tokenizer()
    costly = "".join(
        f"{{% if '{word}' in message['content'] %}}{program}{{% endif %}}" for word, program in (SLOW | LARGE).items()
    )
    tokenizer.chat_template = "{% for message in messages %}" + costly + "{% endfor %}" + tiny.TEMPLATE
    prepare_tokenizer(tokenizer)
    return tokenizer


def user_turn(text):
    return ({"role": "user", "content": text},)


def rows_of(text, number=1):
    """A row of each kind that says it."""
    where = Where("rows.jsonl", number)
    answer = {"role": "assistant", "content": text}
    return [
        Prompt(user_turn(text), None, where),
        Conversation((*user_turn("a"), answer), where),
        Pair(user_turn("a"), "b", text, where),
    ]


@pytest.fixture
def check(tokenizer, monkeypatch):
    monkeypatch.setattr(limited, "ROW", 0.3)
    with Limited(check_of(tokenizer), "base") as check:
        yield check


@pytest.mark.parametrize("word", SLOW)
def test_a_row_that_takes_too_long_is_refused_and_the_next_is_checked(check, word):
    for row in rows_of("fine"):
        check(row)
    slow = rows_of(word)[0 if word == "loop" else 2]
    with pytest.raises(
        TemplateProblem, match=r"takes more than 0\.[34]5? s of the processor to write it \(model: base\)"
    ):
        check(slow)
    check(rows_of("fine")[0])


@pytest.mark.parametrize("word", LARGE)
def test_a_row_that_takes_too_much_memory_is_refused_and_the_next_is_checked(check, word, monkeypatch):
    monkeypatch.setattr(limited, "ROW", 600.0)  # filling memory takes its time on a busy machine
    monkeypatch.setattr(limited, "MEMORY", 64 << 20)  # set before the first row begins the child
    for row in rows_of(word):
        with pytest.raises(TemplateProblem, match=r"takes too much memory to write .*\(model: base\)"):
            check(row)
    check(rows_of("fine")[0])


def test_all_rows_together_may_not_take_for_ever(tokenizer, monkeypatch):
    monkeypatch.setattr(limited, "ROW", 0.2)
    monkeypatch.setattr(limited, "ALL", 0.3)
    with Limited(check_of(tokenizer), "base") as check:
        with pytest.raises(TemplateProblem):
            check(rows_of("loop", number=7)[0])
        with pytest.raises(InputError, match=r"base takes too long: .* for 2 rows, .* for rows.jsonl:[78] alone"):
            check(rows_of("loop", number=8)[0])


def test_one_process_checks_all_rows_and_none_is_left(tokenizer, monkeypatch):
    before = descendants(os.getpid())
    children = []
    start = Limited._start
    monkeypatch.setattr(Limited, "_start", lambda self: children.append(start(self)) or children[-1])
    with Limited(check_of(tokenizer), "base") as first, Limited(check_of(tokenizer), "judge") as second:
        for number in range(50):
            for row in rows_of("fine", number):
                first(row)
                second(row)
    assert len(children) == 2
    assert descendants(os.getpid()) <= before


def test_a_check_that_breaks_is_told_as_such():
    def broken(row):
        if row.category == "ends":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError(row.category)

    with Limited(broken, "base") as check:
        with pytest.raises(TemplateProblem, match=r"cannot be written: KeyError: 'odd' \(model: base\)"):
            check(Prompt(user_turn("a"), "odd", Where("rows.jsonl", 1)))
        with pytest.raises(TemplateProblem, match=r"ended the process that wrote it \(exit code -9\)"):
            check(Prompt(user_turn("a"), "ends", Where("rows.jsonl", 2)))
