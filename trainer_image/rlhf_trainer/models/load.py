"""Loading models: Hugging Face folders with safetensors, or a GGUF file. Pickles and remote code never."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhf_api.bounded import read_object
from rlhf_api.gguf import read_header
from rlhf_trainer.exits import InputError, StageError, explain_full_disk
from rlhf_trainer.models.vocabulary import end_ids

log = logging.getLogger(__name__)

GGUF = ".gguf"
PANIC = "PanicException"
"""What Rust libraries raise where they did not expect to fail; no Exception, and importable from nowhere."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_tokenizer(path: str | Path, cache: Path | None = None) -> Any:
    """The tokenizer of a model folder or GGUF file.

    Raises:
        InputError: there is none that can be read without running code of the model's.
    """
    from transformers import AutoTokenizer

    quiet()
    with folder(path, cache) as found, explained(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(str(found), trust_remote_code=False)


def gguf_tokenizer(path: Path) -> Any:
    """The tokenizer of a GGUF file, none of its weights read.

    Raises:
        InputError: there is none that can be read.
    """
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


def load_policy(path: str | Path, dtype: torch.dtype | str, cache: Path | None = None) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    Args:
        path: A folder with config.json and safetensors, or a `.gguf` file.
        dtype: Of the weights: a torch type, `float32` or `bfloat16`.
        cache: Where the dequantised tensors of a GGUF file are kept (they take half a minute to make); `inputs/` of
            the storage. Without one they are made again each time.

    Returns:
        (model in training mode without dropout changes, tokenizer). The model's `generation_config` is its own, with
        every id that ends an answer; it is for products only: nothing here samples by it.

    Raises:
        InputError: the folder lacks what it must have, or holds pickles instead of safetensors.
    """
    from transformers import AutoModelForCausalLM

    quiet()
    with folder(path, cache) as found:
        check_folder(found, path)
        with explained(path, "causal language model"):
            model = AutoModelForCausalLM.from_pretrained(
                str(found), dtype=torch_dtype(dtype), use_safetensors=True, trust_remote_code=False
            )
        tokenizer = load_tokenizer(found)
    model.generation_config.eos_token_id = list(end_ids(model, tokenizer))
    forget_padding(model)
    return model, tokenizer


def quiet() -> None:
    """Keep transformers' progress bars and load reports out of the ranks' logs; errors are raised, not printed."""
    from transformers.utils import logging as reports

    reports.set_verbosity_error()
    reports.disable_progress_bar()


def torch_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """`float32` and `bfloat16` by name; a torch type as it is."""
    return DTYPES[dtype] if isinstance(dtype, str) else dtype


def forget_padding(model: nn.Module) -> None:
    """Let every embedding learn: models whose PAD is their EOS would else never train EOS' embedding."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None


@torch.no_grad()
def check_logits(model: Any, where: str) -> None:
    """Refuse models whose logits are more than their head's product: their log-probabilities would be wrong here.

    Raises:
        InputError: logits are capped or scaled after the head.
    """
    training = model.training
    model.eval()
    ids = torch.arange(4, device=next(model.parameters()).device)[None]
    decoder = getattr(model, model.base_model_prefix, None)
    if decoder is None:
        raise InputError(f"{where}: {type(model).__name__} keeps its layers where no other language model does")
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    expected, found = model(input_ids=ids, use_cache=False).logits, model.get_output_embeddings()(hidden)
    model.train(training)
    if not torch.allclose(expected.float(), found.float(), atol=1e-3, rtol=1e-3):
        raise InputError(
            f"{where}: {type(model).__name__} changes its logits after the output head (a cap or a scale); "
            "expected a model whose logits are the head's product, such as Llama, Mistral or Qwen"
        )


def architecture(path: Path) -> str:
    """The first architecture that config.json names; empty where it names none."""
    names = read_object(path / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def check_folder(found: Path, source: str | Path) -> None:
    """Refuse what is not a folder of config.json and safetensors.

    Raises:
        InputError: says what is there instead.
    """
    if not (found / "config.json").is_file():
        raise InputError(f"{source}: no config.json; a model is a Hugging Face folder or a {GGUF} file")
    if any(found.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in found.glob(pattern))
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


def convert_gguf(path: Path, target: Path) -> None:
    """Dequantise a GGUF file into a folder of float32 safetensors with its tokenizer.

    Raises:
        InputError: the file cannot be read, or its architecture is unknown.
    """
    from transformers import AutoModelForCausalLM

    quiet()
    log.info("dequantising %s", path.name)
    tokenizer = gguf_tokenizer(path)
    with explained(path, "GGUF model"):
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    for holder in (model, model.config):
        if hasattr(holder, "quantization_config"):
            del holder.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))


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


@contextmanager
def explained(path: str | Path, what: str) -> Iterator[None]:
    """Turn a library's complaint about a model into an InputError that names the model.

    On damaged files libraries raise whatever they meet: TypeError, AttributeError, their own.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, StageError):
        raise
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or not (isinstance(error, Exception) or type(error).__name__ == PANIC):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        problem = " ".join(map(str.strip, lines[: 2 if lines[0].endswith(":") else 1]))
        raise InputError(f"{path}: not a readable {what}: {problem}") from error
