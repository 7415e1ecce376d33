"""Damaged and hostile chat templates: used, or refused in words that name the template; no traceback, never slow."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fuzz.damage import ODD, bounded, corrupt
from rlhf_trainer.data.chat import encode_conversation, prepare_tokenizer
from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.trial import try_templates
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.files import load_tokenizer
from trainer import tiny

SEEDS, EACH = range(10), 100
SMALL = 4000
"""Characters of the vendors' templates that are damaged: longer ones take long to compile."""
DIALOGUE: list[Message] = [
    *({"role": "user", "content": "how are you"}, {"role": "assistant", "content": "I am good"}),
    *({"role": "user", "content": "why"}, {"role": "assistant", "content": "yes"}),
]
COSTLY = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "{{ (10**10)**(10**7) }}",
    "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ 'a' * 10**10 }}",
    "{{ 'a' | center(8000000000) }}",
    "{{ '{:>9000000000}'.format('a') }}",
    "{{ '%9000000000d' % 1 }}",
    "{{ messages * 10**9 }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ lipsum(n=5000) }}",
)
"""Each takes a second of the processor, or is refused memory: a few of each are enough."""
HOSTILE = (
    *("{{ range(10**9) | list }}", "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__.os.popen('id') }}"),
    *("{{ messages | attr('__class__') }}", "{{ lipsum.__globals__ }}", "{{ '{0.__class__}'.format(messages) }}"),
    *("{{ 1 / 0 }}", "{{ 2.0**5000 }}", "{{ ('9' * 5000) | int }}", "{{ x | unknown }}", "{{ x is unknown }}"),
    *("{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}", "{{ messages[99].content }}"),
    *("{% include '/etc/passwd' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% set messages = 1 %}"),
    *("{{ raise_exception('\x1b[31m\x07 no') }}", "{{ raise_exception(messages) }}", "{{ raise_exception() }}"),
    *("{{ strftime_now(1) }}", "{{ strftime_now('%Q\ud800') }}", "{{ namespace(__class__=1) }}", "{{ self }}"),
    *("{{ messages | map('x') | list }}", "{{ messages | sum }}", "{{ messages | join(1) }}", "{{ eos_token() }}"),
    *("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "{% break %}", "{{ caller() }}"),
    *(
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% if 1 %}" * 300,
        "{{ " + "[" * 5000,
        "{{ a" + ".b" * 3000 + " }}",
    ),
    *(
        "{{ " + "not " * 3000 + "1 }}",
        "{{ " + "1+" * 3000 + "1 }}",
        "{{",
        "{%",
        "{#",
        "\x00",
        "‮",
        "{{ '\ue0000\ue001' }}",
    ),
    *(
        "{% generation %}",
        "{% endfor %}",
        "{{ bos_token * -1 }}",
        "{{ messages[::0] }}",
        "{{ {[]: 1} }}",
        "{{ tools.x }}",
    ),
)
PIECES = (
    "{{",
    "}}",
    "{%",
    "%}",
    " for ",
    " in ",
    "messages",
    "['role']",
    "|",
    "~",
    "**",
    "(",
    ")",
    "[",
    "]",
    "endif ",
    "'",
)


def vendors() -> list[str]:
    """Chat templates of current vendors, and the test models' own."""
    folder = Path(str((find_spec("trl").submodule_search_locations or [""])[0])) / "chat_templates"  # type: ignore[union-attr]
    texts = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja")))
    return [tiny.TEMPLATE, *(text for text in texts if len(text) <= SMALL)]


def damaged(templates: list[str], draw: random.Random) -> str:
    """A template with one to three hostile or broken pieces."""
    text = draw.choice((tiny.TEMPLATE, draw.choice(templates)))
    for _ in range(draw.randint(1, 3)):
        at, kind = draw.randrange(len(text) + 1), draw.random()
        if kind < 0.3:
            text = corrupt(text.encode(errors="replace"), draw).decode(errors="replace")
        elif kind < 0.6:
            text = text[:at] + draw.choice(PIECES) + text[at:]
        else:
            text = text[:at] + draw.choice(HOSTILE) + text[at:]
    return text


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_templates_are_used_or_refused(seed: int) -> None:
    draw, vendor_templates = random.Random(seed), vendors()
    templates = [damaged(vendor_templates, draw) for _ in range(EACH - 2)]
    templates += [text + tiny.TEMPLATE for text in (*HOSTILE, *COSTLY)[seed :: len(SEEDS)]]
    tokenizer: Any = tiny.tiny_tokenizer()
    end, pad = tokenizer.eos_token, tokenizer.pad_token
    try_templates(templates, tokenizer.special_tokens_map)  # as prepare_tokenizer does, in few processes
    for template in templates:
        tokenizer.chat_template, tokenizer.eos_token, tokenizer.pad_token = template, end, pad
        try:
            with bounded():
                prepare_tokenizer(tokenizer)
                encode_conversation(tokenizer, DIALOGUE, 999)
        except InputError as problem:
            assert "template" in str(problem) or "prompt" in str(problem), template
            assert str(problem).isprintable(), template
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {template!r}") from error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def test_damaged_files_of_templates_are_used_or_refused(folder: Path) -> None:
    draw = random.Random(0)
    path, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    contents = [corrupt(tiny.TEMPLATE.encode(), draw) for _ in range(40)]
    for content in (*contents, *ODD):
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            config.write_text(json.dumps(settings | {"chat_template": content}))
        try:
            tokenizer = load_tokenizer(folder)
            prepare_tokenizer(tokenizer)
            encode_conversation(tokenizer, DIALOGUE, 999)
        except InputError as problem:
            assert str(folder) in str(problem) or "template" in str(problem)
