"""Which files of a folder or repository hold the rows that are meant: by the data set's card, subset and split."""

from __future__ import annotations

import logging
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, read_bytes
from rlhf_api.errors import SpecError
from rlhf_api.yaml import load_yaml
from rlhf_trainer.exits import InputError

log = logging.getLogger(__name__)

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (*KINDS, ".parquet", *(kind + packed for packed in (".gz", ".zst") for kind in KINDS))
"""Files that hold rows."""
NOT_DATA = {"manifest.json", "dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json"}
"""Files of a data folder that describe it."""
OF_PRODUCTS = {"metrics.jsonl", "timings.json", "samples.jsonl", "simulation.json", "audit.jsonl", "audit-key.jsonl"}
"""Files that a product has beside its data."""
MAX_LINES = 50_000
"""Of a card, in which its front matter ends."""
SHOWN = 8
"""Names of files that an error tells."""
SPLIT_WORDS = ("train", "test", "validation", "valid", "val", "dev", "eval", "heldout")


def select_files(path: Path, subset: str | None = None, split: str | None = None) -> list[Path]:
    """The data files below `path` that belong to `subset` and `split`, sorted.

    Raises:
        InputError: nothing fits.
    """
    if path.is_file():
        if not is_data(path):
            raise InputError(f"{path}: cannot be read as rows; expected one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    below = (file.relative_to(path) for file in path.rglob("*") if file.is_file() and is_data(file))
    names = [name.as_posix() for name in below if not any(part.startswith(".") for part in name.parts)]
    if (path / "manifest.json").is_file():
        names = [name for name in names if name not in OF_PRODUCTS]
    if not names:
        others = sorted(file.name for file in path.iterdir())
        raise InputError(f"found {', '.join(others[:SHOWN])}; expected a file of rows: {', '.join(SUFFIXES)}")
    return [path / name for name in choose(str(path), names, card(path), subset, split)]


def choose(where: str, names: list[str], front: dict[str, Any], subset: str | None, split: str | None) -> list[str]:
    """Of a folder's or repository's data files those of `subset` and `split`, sorted.

    A data set card that lists its configurations (`front`) is followed. Otherwise `subset` is a glob or the name of a
    folder, and a file belongs to a split when its path names it (`train.jsonl`, `data/test-00000-of-00001.parquet`).
    Without `split`, the files of `train`; where no path names a split, or there is one file only, all.

    Raises:
        InputError: nothing fits.
    """
    if not names:
        raise InputError(f"{where}: holds no data file; expected one of {', '.join(SUFFIXES)}")
    carded = _from_card(where, names, front, subset, split)
    if carded is not None:
        return carded
    chosen = sorted(names)
    if subset is not None:
        chosen = [name for name in chosen if fnmatch(name, subset) or subset in name.split("/")[:-1]]
        if not chosen:
            raise InputError(
                f"{where}: input.subset {subset!r} matches no file; found {', '.join(sorted(names)[:SHOWN])}"
            )
    return _of_split(where, chosen, split)


def is_data(path: Path) -> bool:
    """Whether a file's name is one of a file of rows."""
    return path.name not in NOT_DATA and path.name.lower().endswith(SUFFIXES)


def card(path: Path) -> dict[str, Any]:
    """The YAML front matter of a folder's README.md (a model or data set card); empty where there is none.

    A card is for people: one that is no YAML, or beyond the bounds of any YAML that is read, tells us nothing.
    """
    readme = path / "README.md"
    if not readme.is_file():
        return {}
    try:
        front = _front_matter(read_bytes(readme))
        value = None if front is None else load_yaml(front, readme.name).value
    except (Unreadable, SpecError) as error:
        log.warning("%s: its card is not used: %s", path.name, error)
        return {}
    return value if isinstance(value, dict) else {}


def _front_matter(content: bytes) -> bytes | None:
    """What stands between a first line of `---` and the next one; None where there is no such thing."""
    first, *lines = content.splitlines()[:MAX_LINES] or [b""]
    if first.rstrip() != b"---":
        return None
    for number, line in enumerate(lines):
        if line.rstrip() == b"---":
            return b"\n".join(lines[:number])
    return None


def _from_card(
    where: str, names: list[str], front: dict[str, Any], subset: str | None, split: str | None
) -> list[str] | None:
    """Files as the card's `configs` say; None where it says nothing of them."""
    listed = front.get("configs")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    named = {str(entry.get("config_name", "default")): entry for entry in entries if "data_files" in entry}
    default = next((name for name, entry in named.items() if entry.get("default")), "default")
    if subset is None and default not in named and len(named) > 1:
        raise InputError(f"{where}: has several configurations ({', '.join(named)}); set input.subset to one")
    configuration = subset if subset is not None else (default if default in named else next(iter(named), None))
    if configuration is None or configuration not in named:
        return None
    patterns = _patterns(named[configuration]["data_files"], split or "train")
    files = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))
    if not files:
        raise InputError(f"{where}: configuration {configuration!r} has no file of split {split or 'train'!r}")
    return files


def _patterns(data_files: Any, split: str) -> list[str]:
    """Globs of a split; `data_files` is a glob, a list of globs, or a list of {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    globs: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            if entry.get("split") == split:
                paths = entry.get("path")
                globs.extend(map(str, paths if isinstance(paths, list) else [paths]))
        elif split == "train":
            globs.append(str(entry))
    return globs


def _of_split(where: str, names: list[str], split: str | None) -> list[str]:
    splits = {name: _split_of(name) for name in names}
    present = sorted({label for label in splits.values() if label is not None})
    if split is None and (not present or len(names) == 1):
        return names
    target = split or "train"
    chosen = [name for name in names if splits[name] == target or target in re.split(r"[-_./]", name)]
    if not chosen:
        listed = ", ".join(present) or "none, as no path names one"
        raise InputError(f"{where}: no file of split {target!r}; splits found: {listed}. Set input.split")
    return chosen


def _split_of(name: str) -> str | None:
    words = [word for part in reversed(name.split("/")) for word in re.split(r"[-_.]", part.lower())]
    return next((word for word in words if word in SPLIT_WORDS), None)


def yaml_file(path: Path, what: str) -> Path:
    """The one YAML file meant by a path: the file itself, or what a folder holds.

    Raises:
        InputError: there is none, or several; the message calls it `what`.
    """
    if path.is_file():
        return path
    files = sorted(file for file in path.glob("*") if file.suffix in YAML_SUFFIXES)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise InputError(f"{path.name}: found {names}; expected one {what} ({' or '.join(YAML_SUFFIXES)})")
    return files[0]
