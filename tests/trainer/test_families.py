"""Families of models beside plain transformers; docs/models.md has a line of each, held to what is found here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CONFIGS, NAMES, classifier, family
from torch import Tensor

from rlhf_api.capability.traits import LEAKING
from rlhf_api.job import Execution
from rlhf_api.stages.common import Optimizer
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.collate import pad
from rlhf_trainer.exits import InputError
from rlhf_trainer.generation.logprobs import lay_out
from rlhf_trainer.generation.sample import Sampling, sample
from rlhf_trainer.losses.sft import targets
from rlhf_trainer.models.dropout import silence
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.load import check_logits
from rlhf_trainer.models.prefix_check import packs_as_rows
from rlhf_trainer.models.scorer import Rule, ScorerModel
from rlhf_trainer.models.trainable import TrainableModel, make_trainable
from rlhf_trainer.ppo.policy import PolicyModule, frozen_copy
from rlhf_trainer.ppo.shared_trunks import SharedDecoders
from rlhf_trainer.stages.sft import LanguageModel

DOCS = Path(__file__).parents[2] / "docs/models.md"
CPU = torch.device("cpu")
ROWS = [Encoded(list(range(3, 20)), [0] * 5 + [1] * 12), Encoded(list(range(30, 41)), [0] * 3 + [1] * 8)]
PROMPTS = [list(range(3, 12)), list(range(20, 24)), [7]]
NO_EOS = 60
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def trainable(model: Any, **fields: Any) -> tuple[TrainableModel, FrozenTrunkInputs]:
    trained = make_trainable(model, Optimizer.model_validate(fields), Execution(), seed=1, device=CPU)
    trained.decoder.eval()  # dropout is each family's own
    return trained, FrozenTrunkInputs(trained.trunk, CPU, 0)


def our_loss(trained: TrainableModel, boundary: FrozenTrunkInputs) -> Tensor:
    """Mean cross-entropy as `sft` computes it."""
    inputs, padded = boundary.batch(ROWS)
    chosen, labels = targets(padded.input_ids, padded.mask)
    loss: Tensor = LanguageModel(trained.decoder, trained.head)(inputs, chosen, labels) / len(labels)
    return loss


@torch.no_grad()
def their_loss(model: Any) -> Tensor:
    """The same by plain transformers, each row alone."""
    total = torch.zeros(())
    for row in ROWS:
        ids = torch.tensor([row.ids])
        logits = model(input_ids=ids).logits[0, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total += (nll * torch.tensor(row.mask[1:])).sum()
    return total / sum(sum(row.mask[1:]) for row in ROWS)


def state_of(trained: TrainableModel) -> dict[str, Tensor]:
    module = torch.nn.Module()
    module.decoder, module.head = trained.decoder, trained.head
    return dict(module.state_dict())


def losses(name: str) -> str:
    model = family(name)
    check_logits(model, name)
    torch.testing.assert_close(our_loss(*trainable(copy.deepcopy(model))), their_loss(model), **CLOSE)
    return "equal"


@torch.no_grad()
def scores(name: str) -> str:
    model = classifier(name)
    model.score.weight.normal_()
    scorer = ScorerModel([model], Rule())
    alone = torch.stack([model(input_ids=torch.tensor([row.ids])).logits[0, 0] for row in ROWS])
    for side in ("left", "right"):
        padded = pad(ROWS, 0, side)  # type: ignore[arg-type]
        torch.testing.assert_close(scorer.scores(padded.input_ids, padded.attention_mask)[0], alone, **CLOSE)
    return "equal"


@torch.no_grad()
def tokens(name: str) -> str:
    model = family(name, initializer_range=0.3)
    ours = [answer.ids for answer in sample(model, PROMPTS, Sampling(0.0, 12, (NO_EOS,)), seed=0)]
    model.generation_config.pad_token_id = 0
    for prompt, answer in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=NO_EOS, use_cache=True
        )
        assert answer == theirs[0, len(prompt) :].tolist()
    return "equal"


def divergence(name: str) -> str:
    model = family(name, attention_dropout=0.3)
    silence(model)
    decoder, head = frozen_copy(model, None)
    reference = PolicyModule(SharedDecoders({"reference": decoder})._decoders["reference"], head)
    trained, _ = trainable(model)
    layout = lay_out(PROMPTS, [[5, 9, 11], [3, 2], [8]], 0, CPU)
    places: dict[str, Tensor | None] = {
        "input_ids": layout.input_ids,
        "attention_mask": None,
        "position_ids": layout.position_ids,
    }
    policy = PolicyModule(trained.decoder, trained.head).train()
    ours, _ = policy(places, layout.predictors, layout.targets)
    with torch.no_grad():
        theirs, _ = reference(places, layout.predictors, layout.targets)
    assert ours.requires_grad
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    return "0"


def layers(name: str) -> str:
    model = family(name)
    expected, names = their_loss(model), set(model.state_dict())
    trained, boundary = trainable(model, trainableLayers=1)
    loss = our_loss(trained, boundary)
    torch.testing.assert_close(loss, expected, **CLOSE)
    return learns(model, trained, boundary, loss, names, lambda key: "layers.0." not in key)


def adapters(name: str) -> str:
    model = family(name)
    expected, names = their_loss(model), set(model.state_dict())
    trained, boundary = trainable(model, lora={"rank": 2})
    loss = our_loss(trained, boundary)
    torch.testing.assert_close(loss, expected, **CLOSE)
    learns(model, trained, boundary, loss, names, lambda key: "experts" not in key)
    return "experts stay frozen" if any("experts" in note for note in trained.notes) else "yes"


def learns(
    model: Any,
    trained: TrainableModel,
    boundary: FrozenTrunkInputs,
    loss: Tensor,
    names: set[str],
    may_move: Callable[[str], bool],
) -> str:
    """A step lowers the loss; the product is a whole model of that loss in which only what may has moved."""
    before = {key: value.clone() for key, value in model.state_dict().items() if key in names}
    loss.backward()
    with torch.no_grad():
        for weight in [*trained.decoder.parameters(), *trained.head.parameters()]:
            if weight.grad is not None:
                weight -= 0.05 * weight.grad
    after = our_loss(trained, boundary).detach()
    assert after < loss.detach()
    product = trained.product(state_of(trained))
    assert product.keys() == names
    assert all(may_move(key) for key, value in before.items() if not torch.equal(value, product[key]))
    plain = family(model.config.model_type)
    plain.load_state_dict(product)
    torch.testing.assert_close(their_loss(plain), after, **CLOSE)
    return "yes"


def packs(name: str) -> str:
    trained, boundary = trainable(family(name))
    answer = "yes" if packs_as_rows(trained.decoder, boundary, ROWS) else "refused"
    assert (answer == "refused") == (name in LEAKING)
    return answer


@pytest.mark.parametrize("name", CONFIGS)
def test_a_family_does_what_plain_transformers_does_as_the_docs_say(name: str) -> None:
    cells = [
        NAMES[name],
        f"`{name}`",
        losses(name),
        scores(name),
        tokens(name),
        divergence(name),
        layers(name),
        adapters(name),
        packs(name),
    ]
    line = f"| {' | '.join(cells)} |"
    assert line in DOCS.read_text().splitlines(), f"docs/models.md should have the line {line}"


def test_the_docs_have_no_family_that_is_not_tried() -> None:
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| ") and line.count("|") == 10]
    assert [line.split("`")[1] for line in lines[1:]] == list(CONFIGS)


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom"])
def test_other_decoders_are_refused_where_the_parts_are_not_the_whole(name: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": 61}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**sizes, word_embed_proj_dim=32))
    with pytest.raises(InputError, match=f"models of type '{name}' cannot be cut"):
        trainable(model, trainableLayers=1)


@pytest.mark.parametrize("name", sorted(LEAKING - set(CONFIGS)))
def test_packed_conversations_see_each_other_in_types_that_prepare_refuses(name: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": 61}
    names = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 61} if name == "mpt" else sizes
    more = {"word_embed_proj_dim": 32} if name == "opt" else {}
    torch.manual_seed(3)
    trained, boundary = trainable(AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**names, **more)))
    assert not packs_as_rows(trained.decoder, boundary, ROWS)
