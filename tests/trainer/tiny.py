"""Tiny models for tests: made in milliseconds, deterministic, saved as the Hugging Face folders that real ones are.

The tokenizer is byte-level (any text comes back exactly) with a token for each word of WORDS; its chat template ends
turns with `<|im_end|>` and a newline, as SmolLM2's does; PAD is `<|endoftext|>` and differs from EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
WORDS = (  # noqa: SIM905 - one word a token
    "a and are ask be careful call can day do doctor fire for from good help how I in is it leave me my no not of on "
    "or please run safe say see should stop sure that the then they this to up use wait water we well what when why "
    "will with work yes you your"
).split()
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; ids 0, 1, 2 are PAD, BOS and EOS; every word with a space before it is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([PAD, START, END, *letters])}
    merges: list[tuple[str, str]] = []
    for word in ["Ġ" + word for word in words] + ["user", "assistant", "system"]:
        for end in range(1, len(word)):
            merge = (word[:end], word[end])
            if merge not in merges:
                merges.append(merge)
                vocabulary.setdefault(word[: end + 1], len(vocabulary))
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=START, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_config(vocabulary: int, *, hidden: int = 32, layers: int = 2, positions: int = 512) -> LlamaConfig:
    """A Llama of a few thousand weights."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )


def tiny_policy(
    folder: Path,
    *,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    hidden: int = 32,
    layers: int = 2,
    positions: int = 512,
) -> Path:
    """Save a causal model with its tokenizer into `folder`; returns it."""
    tokenizer = tiny_tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config(len(tokenizer), hidden=hidden, layers=layers, positions=positions))
    return _save(model, tokenizer, folder)


def tiny_granite(folder: Path) -> Path:
    """The same of a family that divides its logits by eight after the output head."""
    tokenizer = tiny_tokenizer()
    config = GraniteConfig(**{**tiny_config(len(tokenizer)).to_dict(), "model_type": "granite", "logits_scaling": 8.0})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = GraniteForCausalLM(config)
    return _save(model, tokenizer, folder)


def tiny_scorer(
    folder: Path, *, seed: int = 0, words: Sequence[str] = WORDS, hidden: int = 32, layers: int = 2, labels: int = 1
) -> Path:
    """Save a sequence classifier with `labels` heads (no bias) and its tokenizer into `folder`; returns it."""
    tokenizer = tiny_tokenizer(words)
    config = tiny_config(len(tokenizer), hidden=hidden, layers=layers)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
    return _save(model, tokenizer, folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
