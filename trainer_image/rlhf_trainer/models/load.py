"""Loading weights: Hugging Face folders with safetensors, or a GGUF file. Pickles and remote code never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from rlhf_trainer.exits import InputError
from rlhf_trainer.models.explained import explained, quiet
from rlhf_trainer.models.files import check_folder, folder, load_tokenizer
from rlhf_trainer.models.vocabulary import end_ids

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(path: str | Path, dtype: torch.dtype | str, cache: Path | None = None) -> tuple[PreTrainedModel, Any]:
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
    quiet()
    with folder(path, cache) as model_folder:
        check_folder(model_folder, path)
        with explained(path, "causal language model"):
            model = AutoModelForCausalLM.from_pretrained(
                str(model_folder), dtype=torch_dtype(dtype), use_safetensors=True, trust_remote_code=False
            )
        tokenizer = load_tokenizer(model_folder)
    model.generation_config.eos_token_id = list(end_ids(model, tokenizer))
    forget_padding(model)
    return model, tokenizer


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
    expected, projected = model(input_ids=ids, use_cache=False).logits, model.get_output_embeddings()(hidden)
    model.train(training)
    if not torch.allclose(expected.float(), projected.float(), atol=1e-3, rtol=1e-3):
        raise InputError(
            f"{where}: {type(model).__name__} changes its logits after the output head (a cap or a scale); "
            "expected a model whose logits are the head's product, such as Llama, Mistral or Qwen"
        )
