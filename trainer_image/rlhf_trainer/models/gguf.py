"""GGUF files: their tokenizer, and their conversion to a folder of safetensors.

transformers reads both with torch, and converts with accelerate. A process that leaves these out
(`rlhf_trainer.lean_imports`) has another do it:

    python -m rlhf_trainer.models.gguf (tokenizer | convert) FILE FOLDER
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.gguf import read_header
from rlhf_trainer.exits import InputError, StageError, explain_full_disk
from rlhf_trainer.models.explained import explained, quiet

log = logging.getLogger(__name__)

GGUF = ".gguf"


def gguf_tokenizer(path: Path) -> Any:
    """The tokenizer of a GGUF file, none of its weights read.

    Raises:
        InputError: there is none that can be read.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import is_torch_available

    if is_torch_available():
        return _read_tokenizer(path)
    with tempfile.TemporaryDirectory() as folder:
        _run_with_torch("tokenizer", path, Path(folder))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.name_or_path = str(path.parent)
    return tokenizer


def convert_gguf(path: Path, target: Path) -> None:
    """Dequantise a GGUF file into a folder of float32 safetensors with its tokenizer.

    Raises:
        InputError: the file cannot be read, or its architecture is unknown.
        StorageFull: no space.
    """
    from transformers.utils import is_accelerate_available, is_torch_available

    log.info("dequantising %s", path.name)
    if is_torch_available() and is_accelerate_available():
        _convert(path, target)
    else:
        _run_with_torch("convert", path, target)


def _read_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    quiet()
    with explained(path, "tokenizer"):
        loader = PreTrainedTokenizerFast if _has_plain_tokenizer(path) else AutoTokenizer
        return loader.from_pretrained(str(path.parent), gguf_file=path.name)


def _has_plain_tokenizer(path: Path) -> bool:
    """Whether AutoTokenizer would choose PreTrainedTokenizerFast for a GGUF file.

    To learn the model's type it reads the whole vocabulary once more, through numpy: seconds of each `validate`.
    """
    if (path.parent / "tokenizer_config.json").exists():
        return False
    fields = read_header(path).fields
    return fields.get("general.architecture") == "llama" and fields.get("general.name") != "mistral"


def _save_tokenizer(path: Path, target: Path) -> None:
    _read_tokenizer(path).save_pretrained(str(target))


def _convert(path: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM

    quiet()
    tokenizer = _read_tokenizer(path)
    with explained(path, "GGUF model"):
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype="float32")
    for holder in (model, model.config):
        if hasattr(holder, "quantization_config"):
            del holder.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))


TASKS: dict[str, Callable[[Path, Path], None]] = {"tokenizer": _save_tokenizer, "convert": _convert}


def _run_with_torch(task: str, path: Path, target: Path) -> None:
    """Run a task of TASKS in a process that has torch.

    Raises:
        StageError: as the task does, or the process was ended.
    """
    command = [sys.executable, "-m", "rlhf_trainer.models.gguf", task, str(path), str(target)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if ended.returncode == 0:
        return
    last = ended.stdout.rpartition(b"\n")[2]
    try:
        problem = orjson.loads(last)
    except orjson.JSONDecodeError as error:
        raise StageError(f"{path}: the process that reads it ended with exit code {ended.returncode}") from error
    kind = InputError if problem["code"] == InputError.code else StageError
    raise kind(problem["message"], reason=problem["reason"])


def main(task: str, path: str, target: str) -> int:
    """The process: its exit code; a problem goes to standard output, in JSON."""
    try:
        with explain_full_disk(Path(target).parent, f"reading {Path(path).name}"):
            TASKS[task](Path(path), Path(target))
    except StageError as error:
        problem = {"code": error.code, "reason": error.reason, "message": str(error)}
        sys.stdout.write("\n" + orjson.dumps(problem).decode())
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
