"""Frozen decoders run together: what they have in common is held once and computed once.

Reference, reward and cost models that come from one SFT model, and the frozen lower layers of the policy and of the
critics, start with the same layers. They are laid out as a tree whose branches part where weights first differ; a
batch runs through each branch once. Equal weights are told by comparing them, not by where they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_trainer.models.freeze import cuts, norm_name, part, without_embeddings

UNRELATED = {
    "_attn_implementation_internal",
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "label2id",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "num_hidden_layers",
    "num_labels",
    "pad_token_id",
    "problem_type",
    "tie_word_embeddings",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}
"""Fields of a configuration that change no layer's computation."""


@dataclass
class _Branch:
    """Layers that all of `names` have in common; some of them end here."""

    decoder: Any
    ends: list[str]
    branches: list[_Branch] = field(default_factory=list)


class SharedDecoders:
    """Frozen decoders, by name.

    Their weights stop requiring gradients, and equal ones are made to share memory: none may be trained.
    """

    def __init__(self, decoders: Mapping[str, Any]) -> None:
        self._decoders = dict(decoders)
        self._norms: dict[str, nn.Module] = {}
        self._trees: list[_Branch] = []
        for decoder in self._decoders.values():
            decoder.requires_grad_(False)
            decoder.eval()
        self._cuts = {name: cuts(decoder) for name, decoder in self._decoders.items()}
        for group in _partition(list(self._decoders), self._same_start):
            self._trees.append(self._grow(group, 0))

    @property
    def decoders(self) -> list[Any]:
        """All of them."""
        return list(self._decoders.values())

    @property
    def layers(self) -> int:
        """Layers that a batch runs through, those held in common counted once."""
        return sum(_count(tree) for tree in self._trees)

    @torch.no_grad()  # not inference mode: what trained layers take from here must be savable for a gradient
    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Last hidden states, final norm applied.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L]; None where all padding is on the right, whose states then have no meaning.
            position_ids: [B, L] or [1, L].
            names: which decoders; by default all.

        Returns:
            [B, L, H] by name.
        """
        requested = set(self._decoders if names is None else names)
        states: dict[str, Tensor] = {}
        common = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": False}
        for tree in self._trees:
            self._run(tree, {"input_ids": input_ids}, common, requested, states)
        return states

    def _run(
        self,
        branch: _Branch,
        start: dict[str, Tensor],
        common: dict[str, Any],
        requested: set[str],
        states: dict[str, Tensor],
    ) -> None:
        if not requested & _names(branch):
            return
        branch.decoder.eval()  # layers held in common with a policy may have been put into training mode
        hidden = branch.decoder(**start, **common).last_hidden_state
        for name in branch.ends:
            if name in requested:
                states[name] = self._norms[name](hidden)
        for child in branch.branches:
            self._run(child, {"inputs_embeds": hidden}, common, requested, states)

    def _grow(self, names: list[str], depth: int) -> _Branch:
        first = self._decoders[names[0]]
        if not self._cuts[names[0]]:
            self._norms[names[0]] = nn.Identity()
            return _Branch(first, names)
        stop = depth
        going = names
        while True:
            ends = [name for name in going if len(self._decoders[name].layers) == stop]
            going = [name for name in going if name not in ends]
            groups = _partition(going, lambda a, b, at=stop: self._same_layer(a, b, at))
            if ends or len(groups) != 1:
                break
            stop += 1
        cut = part(first, depth, stop)
        setattr(cut, norm_name(cut), nn.Identity())
        if depth:
            without_embeddings(cut)
        for name in ends:
            self._norms[name] = getattr(self._decoders[name], norm_name(first))
        return _Branch(cut, ends, [self._grow(group, stop) for group in groups])

    def _same_start(self, first: str, second: str) -> bool:
        a, b = self._decoders[first], self._decoders[second]
        if type(a) is not type(b) or not (self._cuts[first] and self._cuts[second]) or _relevant(a) != _relevant(b):
            return False
        return _share(a.get_input_embeddings(), b.get_input_embeddings())

    def _same_layer(self, first: str, second: str, at: int) -> bool:
        a, b = self._decoders[first], self._decoders[second]
        kinds = [(getattr(decoder.config, "layer_types", None) or {at: None})[at] for decoder in (a, b)]
        if kinds[0] != kinds[1]:
            return False
        return _share(a.layers[at], b.layers[at])


def _share(original: nn.Module, duplicate: nn.Module) -> bool:
    """Whether two modules hold the same weights; if so, the second's memory becomes the first's."""
    if original is duplicate:
        return True
    first, second = dict(original.named_parameters()), dict(duplicate.named_parameters())
    if first.keys() != second.keys():
        return False
    for name, weight in first.items():
        if weight.data_ptr() != second[name].data_ptr() and not _equal(weight, second[name]):
            return False
    for name, weight in first.items():
        second[name].data = weight.data
    return True


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


def _relevant(decoder: Any) -> dict[str, Any]:
    config: dict[str, Any] = decoder.config.to_dict()
    return {key: value for key, value in config.items() if key not in UNRELATED}


def _partition(names: Sequence[str], same: Any) -> list[list[str]]:
    groups: list[list[str]] = []
    for name in names:
        home = next((group for group in groups if same(group[0], name)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return groups


def _names(branch: _Branch) -> set[str]:
    return set(branch.ends).union(*(_names(child) for child in branch.branches))


def _count(branch: _Branch) -> int:
    return len(branch.decoder.layers) + sum(map(_count, branch.branches))
