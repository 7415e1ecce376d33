"""Addresses that are pages for people, where a file or a model is expected: nothing that can be fetched. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from rlhf_trainer.inspection.uses import AnyUse, DataUse, ModelUse
from rlhf_trainer.sources.choose import SUFFIXES

REPOSITORY = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve|raw)/([\w.-]+).*)?/?")
PAGE_OF_FILE = "/blob/"
GGUF = ".gguf"


def page_problem(source: str, uses: Iterable[AnyUse]) -> str | None:
    """Why an https:// source cannot be what stages use it for, with what to write; None: nothing speaks against it."""
    if not source.startswith("https://"):
        return None
    path = urlsplit(source).path
    names: tuple[str, ...]
    for use in uses:
        if isinstance(use, ModelUse):
            expected, names = f"a {GGUF} file, as https:// has no folders, or hf://org/model@revision", (GGUF,)
        elif isinstance(use, DataUse):
            expected, names = (
                "the address of a file of rows (.jsonl, say), or hf://datasets/org/name@revision",
                SUFFIXES,
            )
        else:
            continue
        if not path.lower().endswith(names):
            return f"found {source}; expected {expected}{_hint(path)}"
        if PAGE_OF_FILE in path:
            return f"found {source}, a page that shows a file; expected the address of the file itself{_hint(path)}"
    return None


def _hint(path: str) -> str:
    match = REPOSITORY.fullmatch(path)
    if match is None:
        return ""
    return f" (of a model hub: hf://{match[1] or ''}{match[2]}@{match[3] or 'main'})"
