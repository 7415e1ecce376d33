"""What must be known of a model to tell what it takes: its shape, from config.json or the header of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

MOST = 1 << 32
"""Of any number in a model's shape: what is larger is damage."""


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a decoder with gated feed-forward layers, as in Llama, Mistral and Qwen."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    query: int
    """Width of the queries: heads x head size."""
    key: int
    """Width of the keys, and of the values: key-value heads x head size."""
    tied: bool
    """Whether the output head is the embedding."""

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the head where it is apart."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer(self) -> int:
        """Weights of a layer: queries and output, keys and values, gate, up and down, two norms."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.key
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, final norm included; biases, where a model has some, are too few to count."""
        return self.embedding + self.layers * self.layer + self.hidden

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From a Hugging Face config.json.

        Raises:
            ValueError: it lacks a field that is needed; names it.
        """
        heads = _number(config, "num_attention_heads")
        hidden = _number(config, "hidden_size")
        size = _number(config, "head_dim", hidden // heads)
        return cls(
            layers=_number(config, "num_hidden_layers"),
            hidden=hidden,
            intermediate=_number(config, "intermediate_size"),
            vocabulary=_number(config, "vocab_size"),
            query=heads * size,
            key=_number(config, "num_key_value_heads", heads) * size,
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @classmethod
    def from_gguf(cls, header: Mapping[str, Any], *, tied: bool) -> Self:
        """From the key-values of a GGUF file's header.

        Args:
            header: such as {"general.architecture": "llama", "llama.block_count": 30, ...}; `<arch>.vocab_size`, or
                else the number of `tokenizer.ggml.tokens` under that key.
            tied: whether the file has no tensor `output.weight`.

        Raises:
            ValueError: it lacks a field that is needed; names it.
        """
        kind = header.get("general.architecture")
        heads = _number(header, f"{kind}.attention.head_count")
        hidden = _number(header, f"{kind}.embedding_length")
        size = _number(header, f"{kind}.attention.key_length", hidden // heads)
        names = f"{kind}.vocab_size" if f"{kind}.vocab_size" in header else "tokenizer.ggml.tokens"
        return cls(
            layers=_number(header, f"{kind}.block_count"),
            hidden=hidden,
            intermediate=_number(header, f"{kind}.feed_forward_length"),
            vocabulary=_number(header, names),
            query=heads * size,
            key=_number(header, f"{kind}.attention.head_count_kv", heads) * size,
            tied=tied,
        )


def _number(source: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of a shape; the default where the source has none (or null)."""
    value = source.get(key)
    if value is None and default is not None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(f"found {key} = {str(value)[:40]}; expected a whole number from 1 to {MOST}")
    return value
