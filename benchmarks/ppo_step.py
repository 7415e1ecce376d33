"""Our PPO-Lagrangian step on CPU: seconds a phase, memory; and our losses on another trainer's samples.

    python benchmarks/ppo_step.py MODEL PROMPTS.json [--batch 16] [--max-length 96] [--steps 3] [--distinct]
    python benchmarks/ppo_step.py MODEL PROMPTS.json --peer DUMP/peer.pt

MODEL is policy, reference, reward, cost and critics, as in `peers/safe_rlhf_step.py`, whose prompt template is used too:
the same prompts, answers up to the same length, all layers trained, float32. Since all are one model, reference, reward
and cost run as one trunk (`ppo/frozen.py`); `--distinct` makes reward and cost models differ in every weight, as they
would if they were trained apart in full: nothing is then shared. Prints one JSON line a step.

With `--peer` one step is made on the dumped sequences with the dumped score heads, multiplier and settings, nothing
sampled; the line printed holds our losses beside the peer's. Its losses are means over each answer's tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_api.stage_file import StageFile
from rlhf_api.stages.ppo import Ppo
from rlhf_trainer import deepspeed_ops, rng
from rlhf_trainer.context import StageContext
from rlhf_trainer.ppo.models import Models, load
from rlhf_trainer.ppo.rollout import Prompts, Rollout
from rlhf_trainer.ppo.task import PpoTask
from rlhf_trainer.storage.checkpoints import Checkpoints
from rlhf_trainer.telemetry.metrics import Metrics
from rlhf_trainer.telemetry.progress import Progress

TEMPLATE = "BEGINNING OF CONVERSATION: USER: {} ASSISTANT:"


def options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--separate", action="store_true", help="one critic model a head, as the peer")
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--peer", type=Path)
    return parser.parse_args()


def write_scorer(model: str, folder: Path, head: torch.Tensor | None, noise: float) -> str:
    """MODEL as a reward or cost model with a given or drawn score head."""
    config = AutoConfig.from_pretrained(model)
    config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_pretrained(model, config=config, dtype=torch.float32)
    with torch.no_grad():
        scorer.score.weight.copy_(torch.randn_like(scorer.score.weight) / 24 if head is None else head.reshape(1, -1))
        if noise:
            for weight in scorer.model.parameters():
                weight.add_(torch.randn_like(weight) * noise)
    scorer.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def make_context(work: Path, spec: dict[str, Any], inputs: dict[str, str], execution: dict[str, Any]) -> StageContext:
    """A stage's context in this process."""
    file = StageFile.model_validate(
        {
            "version": "1",
            "job": "bench",
            "uid": "bench",
            "stage": "ppo",
            "type": "ppo",
            "digest": "0" * 64,
            "spec": spec,
            "seed": 0,
            "execution": execution,
            "directories": {"storage": str(work), "work": str(work), "job": str(work)},
            "inputs": {name: {"path": path, "digest": "0" * 64} for name, path in inputs.items()},
        },
        strict=False,
    )
    rng.seed_all(0)
    return StageContext(
        file=file,
        rank=0,
        world=1,
        local_rank=0,
        device=torch.device("cpu"),
        work=work,
        metrics=Metrics(work),
        progress=Progress({}),
        checkpoints=Checkpoints(work / "checkpoints", digest=file.digest, rank=0, world=1, keep=1),
        stop=threading.Event(),
    )


class Given(Prompts):
    """Answers that another trainer sampled."""

    def __init__(self, rollout: Rollout) -> None:
        self._given = rollout

    def sample(self, model: Any, tokenizer: Any, step: int, rank: int, world: int) -> Rollout:
        return self._given


def peers_rollout(sample: dict[str, torch.Tensor], tokenizer: Any) -> Rollout:
    """The peer's sequences: prompts padded left, answers right, told apart by the prompts' width."""
    width = sample["prompt"].shape[1]
    prompts, answers = [], []
    for ids, mask in zip(sample["input_ids"], sample["attention_mask"].bool(), strict=True):
        prompts.append(ids[:width][mask[:width]].tolist())
        size = int(mask[width:].sum())
        if not bool(mask[width : width + size].all()):
            raise SystemExit("a response holds PAD in its middle: the peer masks it out, we do not; sample again")
        answers.append(ids[width : width + size].tolist())
    eos = tokenizer.eos_token_id
    return Rollout(
        messages=[({"role": "user", "content": ""},)] * len(prompts),
        prompts=prompts,
        answers=answers,
        finished=[answer[-1] == eos for answer in answers],
        texts=tokenizer.batch_decode(answers),
    )


def spec_of(arguments: argparse.Namespace, longest: int, settings: dict[str, float]) -> dict[str, Any]:
    """Settings equal to the peer's defaults, or to what it dumped."""
    return {
        "policy": {"input": "model"},
        "rewards": [{"input": "reward"}],
        "costs": [{"input": "cost"}],
        "prompts": [{"input": "prompts"}],
        "steps": max(arguments.steps, 1),
        "rollout": {"prompts": arguments.batch, "maxNewTokens": longest},
        "lossNormalization": "sequences",
        "clip": settings.get("clip_range_ratio", 0.2),
        "rewardClip": settings.get("clip_range_score", 50.0),
        "gamma": settings.get("gamma", 1.0),
        "gaeLambda": settings.get("gae_lambda", 0.95),
        "kl": {"coefficient": settings.get("kl_coeff", 0.02)},
        "lagrange": {"rule": "safe-rlhf", "initial": settings.get("multiplier", 1.0)},
        "critics": {
            "trunk": "separate" if arguments.separate or arguments.peer else "shared",
            "valueClip": settings.get("clip_range_value", 5.0),
        },
    }


def main() -> None:
    """Run one of the two modes."""
    arguments = options()
    deepspeed_ops.build_once()
    dump = torch.load(arguments.peer, map_location="cpu", weights_only=True) if arguments.peer else None
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        heads = dump["heads"] if dump else {}
        noise = 1e-3 if arguments.distinct else 0.0
        torch.manual_seed(1)
        inputs = {"input:model": arguments.model, "input:prompts": str(arguments.prompts)}
        for name in ("reward", "cost"):
            head = heads[f"{name}_model"]["weight"] if dump else None
            inputs[f"input:{name}"] = write_scorer(arguments.model, work / name, head, noise)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        ids = [tokenizer(TEMPLATE.format(text))["input_ids"] for text in json.loads(arguments.prompts.read_text())]
        longest = arguments.max_length - max(map(len, ids))
        execution = {"microBatchTokens": arguments.micro_batch_tokens} if arguments.micro_batch_tokens else {}
        context = make_context(work, spec_of(arguments, longest, dump["settings"] if dump else {}), inputs, execution)
        spec = context.spec(Ppo)
        models = load(context, spec)
        if dump:
            losses(context, spec, models, dump)
        else:
            messages = [({"role": "user", "content": ""},)] * len(ids)
            steps(context, arguments, PpoTask(context, spec, models, Prompts(messages, ids, spec.rollout, 0), None))


def losses(context: StageContext, spec: Ppo, models: Models, dump: dict[str, Any]) -> None:
    """One step on the peer's samples; prints both sides' losses."""
    for critic in models.critics:
        head = dump["heads"][f"{critic.name}_critic_model"]
        with torch.no_grad():
            critic.module.heads.weight.copy_(head["weight"].reshape(1, -1))
            critic.module.heads.bias.copy_(head["bias"].reshape(-1) if "bias" in head else torch.zeros(1))
    task = PpoTask(context, spec, models, Given(peers_rollout(dump["sample"], models.tokenizer)), None)
    metrics = task.step(0)
    ours = {
        "actor_loss": metrics["policy_loss"],
        "reward_critic_loss": metrics["value_loss"],
        "cost_critic_loss": metrics["cost_value_loss.cost"],
    }
    print(json.dumps({"ours": ours, "peer": dump["losses"], "reward": metrics["reward"], "cost": metrics["cost.cost"]}))


def steps(context: StageContext, arguments: argparse.Namespace, task: PpoTask) -> None:
    """Timed steps; prints a line each."""
    for step in range(arguments.steps):
        start = time.perf_counter()
        metrics = task.step(step)
        seconds = time.perf_counter() - start
        context.metrics.log(step + 1, metrics)
        context.metrics.flush()
        timing = json.loads((context.work / "timings.jsonl").read_text().splitlines()[-1])
        row = {
            "step_s": round(seconds, 2),
            "phases_s": {name: round(value, 2) for name, value in timing["phases"].items()},
            "response_tokens": int(metrics["tokens"]),
            "tokens": timing["tokens"]["update"],
            "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "frozen_layers": task.frozen_layers,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
