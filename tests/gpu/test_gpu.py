"""What only a GPU can show; skipped elsewhere. Small models, seconds each. Run with others by `make bench-gpu`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
from tiny import tiny_policy

from rlhf_api.stage_file import StageFile
from rlhf_api.stages.common import Optimizer
from rlhf_trainer.context import StageContext
from rlhf_trainer.engine import Engine
from rlhf_trainer.generation.logprobs import lay_out, log_probs
from rlhf_trainer.generation.sample import Sampling, sample
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.runtime.rank_env import RankEnv
from rlhf_trainer.runtime.session import WorkerRuntime

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
ANSWERS = [[20, 21], [22], [23, 24, 25, 26]]
LAUNCHER = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "LOCAL_RANK": "0"}
"""What a rank's environment has from the launcher."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StageContext]:
    """A stage's context as a rank makes it: the first GPU, NCCL and Gloo with one rank."""
    folder = str(tmp_path_factory.mktemp("work"))
    raw: dict[str, Any] = {
        "version": "1",
        "job": "gpu",
        "uid": "gpu",
        "stage": "sft",
        "type": "sft",
        "digest": "0" * 64,
        "spec": {},
        "seed": 0,
        "execution": {},
        "directories": {"storage": folder, "work": folder, "job": folder},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAUNCHER.items():
            patch.setenv(name, value)
        with WorkerRuntime(
            StageFile.model_validate(raw), RankEnv(0, 1, 0), Path(folder), threading.Event(), light=False
        ) as stage_context:  # type: ignore[arg-type]
            yield stage_context


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tiny_policy(tmp_path / "policy")


def losses(context: StageContext, policy: Path, dtype: str, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of a few steps on ANSWERS, and the weights after them."""
    model, _ = load_policy(policy, dtype)
    engine = Engine(
        model,
        optimizer=Optimizer.model_validate({"learningRate": 1e-2, "dtype": dtype}),
        total_steps=steps,
        context=context,
        name="policy",
    )
    layout = lay_out(PROMPTS, ANSWERS, 0, context.device)
    step_losses = []
    for _ in range(steps):
        hidden = engine(
            input_ids=layout.input_ids,
            attention_mask=layout.attention_mask,
            position_ids=layout.position_ids,
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states[-1]
        chosen, _ = log_probs(layout.gather(hidden), model.get_output_embeddings(), layout.targets, 1.0)
        loss = -chosen.mean()
        engine.backward(loss)
        assert engine.step() > 0
        step_losses.append(float(loss.detach()))
    return step_losses, {name: weight.detach().cpu().clone() for name, weight in engine.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_learn_and_give_the_same_bits_again(context: StageContext, policy: Path, dtype: str) -> None:
    first, weights = losses(context, policy, dtype, 5)
    again, same = losses(context, policy, dtype, 5)
    assert first[-1] < first[0]
    assert again == first
    assert all(torch.equal(weight, same[name]) for name, weight in weights.items())
    assert all(weight.dtype == getattr(torch, dtype) for weight in weights.values())


def test_sampled_tokens_are_the_most_probable_of_a_whole_forward(context: StageContext, policy: Path) -> None:
    model, _ = load_policy(policy, "float32")
    model.to(context.device)
    answers = sample(model, PROMPTS, Sampling(0.0, 12, (2,)), seed=0)
    with torch.no_grad():
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            ids = torch.tensor([prompt + answer.ids], device=context.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            assert logits.argmax(-1).tolist() == answer.ids


def test_sampling_on_a_gpu_draws_what_the_processor_draws(context: StageContext, policy: Path) -> None:
    model, _ = load_policy(policy, "float32")
    sampling = Sampling(1.0, 12, (2,))
    expected = [answer.ids for answer in sample(model, PROMPTS, sampling, seed=3)]
    model.to(context.device)
    assert [answer.ids for answer in sample(model, PROMPTS, sampling, seed=3)] == expected


def test_log_probabilities_are_those_of_the_processor(context: StageContext, policy: Path) -> None:
    device_logps = []
    for device in (torch.device("cpu"), context.device):
        model, _ = load_policy(policy, "float32")
        model.to(device)
        layout = lay_out(PROMPTS, ANSWERS, 0, device)
        with torch.no_grad():
            hidden = model.model(
                input_ids=layout.input_ids, attention_mask=layout.attention_mask, position_ids=layout.position_ids
            ).last_hidden_state
            chosen, _ = log_probs(layout.gather(hidden), model.lm_head, layout.targets, 1.0)
        device_logps.append(chosen.cpu())
    assert torch.allclose(*device_logps, atol=1e-4)
