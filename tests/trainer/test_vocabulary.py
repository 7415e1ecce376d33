"""Ids that end an answer, and added rows that may never be predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_data
import torch
from stage_gang import Case, alone
from tiny import tiny_policy, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_trainer.data.chat import ADDED_PAD, encode_conversation, prepare_tokenizer
from rlhf_trainer.generation.logprobs import log_probs
from rlhf_trainer.generation.sample import Answer, Sampling, sample
from rlhf_trainer.losses.sft import nll_by_row, nll_sum
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.models.save import save_policy
from rlhf_trainer.models.vocabulary import MaskedHead, end_ids, fit_vocabulary

PROMPTS = [[5, 9], [7, 8, 11, 30], [6]]


def gpt2_without_pad(folder: Path, spare: int = 0) -> Path:
    """A GPT-2 whose only special token is its EOS, and whose logits are all far below 0, as GPT-2's own are."""
    inner = tiny_tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    size, end = len(tokenizer) + spare, tokenizer.eos_token_id
    shape = {"vocab_size": size, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(**shape, **dropout, bos_token_id=end, eos_token_id=end)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    with torch.no_grad():
        direction = torch.ones(32)
        model.transformer.wte.weight[: len(tokenizer)] += direction
        model.transformer.ln_f.bias -= direction
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[0, 3], ids=["no spare row", "spare rows"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_without_pad(tmp_path_factory.mktemp("gpt2"), request.param)


@pytest.fixture(scope="module")
def loaded(base: Path) -> tuple[Any, Any]:
    model, tokenizer = load_policy(base, "float32")
    prepare_tokenizer(tokenizer)
    fit_vocabulary(model, tokenizer)
    return model.eval(), tokenizer


def plain_logits(folder: Path, ids: list[int], never: list[int]) -> torch.Tensor:
    """[T, V] of plain transformers, in float64, less ids that are never predicted."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    logits[:, [index for index in never if index < logits.shape[1]]] = -torch.inf
    return logits


class TestAnAddedPad:
    def test_counts_in_no_loss_and_no_log_probability(self, base: Path, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        assert tokenizer.pad_token == ADDED_PAD
        ids = [5, 9, 30, 12, 44, 8, tokenizer.eos_token_id]
        expected = plain_logits(base, ids, [tokenizer.pad_token_id])[:-1].log_softmax(-1)
        labels = torch.tensor(ids[1:])
        chosen = expected.gather(1, labels[:, None])[:, 0]
        hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, :-1].detach().requires_grad_()
        head = model.get_output_embeddings()
        loss = nll_sum(hidden, labels, head)
        assert loss.item() == pytest.approx(-float(chosen.sum()), rel=1e-5)
        (quick,) = torch.autograd.grad(loss, hidden)
        (slow,) = torch.autograd.grad(nll_sum(hidden, labels, lambda states: head(states)), hidden)
        torch.testing.assert_close(quick, slow)
        rows = torch.zeros(len(labels), dtype=torch.long)
        assert float(nll_by_row(hidden, labels, rows, 1, head)) == pytest.approx(-float(chosen.sum()), rel=1e-5)
        logps, entropy = log_probs(hidden, head, labels, 0.7)
        tempered = (plain_logits(base, ids, [tokenizer.pad_token_id])[:-1] / 0.7).log_softmax(-1)
        torch.testing.assert_close(logps.double(), tempered.gather(1, labels[:, None])[:, 0], atol=1e-4, rtol=1e-4)
        expected_entropy = -(tempered.exp() * tempered.clamp(min=-1e9)).sum(-1)
        torch.testing.assert_close(entropy.double(), expected_entropy, atol=1e-4, rtol=1e-4)
        (gradient,) = torch.autograd.grad(logps.sum(), hidden)
        assert gradient.isfinite().all()

    def test_is_never_sampled(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        ends = end_ids(model, tokenizer)
        for temperature in (0.0, 1.0, 3.0):
            for answer in sample(model, PROMPTS * 6, Sampling(temperature, 24, ends), seed=1):
                assert tokenizer.pad_token_id not in answer.ids

    def test_is_harmless_in_the_product_as_plain_transformers_reads_it(
        self, base: Path, loaded: tuple[Any, Any], tmp_path: Path
    ) -> None:
        model, tokenizer = loaded
        save_policy(tmp_path, model.state_dict(), model, tokenizer)
        ids, pad, size = [5, 9, 30, 12], tokenizer.pad_token_id, len(tokenizer)
        chances = plain_logits(tmp_path, ids, []).softmax(-1)
        assert (chances[:, pad] <= 1 / size).all()
        assert (chances.argmax(-1) != pad).all()
        expected = plain_logits(base, ids, [pad]).log_softmax(-1)[:, :pad]
        assert (chances[:, :pad].log() - expected).abs().max() < 2 / size
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.manual_seed(0)
        out = plain.generate(torch.tensor([ids] * 8), do_sample=True, top_k=0, max_new_tokens=24, eos_token_id=-1)
        assert (out != pad).all()

    def test_stays_masked_in_a_product_that_is_trained_further(self, loaded: tuple[Any, Any], tmp_path: Path) -> None:
        model, tokenizer = loaded
        save_policy(tmp_path, model.state_dict(), model, tokenizer)
        again, read = load_policy(tmp_path, "float32")
        assert prepare_tokenizer(read) == []
        fit_vocabulary(again, read)
        head = again.get_output_embeddings()
        assert isinstance(head, MaskedHead)
        assert head.masked == [tokenizer.pad_token_id]
        assert again.get_input_embeddings().weight is head.weight
        torch.testing.assert_close(
            again.eval()(input_ids=torch.tensor([[5, 9]])).logits, model(input_ids=torch.tensor([[5, 9]])).logits
        )

    def test_leaves_the_first_loss_of_a_stage_what_plain_transformers_says(self, tmp_path: Path) -> None:
        base = gpt2_without_pad(tmp_path / "base")
        small_data.chat(tmp_path / "chat.jsonl", rows=8)
        spec = {"model": {"input": "base"}, "data": [{"input": "chat"}], "batchSize": 8, "maxSteps": 1, "holdout": 0.0}
        inputs = {"input:base": str(base), "input:chat": str(tmp_path / "chat.jsonl")}
        sft_case = Case(str(tmp_path), "sft", {**spec, "maxLength": 64, "learningRate": 1e-9}, inputs)
        alone(sft_case)
        first = json.loads((sft_case.work / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        tokenizer = AutoTokenizer.from_pretrained(base)
        prepare_tokenizer(tokenizer)
        total, count = 0.0, 0
        for line in (tmp_path / "chat.jsonl").read_text().splitlines():
            row = encode_conversation(tokenizer, json.loads(line)["messages"], 64)
            logs = plain_logits(base, row.ids, [])[:-1].log_softmax(-1)
            for logp, token, learned in zip(logs, row.ids[1:], row.mask[1:], strict=True):
                total, count = total - float(logp[token]) * learned, count + learned
        assert first == pytest.approx(total / count, rel=1e-4)


class TestEnds:
    def test_are_all_that_the_model_declares(self, tmp_path: Path) -> None:
        folder = tiny_policy(tmp_path)
        declare(folder, config=[2, 40, 99_999], generation=[41, 2])
        model, tokenizer = load_policy(folder, "float32")
        assert end_ids(model, tokenizer) == (2, 41, 40)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(50)  # what `prepare_tokenizer` may do
        assert end_ids(model, tokenizer) == (50, 2, 41, 40)

    def test_any_of_them_ends_an_answer(self, tmp_path: Path) -> None:
        model, _ = load_policy(tiny_policy(tmp_path), "float32")
        prompts = PROMPTS * 10
        uncut = sample(model, prompts, Sampling(1.0, 40, (2,)), seed=3)
        ends = {2, *(answer.ids[len(answer.ids) // 2] for answer in uncut[:3])}
        answers = sample(model, prompts, Sampling(1.0, 40, tuple(ends)), seed=3)
        for answer, longer in zip(answers, uncut, strict=True):
            cut = next((position for position, token in enumerate(longer.ids) if token in ends), None)
            expected = longer.ids if cut is None else longer.ids[: cut + 1]
            assert answer == Answer(expected, cut is not None)
            assert answer.spoken == (expected if cut is None else expected[:-1])
        assert sum(answer.finished for answer in answers) > sum(answer.finished for answer in uncut)


def declare(folder: Path, config: list[int], generation: list[int]) -> None:
    """Let a model folder declare end ids."""
    for name, ids in (("config.json", config), ("generation_config.json", generation)):
        file = folder / name
        fields = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**fields, "eos_token_id": ids}))
