"""Chat templates tried before use: a template is somebody else's program, and may never end or take all memory.

A child process renders short dialogues within a second of the processor and half a GiB. It imports Jinja alone, sandboxed
as transformers does it, so that it costs a tenth of a second; templates that were tried are not tried again. What a
template refuses or raises is found where it is rendered in earnest; here only what would not come back is.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SECONDS = 1.0
"""Of the processor, for all renderings of a template."""
MEMORY = 512 << 20
"""Bytes of address space of the child."""
LONGEST = 200_000
"""Characters that a template may write of a dialogue of a few words."""

USER: dict[str, Any] = {"role": "user", "content": "How are you?"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Well."}
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}
DIALOGUES: list[dict[str, Any]] = [
    *({"messages": messages, "tools": None} for messages in ([USER], [USER, ANSWER], [SYSTEM, USER, ANSWER, USER])),
    {"messages": [USER], "tools": [TOOL]},
]

_tried: dict[str, str | None] = {}


def problem_of(template: str, variables: Mapping[str, Any]) -> str | None:
    """Why a template cannot be used, in words; None: it comes back, whatever it writes.

    Args:
        template: Jinja.
        variables: the tokenizer's special tokens by name.
    """
    if template not in _tried:
        try_templates([template], variables)
    return _tried[template]


def try_templates(templates: Iterable[str], variables: Mapping[str, Any]) -> None:
    """Try many with few children: one renders until a template ends it."""
    waiting = [template for template in dict.fromkeys(templates) if template not in _tried]
    while waiting:
        done = _child(waiting, variables)
        _tried.update(zip(waiting, done, strict=False))
        waiting = waiting[len(done) :]


def _child(templates: list[str], variables: Mapping[str, Any]) -> list[str | None]:
    """What became of the first templates, up to one that ended the child."""
    request = json.dumps([templates, dict(variables), DIALOGUES, SECONDS, MEMORY, LONGEST])
    command = [sys.executable, "-S", "-E", "-P", str(Path(__file__).with_name("trial_child.py")), *sys.path]
    # no limit by the clock, which tells of a crowded machine: the child's own ends it, as templates cannot sleep
    ended = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    *lines, _ = ended.stdout.split("\n")
    done: list[str | None] = [json.loads(line) for line in lines]
    if len(done) < len(templates):
        done.append(_words(ended.returncode, ended.stderr))
    return done


def _words(code: int, errors: str) -> str:
    if code == -signal.SIGPROF:
        return f"takes more than {SECONDS:g} s to render a dialogue of a few words"
    last = errors.strip().rpartition("\n")[2][:200]
    return f"ended the process that rendered a dialogue of a few words (exit code {code}{last and ': '}{last})"
