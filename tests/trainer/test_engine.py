"""DeepSpeed behind four methods: every way of sharding takes the same steps as plain PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import engine_cases
import pytest
import torch
from engine_cases import ROWS, SPEC, STEPS, engine_context, network, rows
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlhf_api.stages.common import Optimizer
from rlhf_trainer import deepspeed_ops
from rlhf_trainer.engine import Engine, deepspeed_config, learning_rate, parameter_groups

ZERO = (0, 1, 2, 3)
CASES: list[dict[str, Any]] = [
    *({"dtype": "float32", "execution": {"zero": zero}} for zero in ZERO),
    {"dtype": "float32", "execution": {"zero": 2, "offloadOptimizer": True}},
    *({"dtype": "bfloat16", "execution": {"zero": zero}} for zero in (0, 2, 3)),
]
NAMES = [f"{case['dtype']}-{json.dumps(case['execution'])}" for case in CASES]


@pytest.fixture(scope="module", params=(1, 2), ids=("one rank", "two ranks"))
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return engine_cases.run(request.param, CASES, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The same steps by hand: torch's AdamW, whole batches, torch's clipping."""
    module = network("float32")
    spec = Optimizer.model_validate(SPEC)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.0)
    norms = []
    for step in range(STEPS):
        inputs, targets = rows(step)
        (module(inputs) - targets).square().sum().div(ROWS).backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, 1.0)))
        for group in adam.param_groups:
            group["lr"] = learning_rate(spec, step, STEPS)
        adam.step()
        adam.zero_grad()
    state = {name: value.flatten().tolist() for name, value in module.state_dict().items()}
    return {"norms": norms, "state": state, "answers": module(rows(0)[0]).flatten().tolist()}


@pytest.mark.parametrize("case", range(len(CASES)), ids=NAMES)
class TestEveryWayOfSharding:
    def test_takes_the_steps_of_plain_pytorch(
        self, results: list[dict[str, Any]], plain: dict[str, Any], case: int
    ) -> None:
        result = results[case]
        loose = CASES[case]["dtype"] == "bfloat16"
        assert result["norms"] == pytest.approx(plain["norms"], rel=2e-2 if loose else 1e-4)
        for name, expected in plain["state"].items():
            assert result["state"][name] == pytest.approx(expected, abs=2e-2 if loose else 2e-5), name

    def test_goes_on_from_a_save_bit_for_bit(self, results: list[dict[str, Any]], case: int) -> None:
        result = results[case]
        assert result["again"] == result["norms"]
        assert result["resumed"] == result["state"]

    def test_gives_whole_weights_for_rollouts_whatever_each_rank_runs_and_then_trains_on(
        self, results: list[dict[str, Any]], plain: dict[str, Any], case: int
    ) -> None:
        result = results[case]
        assert result["shapes"] == [list(parameter.shape) for parameter in network("float32").parameters()]
        loose = CASES[case]["dtype"] == "bfloat16"
        assert result["answers"] == pytest.approx(plain["answers"], abs=0.1 if loose else 1e-4)
        assert all(math.isfinite(norm) for norm in result["after"])

    def test_leaves_frozen_weights_out_of_what_it_saves(self, results: list[dict[str, Any]], case: int) -> None:
        assert not results[case]["frozen_saved"]


def test_deepspeed_uses_the_op_that_was_built() -> None:
    from deepspeed.comm import comm

    Engine(
        network("float32"),
        optimizer=Optimizer.model_validate(SPEC),
        total_steps=2,
        context=engine_context(0, 1),
        name="m",
    )
    assert comm.cdb.shm_comm_op.__file__ == str(deepspeed_ops.library())


def test_a_gradient_that_is_not_finite_is_reported_as_nan() -> None:
    engine = Engine(
        network("float32"),
        optimizer=Optimizer.model_validate(SPEC),
        total_steps=2,
        context=engine_context(0, 1),
        name="m",
    )
    engine.backward(engine(rows(0)[0]).sum() * math.inf)
    assert math.isnan(engine.step())


def test_loading_a_state_that_is_not_there_says_so(tmp_path: Path) -> None:
    engine = Engine(
        network("float32"),
        optimizer=Optimizer.model_validate(SPEC),
        total_steps=2,
        context=engine_context(0, 1),
        name="critic",
    )
    with pytest.raises(FileNotFoundError, match="no state of engine 'critic'"):
        engine.load(tmp_path)


def test_only_the_given_parameters_train() -> None:
    module = network("float32")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    engine = Engine(
        module,
        optimizer=Optimizer.model_validate(SPEC),
        total_steps=2,
        context=engine_context(0, 1),
        name="m",
        parameters=module[4].parameters(),
    )
    engine.backward(engine(rows(0)[0]).square().mean())
    engine.step()
    moved = {name for name, value in engine.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"4.weight", "4.bias"}


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    module = nn.ModuleDict({"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "frozen": nn.Linear(2, 2)})
    module["frozen"].requires_grad_(False)
    decayed, plain = parameter_groups(module.parameters(), 0.3)
    assert [id(p) for p in decayed["params"]] == [id(module["linear"].weight)]
    assert decayed["weight_decay"] == 0.3
    assert {id(p) for p in plain["params"]} == {
        id(module["linear"].bias),
        id(module["norm"].weight),
        id(module["norm"].bias),
    }
    assert plain["weight_decay"] == 0.0


def rate(step: int, total: int, **fields: Any) -> float:
    return learning_rate(Optimizer.model_validate({"learningRate": 1.0, **fields}), step, total)


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing_after_the_last_step() -> None:
    linear = [rate(step, 10, schedule="linear", warmupRatio=0.2) for step in range(11)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0])


def test_half_a_cosine_passes_its_middle_at_half_the_peak() -> None:
    assert rate(5, 10, schedule="cosine", warmupRatio=0.0) == pytest.approx(0.5)
    assert rate(10, 10, schedule="cosine", warmupRatio=0.0) == pytest.approx(0.0)


@given(st.integers(1, 400), st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1), st.data())
def test_every_step_of_a_run_moves_the_weights_and_none_beyond_the_peak(
    total: int, schedule: str, warmup: float, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))
    assert 0 < rate(step, total, schedule=schedule, warmupRatio=warmup) <= 1


def test_the_caller_owns_the_boundaries_and_deepspeed_never_divides_by_a_count_of_its_own() -> None:
    config = deepspeed_config(engine_context(0, 1, zero=2).file.execution, Optimizer.model_validate(SPEC))
    assert config["managed_gradient_accumulation"] is False
    assert config["gradient_accumulation_steps"] == 1
