"""A model's files: a Hugging Face folder, or a GGUF file as one; its tokenizer. Weights are read by `load`, with torch."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_api.bounded import read_object
from rlhf_trainer.exits import InputError, explain_full_disk
from rlhf_trainer.models.explained import explained, quiet
from rlhf_trainer.models.gguf import GGUF, convert_gguf


def load_tokenizer(path: str | Path, cache: Path | None = None) -> Any:
    """The tokenizer of a model folder or GGUF file.

    Raises:
        InputError: there is none that can be read without running code of the model's.
    """
    from transformers import AutoTokenizer

    quiet()
    with folder(path, cache) as model_folder, explained(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(str(model_folder), trust_remote_code=False)


def architecture(path: Path) -> str:
    """The first architecture that config.json names; empty where it names none."""
    names = read_object(path / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def check_folder(model_folder: Path, source: str | Path) -> None:
    """Refuse what is not a folder of config.json and safetensors.

    Raises:
        InputError: says what is there instead.
    """
    if not (model_folder / "config.json").is_file():
        raise InputError(f"{source}: no config.json; a model is a Hugging Face folder or a {GGUF} file")
    if any(model_folder.glob("*.safetensors")):
        return
    pickles = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in model_folder.glob(pattern)
    )
    if pickles:
        raise InputError(
            f"{source}: weights are pickles ({', '.join(pickles[:3])}), which can run code when loaded; "
            "convert them to safetensors (model.save_pretrained(folder)) and give that folder"
        )
    raise InputError(f"{source}: no *.safetensors beside config.json")


@contextmanager
def folder(path: str | Path, cache: Path | None = None) -> Iterator[Path]:
    """The model as a folder: itself, or a GGUF file's dequantised copy (in `cache`, else for this block only).

    Raises:
        InputError: there is nothing at `path`, or the GGUF file cannot be read.
    """
    path = Path(path)
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob(f"*{GGUF}"))
        if len(files) > 1:
            raise InputError(f"{path}: {len(files)} {GGUF} files; give one of {', '.join(f.name for f in files[:5])}")
        path = files[0] if files else path
    if not path.exists():
        raise InputError(f"{path}: no such model folder or {GGUF} file")
    if path.suffix != GGUF:
        yield path
        return
    if cache is not None:
        yield _cached(path, cache)
        return
    with tempfile.TemporaryDirectory() as temporary:
        convert_gguf(path, Path(temporary))
        yield Path(temporary)


def _cached(path: Path, cache: Path) -> Path:
    """The dequantised copy in `cache`, named by the file's content; made by one process, the others wait."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = cache / f"gguf-{digest[:32]}"
    if (target / "config.json").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "config.json").is_file():
            half = cache / f".{target.name}.part"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            with explain_full_disk(cache, f"dequantising {path.name}"):
                convert_gguf(path, half)
            shutil.rmtree(target, ignore_errors=True)
            half.rename(target)
    return target
