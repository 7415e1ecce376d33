"""Capability: what a job asks of its models that they cannot do, told from config.json and headers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhf_api.capability import problems, read_traits, words
from rlhf_api.job import RLHFJob
from rlhf_api.load import parse_job
from rlhf_api.yaml import dump_yaml
from rlhf_sdk.cli import app

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
}
WEIGHTS = {
    "model.embed_tokens.weight": [100, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.mlp.up_proj.weight": [16, 8],
    "model.layers.0.input_layernorm.weight": [8],
}
REWARD = LLAMA | {"architectures": ["LlamaForSequenceClassification"]}


def model(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]] | None = None) -> Path:
    """A folder with a configuration and the header of weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({name: {"dtype": "F32", "shape": shape} for name, shape in (shapes or WEIGHTS).items()})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    return folder


def job(*stages: dict[str, Any]) -> RLHFJob:
    inputs = [{"name": name, "source": name} for name in ("base", "judge")]
    inputs.append({"name": "rows", "source": "rows.jsonl"})
    text = json.dumps(stages)
    used = [entry for entry in inputs if f'"input": "{entry["name"]}"' in text]
    return parse_job(
        {
            "apiVersion": "rlhf.dev/v1alpha1",
            "kind": "RLHFJob",
            "metadata": {"name": "a"},
            "spec": {"inputs": used, "stages": list(stages)},
        }
    )


def sft(**fields: Any) -> dict[str, Any]:
    return {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "rows"}], **fields}}


def reward(**fields: Any) -> dict[str, Any]:
    return {"name": "reward", "rewardModel": {"model": {"input": "base"}, "data": [{"input": "rows"}], **fields}}


def moderation(**fields: Any) -> dict[str, Any]:
    return {"name": "labels", "moderation": {"model": {"input": "base"}, "data": [{"input": "rows"}], **fields}}


def ppo(**fields: Any) -> dict[str, Any]:
    spec = {"policy": {"input": "base"}, "rewards": [{"function": "a:b"}], "prompts": [{"input": "rows"}], **fields}
    return {"name": "ppo", "ppo": spec}


def evaluate(**fields: Any) -> dict[str, Any]:
    spec = {"candidates": [{"input": "judge"}], "baseline": {"input": "base"}, "prompts": [{"input": "rows"}], **fields}
    return {"name": "evaluate", "evaluate": spec}


SIMULATE = {"name": "simulate", "simulate": {"model": {"input": "base"}, "rlcd": {}, "prompts": [{"input": "rows"}]}}


def problem_text(
    tmp_path: Path,
    stages: list[dict[str, Any]],
    base: dict[str, Any] = LLAMA,
    judge: dict[str, Any] = LLAMA,
    heads: dict[str, list[int]] | None = None,
) -> str:
    """What is said of a job with these two models."""
    base = {"architectures": ["XForCausalLM"], **base}
    traits = {"base": model(tmp_path / "base", base), "judge": model(tmp_path / "judge", judge, heads)}
    parsed = job(*stages)
    readable = {
        name: model_traits for name, folder in traits.items() if (model_traits := read_traits(folder)) is not None
    }
    return "\n".join(words(parsed, finding) for finding in problems(parsed, readable))


RECURRENT = (
    "mamba",
    "mamba2",
    "falcon_mamba",
    "rwkv",
    "recurrent_gemma",
    "jamba",
    "bamba",
    "zamba2",
    "nemotron_h",
    "granitemoehybrid",
    "falcon_h1",
    "qwen3_next",
    "kimi_linear",
    "minimax",
)


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize(
    ("stage", "where"),
    [
        (ppo(), "stage ppo, ppo.policy: "),
        (evaluate(), "stage evaluate, evaluate.baseline: "),
        (SIMULATE, "stage simulate, simulate.model: "),
    ],
)
def test_recurrent_and_linear_attention_models_may_not_answer(
    tmp_path: Path, kind: str, stage: dict[str, Any], where: str
) -> None:
    text = problem_text(tmp_path, [stage], {"model_type": kind})
    assert where in text
    assert "sampling here keeps keys and values only" in text


def test_a_model_of_other_layers_than_attention_is_told_by_its_layers_and_may_be_fine_tuned(tmp_path: Path) -> None:
    mixed = LLAMA | {"layer_types": ["conv", "full_attention"] * 2}
    assert "stage ppo, ppo.policy: " in problem_text(tmp_path / "one", [ppo()], mixed)
    assert problem_text(tmp_path / "two", [sft()], mixed) == ""


def test_what_a_later_stage_cannot_do_with_an_earlier_ones_product_is_told_before_the_earlier_runs(
    tmp_path: Path,
) -> None:
    text = problem_text(tmp_path, [sft(), ppo(policy={"stage": "sft"})], {"model_type": "mamba"})
    assert text.startswith("stage ppo, ppo.policy: base is a mamba model")


@pytest.mark.parametrize(
    ("config", "stages", "expected"),
    [
        (
            {"model_type": "granite"},
            [reward()],
            "stage reward, rewardModel.model: base is a granite model, which has no",
        ),
        (
            {"model_type": "granite"},
            [moderation()],
            "stage labels, moderation.model: base is a granite model, which has no",
        ),
        (
            LLAMA,
            [moderation(maxLength=4096)],
            "stage labels, moderation.maxLength: found 4096; base has 2048 positions",
        ),
        ({"model_type": "glm4_moe"}, [sft(), reward(model={"stage": "sft"})], "stage reward, rewardModel.model: "),
        (
            {"model_type": "gemma3", "text_config": {}, "vision_config": {}},
            [sft()],
            "stage sft, sft.model: base is a gemma3 model (XForCausalLM), of several parts",
        ),
        ({"model_type": "qwen2_5_vl", "vision_config": {}}, [ppo()], "stage ppo, ppo.policy: base is a qwen2_5_vl"),
        ({"model_type": "bert"}, [sft()], "stage sft, sft.model: base is a bert model"),
        (
            {"model_type": "gemma2", "final_logit_softcapping": 30.0},
            [reward(), ppo()],
            "stage ppo, ppo.policy: base is a gemma2 model that changes its logits after the output head",
        ),
        ({"model_type": "cohere"}, [sft()], "stage sft, sft.model: base is a cohere model that changes its logits"),
        ({"model_type": "granite", "logits_scaling": 8.0}, [sft()], "base is a granite model that changes its logits"),
        ({"model_type": "t5", "is_encoder_decoder": True}, [sft()], "stage sft, sft.model: base is a t5 model"),
        ({"model_type": "deberta-v2"}, [reward()], "stage reward, rewardModel.model: base is a deberta-v2 model"),
        (
            LLAMA | {"quantization_config": {"quant_method": "gptq"}},
            [sft()],
            "stage sft, sft.model: base has quantised weights (gptq)",
        ),
        (LLAMA, [sft(maxLength=4096)], "stage sft, sft.maxLength: found 4096; base has 2048 positions"),
        (LLAMA, [reward(maxLength=4096)], "stage reward, rewardModel.maxLength: found 4096; base has 2048"),
        (LLAMA, [ppo(rollout={"maxNewTokens": 2048})], "stage ppo, ppo.rollout.maxNewTokens: found 2048; base has"),
        (
            LLAMA,
            [ppo(ptx={"data": [{"input": "rows"}], "maxLength": 4096})],
            "stage ppo, ppo.ptx.maxLength: found 4096; base has 2048",
        ),
        (LLAMA, [evaluate(generation={"maxNewTokens": 4000})], "evaluate.generation.maxNewTokens: found 4000"),
        (LLAMA, [sft(trainableLayers=4)], "stage sft, sft.trainableLayers: found 4 of base, a model of 4 layers"),
        (
            LLAMA,
            [ppo(critics={"trainableLayers": 9})],
            "stage ppo, ppo.critics.trainableLayers: found 9 of base, a model of 4 layers",
        ),
        (
            LLAMA,
            [sft(lora={"targets": ["up_proj", "qkv"]})],
            "stage sft, sft.lora.targets[1]: found qkv; base has q_proj, up_proj",
        ),
        (
            {"model_type": "gpt2"},
            [sft(lora={"rank": 2})],
            "stage sft, sft.lora: found lora; base is a gpt2 model, which has no linear layers for adapters",
        ),
        (REWARD, [sft()], "stage sft, sft.model: found LlamaForSequenceClassification (base); expected a language"),
        (
            {"model_type": "gpt_oss"},
            [sft(packing=True)],
            "stage sft, sft.packing: found true; in a gpt_oss model (base) packed conversations see each other",
        ),
        ({"model_type": "mamba"}, [sft(packing=True)], "stage sft, sft.packing: found true; in a mamba model"),
    ],
)
def test_what_cannot_run_is_named_by_stage_and_field(
    tmp_path: Path, config: dict[str, Any], stages: list[dict[str, Any]], expected: str
) -> None:
    assert expected in problem_text(tmp_path, stages, config)


def test_logits_that_a_configuration_leaves_alone_are_fine(tmp_path: Path) -> None:
    assert problem_text(tmp_path, [sft(), ppo()], {"model_type": "gemma2", "final_logit_softcapping": None}) == ""


def test_layers_that_lie_elsewhere_are_not_cut_and_stacked_experts_are_no_targets(tmp_path: Path) -> None:
    opt = model(tmp_path / "opt", {"model_type": "opt"}, {"model.decoder.layers.0.fc1.weight": [8, 8]})
    experts = {
        "model.layers.0.mlp.experts.0.w1.weight": [8, 8],
        "model.layers.0.mlp.shared_experts.up_proj.weight": [8, 8],
    }
    mixed = model(tmp_path / "moe", {"model_type": "mixtral"}, experts)
    traits = [read_traits(folder) for folder in (opt, mixed)]
    assert [model_traits and model_traits.cuts for model_traits in traits] == [False, True]
    assert [model_traits and model_traits.modules for model_traits in traits] == [{"fc1"}, {"up_proj"}]
    parsed = job(sft(trainableLayers=1))
    (finding,) = problems(parsed, {"base": traits[0]}) if traits[0] is not None else []
    assert words(parsed, finding).startswith("stage sft, sft.trainableLayers: found 1; base is a opt model")


@pytest.mark.parametrize("labels", [2, 3])
def test_a_classifier_of_several_labels_is_no_reward(tmp_path: Path, labels: int) -> None:
    text = problem_text(tmp_path, [ppo(rewards=[{"input": "judge"}])], LLAMA, REWARD, {"score.weight": [labels, 8]})
    assert text.startswith(f"stage ppo, ppo.rewards[0]: judge is a classifier of {labels} labels; expected one label")


MANY = REWARD | {"problem_type": "multi_label_classification", "id2label": {"0": "toxic", "1": "leak", "2": "bias"}}
THREE = {"score.weight": [3, 8]}
REDTEAM = {
    "name": "attack",
    "simulate": {
        "model": {"input": "base"},
        "prompts": [{"input": "rows"}],
        "redTeam": {"target": {"input": "base"}, "costs": [{"input": "judge", "labels": ["toxik"]}]},
    },
}


@pytest.mark.parametrize(
    ("stage", "config", "heads", "expected"),
    [
        (ppo(costs=[{"input": "judge", "labels": ["leak"]}]), MANY, THREE, ""),
        (ppo(costs=[{"input": "judge"}]), MANY, THREE, ""),
        (
            ppo(costs=[{"input": "judge", "labels": ["leak", "toxik"]}]),
            MANY,
            THREE,
            "stage ppo, ppo.costs[0].labels[1]: judge has no label toxik (did you mean toxic?)",
        ),
        (REDTEAM, MANY, THREE, "stage attack, simulate.redTeam.costs[0].labels[0]: judge has no label toxik"),
        (
            ppo(costs=[{"input": "judge", "labels": ["zzz"]}]),
            MANY,
            THREE,
            "stage ppo, ppo.costs[0].labels[0]: judge has no label zzz (there are toxic, leak, bias)",
        ),
        (
            ppo(costs=[{"input": "judge", "labels": ["LABEL_3"]}]),
            REWARD | {"problem_type": "multi_label_classification"},
            THREE,
            "ppo.costs[0].labels[0]: judge has no label LABEL_3 (did you mean LABEL_",
        ),
        (
            ppo(costs=[{"input": "judge"}]),
            REWARD,
            {"score.weight": [2, 8]},
            "stage ppo, ppo.costs[0]: judge is a classifier of 2 labels; expected one label, whose logit is the score",
        ),
        (
            ppo(costs=[{"input": "judge", "labels": ["harm"]}]),
            REWARD,
            {"score.weight": [1, 8]},
            "stage ppo, ppo.costs[0].labels: found labels for judge, which has none",
        ),
        (
            ppo(rewards=[{"input": "judge"}]),
            MANY,
            THREE,
            "stage ppo, ppo.rewards[0]: judge is a moderation model (toxic, leak, bias); expected a reward model",
        ),
    ],
)
def test_labels_of_an_input_that_judges_harm_are_those_of_its_configuration(
    tmp_path: Path, stage: dict[str, Any], config: dict[str, Any], heads: dict[str, list[int]], expected: str
) -> None:
    text = problem_text(tmp_path, [stage], LLAMA, config, heads)
    assert expected in text
    assert bool(text) == bool(expected)


def test_a_moderation_product_of_one_label_is_no_reward(tmp_path: Path) -> None:
    folder = model(tmp_path / "judge", REWARD | {"id2label": {"0": "toxic"}}, {"score.weight": [1, 8]})
    (folder / "moderation.json").write_text("{}")
    traits = read_traits(folder)
    assert traits is not None
    assert traits.label_names == ("toxic",)
    assert not list(problems(job(ppo(costs=[{"input": "judge", "labels": ["toxic"]}])), {"judge": traits}))
    (finding,) = problems(job(ppo(rewards=[{"input": "judge"}])), {"judge": traits})
    assert finding.hint == "put it under costs: its labels say what is harmful"


def test_a_language_model_is_no_reward_and_a_head_of_one_row_is(tmp_path: Path) -> None:
    stage = ppo(rewards=[{"input": "judge"}])
    assert "ppo.rewards[0]: found LlamaForCausalLM (judge); expected a reward" in problem_text(
        tmp_path / "one", [stage]
    )
    assert problem_text(tmp_path / "two", [stage], LLAMA, REWARD, {"score.weight": [1, 8]}) == ""


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "longest", "reason"),
    [
        ({"rope_type": "dynamic", "factor": 4.0}, 2048, "depend on the longest row"),
        (
            {"type": "longrope", "original_max_position_embeddings": 512, "factor": 4.0},
            512,
            "depend on the longest row",
        ),
        ({"rope_type": "yarn", "factor": 4.0}, 8192, "positions"),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 2048, "positions"),
        ({"full_attention": {"rope_type": "dynamic", "factor": 2.0}}, 2048, "depend on the longest row"),
    ],
)
def test_rows_may_be_as_long_as_positions_reach_and_do_not_depend_on_the_longest_row(
    tmp_path: Path, key: str, rope: dict[str, Any], longest: int, reason: str
) -> None:
    config = LLAMA | {key: rope}
    assert problem_text(tmp_path / "within", [sft(maxLength=longest)], config) == ""
    assert reason in problem_text(tmp_path / "beyond", [sft(maxLength=longest + 1)], config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": ["llama"]},
        LLAMA
        | {
            "architectures": "x",
            "layer_types": 3,
            "rope_scaling": [1],
            "max_position_embeddings": "many",
            "num_hidden_layers": -1,
        },
        LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 1e400, "x": {"y": {}}}},
    ],
)
def test_a_strange_configuration_says_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    assert problem_text(tmp_path, [sft(maxLength=1024)], config) == ""


def test_validate_looks_at_local_models_and_names_the_line(tmp_path: Path) -> None:
    model(tmp_path / "base", LLAMA)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    text = dump_yaml(job(sft(maxLength=4096)).model_dump(mode="json", exclude_none=True))
    (tmp_path / "job.yaml").write_text(text)
    result = CliRunner().invoke(app, ["validate", str(tmp_path / "job.yaml"), "--output", "json"])
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["files"][0]["problems"]
    assert problem["path"] == "spec.stages[0].sft.maxLength"
    assert text.splitlines()[problem["line"] - 1].strip() == "maxLength: 4096"
