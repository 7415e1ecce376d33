"""Loading, cutting, adapting and saving models of several families; the whole model's own forward is the measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, family
from tiny import tiny_policy, tiny_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from rlhf_api.job import Execution
from rlhf_api.stages.common import Lora, Optimizer
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.data.collate import pad, positions
from rlhf_trainer.exits import InputError
from rlhf_trainer.models import frozen_inputs as boundary_module
from rlhf_trainer.models.adapters import add_lora, disable_adapters, merged
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.freeze import split, whole_state
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.models.save import save_policy, save_tokenizer
from rlhf_trainer.models.trainable import TrainableModel, make_trainable


def rows(side: str = "right") -> tuple[Tensor, Tensor]:
    """[3, 9] ids and mask of rows of 9, 5 and 1 tokens."""
    ids = torch.randint(3, 61, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 9, dtype=torch.long)
    for row, length in enumerate((9, 5, 1)):
        mask[row, slice(0, length) if side == "right" else slice(9 - length, 9)] = 1
    return ids.masked_fill(mask == 0, 0), mask


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("top", [1, 3])
def test_both_halves_of_a_cut_decoder_give_what_the_whole_gives(name: str, side: str, top: int) -> None:
    model = family(name)
    ids, mask = rows(side)
    places = positions(mask)
    with torch.no_grad():
        expected = model.model(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state
        trunk, upper = split(model.model, top)
        below = trunk(ids, mask, places)
        above = upper(inputs_embeds=below, attention_mask=mask, position_ids=places, use_cache=False).last_hidden_state
    assert len(trunk.decoder.layers) == 4 - top  # type: ignore[union-attr,arg-type]
    torch.testing.assert_close(above[mask == 1], expected[mask == 1], rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_cross_the_cut_each_attending_to_itself_only(name: str) -> None:
    model = family(name)
    sequences = [torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 10, 11]])]
    packed = torch.cat(sequences, dim=1)
    places = torch.cat([torch.arange(sequence.shape[1]) for sequence in sequences])[None]
    with torch.no_grad():
        alone = [model.model(input_ids=sequence).last_hidden_state for sequence in sequences]
        trunk, upper = split(model.model, 2)
        below = trunk(packed, None, places)
        above = upper(inputs_embeds=below, attention_mask=None, position_ids=places, use_cache=False).last_hidden_state
    torch.testing.assert_close(above, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)


def test_only_the_upper_layers_and_the_final_norm_learn_and_tied_embeddings_do_not() -> None:
    model = family("llama")
    trained = make_trainable(model, spec(trainableLayers=1), Execution(), seed=0, device=torch.device("cpu"))
    assert trained.trunk is not None
    assert not any(parameter.requires_grad for parameter in trained.trunk.parameters())
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {
        name for name, _ in model.named_parameters() if ".layers.3." in name or name == "model.norm.weight"
    }


def test_an_output_head_of_its_own_learns_too() -> None:
    model = family("qwen2", tie_word_embeddings=False)
    make_trainable(model, spec(trainableLayers=1), Execution(), seed=0, device=torch.device("cpu"))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "lm_head.weight" in learning
    assert "model.embed_tokens.weight" not in learning


@pytest.mark.parametrize(
    ("decoder", "layers", "words"),
    [
        (
            lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20)).transformer,
            1,
            "'gpt2' cannot be cut",
        ),
        (lambda: family("llama").model, 4, "4 of a model of 4 layers"),
        (lambda: family("llama").model, 9, "9 of a model of 4 layers"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(decoder: Any, layers: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        split(decoder(), layers)


def spec(**fields: Any) -> Optimizer:
    return Optimizer.model_validate({"learningRate": 1e-3, **fields})


def state_of(trained: TrainableModel) -> dict[str, Tensor]:
    """What an engine's state_dict gives of the stages' modules."""
    module = torch.nn.Module()
    module.decoder, module.head = trained.decoder, trained.head
    return dict(module.state_dict())


@pytest.mark.parametrize("fields", [{}, {"trainableLayers": 2}, {"lora": {"rank": 2}}])
@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_model_goes_back_whole_under_its_own_names(fields: dict[str, Any], tied: bool) -> None:
    model = family("llama", tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = make_trainable(model, spec(**fields), Execution(), seed=0, device=torch.device("cpu"))
    product = trained.product(state_of(trained))
    assert product.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(product[name], value, rtol=0, atol=0, msg=name)


def test_every_layer_above_the_cut_returns_to_its_own_place() -> None:
    model = family("llama")
    trained = make_trainable(model, spec(trainableLayers=2), Execution(), seed=0, device=torch.device("cpu"))
    state = {name: value.clone() for name, value in state_of(trained).items()}
    state["decoder.layers.0.mlp.up_proj.weight"] += 1
    state["decoder.norm.weight"] += 2
    product = trained.product(state)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, product[name])}
    assert changed == {"model.layers.2.mlp.up_proj.weight", "model.norm.weight"}


def test_a_weight_without_a_place_is_an_error() -> None:
    with pytest.raises(KeyError, match="no weight model"):
        whole_state(family("llama"), {"decoder.strange": torch.zeros(1)}, {"decoder.": "model."})


class TestLora:
    def test_changes_nothing_at_first_and_is_drawn_from_its_seed(self) -> None:
        model, again, reseeded = family("llama"), family("llama"), family("llama")
        ids, mask = rows()
        with torch.no_grad():
            before = model(input_ids=ids, attention_mask=mask).logits
            for adapted, seed in ((model, 1), (again, 1), (reseeded, 2)):
                add_lora(adapted.model, Lora(rank=2), seed=seed)
            after = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(after, before)
        first, second, third = (
            [value for name, value in adapted.named_parameters() if "lora_A" in name]
            for adapted in (model, again, reseeded)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, third, strict=True))

    def test_only_adapters_learn_in_every_linear_layer(self) -> None:
        model = family("llama")
        add_lora(model.model, Lora(rank=2), seed=1)
        learning = [name for name, parameter in model.model.named_parameters() if parameter.requires_grad]
        assert len(learning) == 4 * 7 * 2
        assert all(".lora_" in name for name in learning)

    def test_merged_weights_answer_as_the_adapters_did_and_off_is_the_reference(self) -> None:
        model = family("llama")
        ids, mask = rows()
        with torch.no_grad():
            before = model(input_ids=ids, attention_mask=mask).logits
        lora = Lora(rank=2, alpha=6.0)
        add_lora(model.model, lora, seed=1)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
            adapted = model(input_ids=ids, attention_mask=mask).logits
            with disable_adapters(model):
                reference = model(input_ids=ids, attention_mask=mask).logits
            back = model(input_ids=ids, attention_mask=mask).logits
        plain = family("llama")
        plain.load_state_dict(merged(model.state_dict(), lora))
        with torch.no_grad():
            product = plain(input_ids=ids, attention_mask=mask).logits
        assert (adapted - before).abs().max() > 0.05
        torch.testing.assert_close(reference, before, rtol=0, atol=0)
        torch.testing.assert_close(back, adapted, rtol=0, atol=0)
        torch.testing.assert_close(product, adapted, rtol=1e-4, atol=1e-5)

    def test_an_unknown_target_is_refused_with_the_layers_there_are(self) -> None:
        with pytest.raises(InputError, match=r"lora.targets: qkv is no linear layer; found down_proj.*v_proj"):
            add_lora(family("llama").model, Lora(targets=["qkv"]), seed=0)


class TestBoundary:
    ROWS = tuple(Encoded(list(range(3, 3 + length)), [1] * length) for length in (5, 2, 9, 1, 7))

    def boundaries(
        self, tmp_path: Path, dtype: torch.dtype = torch.float32
    ) -> tuple[FrozenTrunkInputs, FrozenTrunkInputs, Path]:
        """One that remembers and one that computes each time."""
        model = family("llama").to(dtype)
        trunk, _ = split(model.model, 1)
        remembering, computing = (FrozenTrunkInputs(trunk, torch.device("cpu"), 0) for _ in range(2))
        file = tmp_path / "states.bin"
        assert remembering.cache_hidden_states(self.ROWS, file, "key", dtype=dtype)
        return remembering, computing, file

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_remembered_states_are_those_computed_now(self, tmp_path: Path, dtype: torch.dtype) -> None:
        remembering, computing, _ = self.boundaries(tmp_path, dtype)
        chosen = [2, 0, 3]
        inputs, padded = remembering.batch([self.ROWS[i] for i in chosen], chosen)
        expected, _ = computing.batch([self.ROWS[i] for i in chosen], chosen)
        real_tokens = padded.attention_mask == 1
        close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(
            inputs["inputs_embeds"][real_tokens], expected["inputs_embeds"][real_tokens], **close
        )

    def test_packs_are_put_together_from_the_same_states(self, tmp_path: Path) -> None:
        remembering, computing, _ = self.boundaries(tmp_path)
        packs = [[2, 3], [0, 1]]
        rows_of = [[self.ROWS[i] for i in pack] for pack in packs]
        inputs, packed = remembering.packs(rows_of, packs)
        expected, _ = computing.packs(rows_of, packs)
        real_tokens = packed.segments > 0
        torch.testing.assert_close(
            inputs["inputs_embeds"][real_tokens], expected["inputs_embeds"][real_tokens], rtol=1e-4, atol=1e-5
        )

    def test_what_is_there_is_not_computed_again_and_what_is_made_again_has_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(boundary_module, "GROUP_TOKENS", 9)
        remembering, _, file = self.boundaries(tmp_path)
        content = file.read_bytes()
        file.unlink()

        class Killed(Exception):
            pass

        def kill(done: int, total: int) -> None:
            assert total == 4
            if done == 2:
                raise Killed

        with pytest.raises(Killed):
            remembering.cache_hidden_states(self.ROWS, file, "key", dtype=torch.float32, tick=kill)
        computed: list[int] = []
        trunk = remembering._trunk
        assert trunk is not None
        trunk.register_forward_hook(lambda _module, arguments, _found: computed.append(arguments[0].shape[0]))
        remembering.cache_hidden_states(self.ROWS, file, "key", dtype=torch.float32)
        assert file.read_bytes() == content
        assert len(computed) == 2
        remembering.cache_hidden_states(self.ROWS, file, "key", dtype=torch.float32)
        assert len(computed) == 2

    @pytest.mark.parametrize("harm", ["byte", "torn", "other model", "other rows"])
    def test_a_file_that_is_damaged_or_of_something_else_is_made_again(self, tmp_path: Path, harm: str) -> None:
        remembering, computing, file = self.boundaries(tmp_path)
        content = bytearray(file.read_bytes())
        encoded_rows, key = self.ROWS, "key"
        if harm == "byte":
            content[40] ^= 1
            file.write_bytes(content)
        elif harm == "torn":
            file.write_bytes(content[:100])
        elif harm == "other model":
            key = "another"
        else:
            encoded_rows = (Encoded([9, 9, 9], [1] * 3), *self.ROWS[1:])
        remembering.cache_hidden_states(encoded_rows, file, key, dtype=torch.float32)
        inputs, _ = remembering.batch(encoded_rows[:1], [0])
        expected, _ = computing.batch(encoded_rows[:1])
        torch.testing.assert_close(inputs["inputs_embeds"], expected["inputs_embeds"], rtol=1e-4, atol=1e-5)

    def test_rows_of_the_same_ids_are_kept_once(self, tmp_path: Path) -> None:
        remembering, computing, file = self.boundaries(tmp_path)
        size = file.stat().st_size
        twice = (*self.ROWS, *self.ROWS[::-1])
        remembering.cache_hidden_states(twice, file, "key", dtype=torch.float32)
        assert file.stat().st_size == size
        inputs, _ = remembering.batch([self.ROWS[1]], [len(twice) - 2])
        expected, _ = computing.batch([self.ROWS[1]])
        torch.testing.assert_close(inputs["inputs_embeds"], expected["inputs_embeds"], rtol=1e-4, atol=1e-5)

    def test_without_frozen_layers_ids_go_through(self) -> None:
        boundary = FrozenTrunkInputs(None, torch.device("cpu"), 0)
        inputs, padded = boundary.batch(self.ROWS[:2])
        assert torch.equal(inputs["input_ids"], pad(self.ROWS[:2], 0).input_ids)  # type: ignore[arg-type]
        assert "inputs_embeds" not in inputs
        assert padded.attention_mask.sum() == 7


class TestFolders:
    def test_a_saved_policy_answers_the_same_with_its_tied_weight_stored_once(self, tmp_path: Path) -> None:
        model, tokenizer = load_policy(tiny_policy(tmp_path / "base"), "float32")
        state = {name: value.clone() for name, value in model.state_dict().items()}  # as ZeRO 3 gathers them: untied
        save_policy(tmp_path / "out", state, model, tokenizer)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        ids, mask = rows()
        with torch.no_grad():
            torch.testing.assert_close(
                again(input_ids=ids, attention_mask=mask).logits,
                model.eval()(input_ids=ids, attention_mask=mask).logits,
            )
        weights = (tmp_path / "out" / "model.safetensors").read_bytes()
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        assert "lm_head.weight" not in header
        assert again.lm_head.weight is again.model.embed_tokens.weight
        assert load_tokenizer(tmp_path / "out").pad_token_id == again.config.pad_token_id != again.config.eos_token_id

    def test_a_saved_tokenizer_is_written_in_words_that_older_transformers_read(self, tmp_path: Path) -> None:
        tiny_policy(tmp_path)
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"extra_special_tokens": ["<note>"]})
        save_tokenizer(tmp_path, tokenizer)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "extra_special_tokens" not in config
        read = load_tokenizer(tmp_path)
        assert read.extra_special_tokens == tokenizer.extra_special_tokens == ["<note>"]
        assert read("be <note> safe")["input_ids"] == tokenizer("be <note> safe")["input_ids"]
        assert (read.get_vocab(), read.chat_template) == (tokenizer.get_vocab(), tokenizer.chat_template)

    def test_the_embedding_of_a_pad_that_is_eos_learns(self, tmp_path: Path) -> None:
        """transformers gives the embedding of PAD no gradient; where PAD is EOS, EOS would never be learned."""
        folder = tiny_policy(tmp_path / "base")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": config["eos_token_id"]}))
        model, _ = load_policy(folder, "float32")
        model.model(input_ids=torch.tensor([[5, 2, 7]])).last_hidden_state.square().sum().backward()
        assert model.model.embed_tokens.weight.grad[2].abs().sum() > 0

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ((), "no config.json"),
            (("config.json",), r"no \*.safetensors beside config.json"),
            (("config.json", "pytorch_model.bin"), r"weights are pickles \(pytorch_model.bin\), which can run code"),
            (("a.gguf", "b.gguf"), "2 .gguf files; give one of a.gguf, b.gguf"),
        ],
    )
    def test_folders_without_safe_weights_are_refused(self, tmp_path: Path, files: tuple[str, ...], words: str) -> None:
        for name in files:
            (tmp_path / name).write_text("{}")
        with pytest.raises(InputError, match=words):
            load_policy(tmp_path, "float32")

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such model folder"):
            load_policy(tmp_path / "nothing", "float32")

    def test_a_gguf_file_of_rubbish_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\0" * 64)
        with pytest.raises(InputError, match=r"m.gguf: not a readable"):
            load_policy(tmp_path / "m.gguf", "float32", tmp_path / "cache")

    def test_torn_weights_are_refused(self, tmp_path: Path) -> None:
        folder = tiny_policy(tmp_path / "base")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
        with pytest.raises(InputError, match="base: not a readable causal language model"):
            load_policy(folder, "float32")

    def test_code_beside_the_weights_is_never_run(self, tmp_path: Path) -> None:
        folder = tiny_policy(tmp_path / "base")
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M: pass\nclass C: pass\n")
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError):
            load_policy(folder, "float32")
        assert not (tmp_path / "ran").exists()


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = family("llama")
        execution = Execution.model_validate({"gradientCheckpointing": checkpointing})
        trained = make_trainable(model, spec(), execution, seed=0, device=torch.device("cpu"))
        ids, mask = rows()
        hidden = trained.decoder(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
        trained.head(hidden.last_hidden_state).square().mean().backward()
        gradients.append(model.model.layers[1].mlp.up_proj.weight.grad.clone())
        assert model.model.is_gradient_checkpointing is checkpointing
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)
