"""Paths as users write them: whether a text is a job's file, and what a path that is not there was meant for."""

from __future__ import annotations

import re
from pathlib import Path

from rlhf_api.bounded import exists
from rlhf_api.error_messages import nearest

NAMED = 2000
"""Entries of a folder among which a misspelt name is looked for."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PAGE = re.compile(r"(?:[\w-]+\.)+[a-z]{2,}/(datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
_DATA = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|gguf|gz|zst|ya?ml)$")


def is_job_file(text: str) -> bool:
    """Whether a job is meant by its file, not by its name or UID."""
    path = Path(text)
    return path.suffix in (".yaml", ".yml", ".json") or (exists(path) and path.is_file())


def meant(location: str, folder: Path, working: Path) -> str | None:
    """A hint for a path that does not exist; None: there is none to give.

    Args:
        location: the path as it was written.
        folder: the job file's, which relative paths are taken from.
        working: the folder that the command runs in.
    """
    if "$" in location:
        return "variables of the shell are not replaced"
    if re.search(r"[*?]|\[.*\]", location):
        return "patterns are not looked up: name the file, or the folder that holds the files"
    if "\\" in location:
        return "write the path with /"
    if not location.startswith("/") and exists(working / location):
        return f"a relative path starts at the job's file, in {folder}"
    path = folder / location
    if exists(path.parent) and path.parent.is_dir():
        names = sorted(entry.name for entry, _ in zip(path.parent.iterdir(), range(NAMED), strict=False))
        near = nearest(path.name, names)
        if near is not None:
            return f"perhaps {near}"
    if _REPOSITORY.fullmatch(location) and not _DATA.search(location) and not exists(path.parent):
        return f"a repository of a model hub is hf://{location}@main"
    page = _PAGE.fullmatch(location)
    return f"a repository of a model hub is hf://{page[1] or ''}{page[2]}@main" if page is not None else None
