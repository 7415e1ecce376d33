"""What a job fixes of a chat template, as Jinja before it: variables, the date it reads, where system texts go.

It stands in the tokenizer's own template, so that every rendering has it, products carry it on, and plain transformers
renders what was trained.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

from rlhf_api.template import DATE, Template
from rlhf_trainer.exits import InputError

START, END = "{#- rlhf: fixed by the job -#}", "{#- rlhf: end -#}"
DIRECTIVES = "aAbBdHIjmMpSUwWxXyYGuVcDFTRehn"
"""What of strftime a date is written with."""
FOLD = (
    "{%- if messages and messages[0]['role'] == 'system' -%}{%- if messages[1:] and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\n\n' + messages[1]['content']}]"
    " + messages[2:] -%}{%- else -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content']}] + messages[1:] -%}"
    "{%- endif -%}{%- endif -%}"
)


def fix_template(tokenizer: Any, template: Template | None) -> list[str]:
    """Put what the job fixes before the tokenizer's template, or before each of its templates. In place.

    A product's template has what was fixed when it was made; without a `template` of the job's it stays so.

    Returns:
        What was fixed though the job does not say it, in sentences.

    Raises:
        InputError: a template is no text.
    """
    templates = tokenizer.chat_template
    named = templates if isinstance(templates, dict) else {"": templates}
    for text in named.values():
        if not isinstance(text, str):
            raise InputError(
                f"the chat template is no text (found {type(text).__name__}); look at tokenizer_config.json"
            )
    fixed = {name: _fixed(text, template or Template()) for name, text in named.items()}
    if fixed == named:
        return []
    tokenizer.chat_template = fixed if isinstance(templates, dict) else fixed[""]
    if (template is None or template.date is None) and any("strftime_now" in text for text in named.values()):
        return [f"the chat template reads the clock; it is given {DATE} everywhere (inputs[].template.date)"]
    return []


def _fixed(text: str, template: Template) -> str:
    if START in text:
        return text
    lines = [f"{{%- set {name} = {_value(value)} -%}}" for name, value in sorted(template.variables.items())]
    if "strftime_now" in text:
        lines.append(_clock(datetime.date.fromisoformat(template.date or DATE)))
    if template.system_role == "fold":
        lines.append(FOLD)
    return START + "".join(lines) + END + text if lines else text


def _value(text: str) -> str:
    """A variable as Jinja writes it: true, false and whole numbers as such."""
    return text if re.fullmatch(r"true|false|-?[0-9]{1,18}", text) else _literal(text)


def _literal(value: str) -> str:
    """A text as Jinja writes it: as JSON, which it reads alike but for markup within strings."""
    return json.dumps(value).replace("{", "\\u007b").replace("}", "\\u007d").replace("%", "\\u0025")


def _clock(date: datetime.date) -> str:
    """`strftime_now` of midnight of a date, whatever format a template asks for."""
    midnight = datetime.datetime.combine(date, datetime.time())
    values = {f"%{letter}": midnight.strftime(f"%{letter}") for letter in DIRECTIVES}
    values |= {f"%-{letter}": str(int(midnight.strftime(f"%{letter}"))) for letter in "dHImMSjy"}
    replaced = "".join(f" | replace({json.dumps(name)}, {_literal(value)})" for name, value in values.items())
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}"
