"""The terms of a rank's memory, each stated where it is computed.

The estimate is of the peak: the larger of loading (every model whole, before what they have in common is shared) and
training. Lengths are the longest that the spec allows, or that the data has where that is known. It is meant to say
"this cannot fit" before a GPU is asked for; the demo's stages measure within 25 % of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlhf_api.fields import DataRef, Reference, RulesRef, Scorer, references
from rlhf_api.job import Execution, RLHFJob, Stage
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.memory.lineage import Origin, origin
from rlhf_api.stages import Evaluate, Ppo, Rules, Sft, Simulate
from rlhf_api.stages.common import Batches, Optimizer
from rlhf_api.stages.preference import Preference

Device = Literal["cpu", "cuda"]

RUNTIME: dict[Device, int] = {"cpu": 860 << 20, "cuda": 1200 << 20}
"""A rank before it holds a model: the libraries' code on a CPU (measured), the driver's context on a GPU."""
TOKENS = 4096
"""Tokens of a forward in `sft`, preferences and evaluation, where the execution says nothing."""
PPO_TOKENS = 1024
"""Tokens of a forward in `ppo`, where the execution says nothing."""
SFT_LOGITS = 256
"""Positions whose logits `sft` holds at once."""
SHARD = 64
"""Prompts that `simulate` answers at once."""
CACHE = 2 << 30
"""Keys and values that sampling keeps on a CPU at most."""
CHUNK_LOGITS = 1 << 24
"""Logits that `ppo` and `evaluate` hold at once."""
GRADE_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward of a grader."""
GRADE_ROWS = 256
"""About as many questions in a forward of a grader."""
BUCKET = 50_000_000
"""Most elements of a buffer in which ZeRO gathers gradients."""

Lengths = Mapping[str, int]
"""Tokens of the longest row of an input, by its name, where that is known."""


class Missing(LookupError):
    """The facts of a model are not known. `args[0]` is the name of its input."""


@dataclass(frozen=True)
class Estimate:
    """Bytes a rank needs at its peak."""

    bytes: int
    """The sum of the parts."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes by what they are for, those of the peak's moment, largest first."""


def estimate(
    job: RLHFJob,
    stage: str,
    facts: Mapping[str, ModelFacts],
    *,
    ranks: int = 1,
    device: Device = "cpu",
    lengths: Lengths | None = None,
) -> Estimate | None:
    """What a rank of a stage needs.

    Args:
        job: A valid job.
        stage: Name of one of its stages.
        facts: Of every model among the job's inputs, by the input's name.
        ranks: Ranks of the stage: ZeRO shards over them.
        device: Where it runs: host memory on `cpu`, device memory on `cuda`.
        lengths: See Lengths; without them rows are taken to be as long as the spec allows.

    Returns:
        None for a stage that holds no model.

    Raises:
        KeyError: there is no such stage.
        Missing: facts of a model that the stage takes.
    """
    found = next((one for one in job.spec.stages if one.name == stage), None)
    if found is None:
        raise KeyError(stage)
    terms = _Terms(job, found, facts, ranks, device, lengths or {})
    moments = terms.moments()
    if not moments:
        return None
    parts = max(moments, key=lambda moment: sum(moment.values()))
    parts = {"runtime": RUNTIME[device], **parts}
    ordered = dict(sorted(((name, size) for name, size in parts.items() if size), key=lambda item: -item[1]))
    return Estimate(sum(ordered.values()), ordered)


class _Terms:
    def __init__(
        self, job: RLHFJob, stage: Stage, facts: Mapping[str, ModelFacts], ranks: int, device: Device, lengths: Lengths
    ) -> None:
        self.job = job
        self.execution: Execution = stage.execution
        self.spec = stage.spec
        self.facts = facts
        self.ranks = ranks
        self.device = device
        self.lengths = lengths

    def moments(self) -> list[dict[str, int]]:
        """Bytes by part at each moment that may be the peak."""
        if isinstance(self.spec, Sft | Preference):
            return self._fit(self.spec)
        if isinstance(self.spec, Ppo):
            return self._ppo(self.spec)
        if isinstance(self.spec, Evaluate):
            scorers = [*self.spec.rewards, *self.spec.costs]
            graders = [self._grader(self.spec.rule_based)] if self.spec.rule_based is not None else []
            models = [self.spec.baseline, *self.spec.candidates, *scorers, *graders]
            return self._asked(self.spec, models, 0)
        if isinstance(self.spec, Simulate):
            used = [one for one in references(self.spec) if not isinstance(one, DataRef)]
            return self._asked(self.spec, used, SHARD * 2 * self.spec.generation.samples)
        if isinstance(self.spec, Rules):
            return self._rules(self.spec)
        return []

    # ---- what all share

    def _model(self, reference: Reference) -> tuple[ModelFacts, Origin]:
        found = origin(self.job, reference)
        if found is None:
            raise Missing(reference.key)
        if found.input not in self.facts:
            raise Missing(found.input)
        return self.facts[found.input], found

    def _longest(self, data: list[DataRef], at_most: int) -> int:
        """Tokens of the longest row of some data."""
        known = [self.lengths.get(one.input, at_most) if one.input is not None else at_most for one in data]
        return min(at_most, max(known))

    def _size(self, dtype: str) -> int:
        return 2 if dtype == "bfloat16" else 4

    def _trained(self, model: ModelFacts, spec: Optimizer, layers: int | None) -> int:
        """Weights that move."""
        if spec.lora is not None:
            wide = 2 * model.hidden + 2 * model.query + 2 * (model.hidden + model.key)
            wide += 3 * (model.hidden + model.intermediate)
            return spec.lora.rank * wide * (layers or model.layers)
        if layers is not None:
            return layers * model.layer + model.hidden
        return model.parameters

    def _optimizer(self, trained: int, size: int) -> dict[str, int]:
        """Gradients, AdamW's two moments, and float32 copies of weights that ZeRO or bfloat16 keep."""
        zero = self.execution.zero
        sharded = zero >= 1 or size == 2 or self.execution.offload_optimizer
        share = -(-trained // self.ranks)
        states = 8 * (share if sharded else trained) + (4 * share if sharded else 0)
        if self.execution.offload_optimizer and self.device == "cuda":
            states = 0
        gradients = 4 * (share if zero >= 2 else trained)
        bucket = size * min(BUCKET, trained) if sharded else 0
        return {"optimizer": states, "gradients": gradients, "ZeRO buckets": bucket}

    def _activations(self, model: ModelFacts, layers: int, tokens: int, size: int) -> int:
        """What the backward pass keeps of `layers` layers.

        A token of a layer: norms (6 hidden), inputs of the projections (2 hidden), queries, keys, values and output
        of attention, its input to the output projection, and four of the feed-forward's width. With checkpointing a
        state a layer is kept, and one layer's rest exists at a time.
        """
        kept = 8 * model.hidden + 3 * model.query + 2 * model.key + 4 * model.intermediate
        if self.execution.gradient_checkpointing:
            return tokens * size * (layers * model.hidden + kept)
        return tokens * size * layers * kept

    def _forward(self, model: ModelFacts, tokens: int, size: int) -> int:
        """A forward that keeps nothing: states, and the widest layer's three products."""
        return tokens * size * (2 * model.hidden + 3 * model.intermediate)

    def _sharded(self, weights: int) -> int:
        """Weights of a trained model outside its steps."""
        return -(-weights // self.ranks) if self.execution.zero == 3 else weights

    # ---- sft, reward and cost models

    def _fit(self, spec: Sft | Preference) -> list[dict[str, int]]:
        model, _ = self._model(spec.model)
        size = self._size(spec.dtype)
        copies = spec.members if isinstance(spec, Preference) and _separate(spec) else 1
        layers = spec.trainable_layers
        trained = self._trained(model, spec, layers)
        frozen = model.parameters - trained if layers is not None else 0
        head = 0 if isinstance(spec, Sft) else model.hidden * (spec.members if copies == 1 else 1)
        tokens = self._row_tokens(spec)
        parts = {
            "weights": size * (frozen + copies * (self._sharded(model.parameters - frozen) + head)),
            "activations": self._activations(model, layers or model.layers, tokens, size)
            + (self._forward(model, tokens, size) if layers is not None else 0),
            "logits": 3 * 4 * SFT_LOGITS * model.vocabulary if isinstance(spec, Sft) else 0,
        }
        optimizer = self._optimizer(trained, size)
        parts |= {name: copies * bytes_ for name, bytes_ in optimizer.items()}
        return [parts]

    def _row_tokens(self, spec: Batches) -> int:
        """Tokens of a micro-batch: what the budget allows, or a whole batch where that is less."""
        data: list[DataRef] = spec.data if isinstance(spec, Sft | Preference) else []
        width = 2 if isinstance(spec, Preference) else 1
        longest = self._longest(data, spec.max_length)
        if isinstance(spec, Sft) and spec.packing:
            longest = spec.max_length
        batch = longest * width * -(-spec.batch_size // self.ranks)
        return max(longest * width, min(self.execution.micro_batch_tokens or TOKENS, batch))

    # ---- ppo

    def _ppo(self, spec: Ppo) -> list[dict[str, int]]:
        model, start = self._model(spec.policy)
        size = self._size(spec.dtype)
        layers = spec.trainable_layers
        others = self._ppo_models(spec, model, start)
        whole = {"weights of the policy": size * model.parameters}
        loading = whole | {f"weights of the {name}": size * whole_ for name, (whole_, _) in others.items()}
        kept = {"weights of the policy": size * self._kept(model, layers)}
        kept |= {f"weights of the {name}": size * own for name, (_, own) in others.items()}
        if self.device == "cpu":
            # Weights are mapped from their files, and a file stays mapped whole while one tensor of it is in use.
            kept = {name: max(bytes_, loading[name]) for name, bytes_ in kept.items()}
        critic, critic_layers = self._critic(spec)
        count = 1 if spec.critics.trunk == "shared" else 1 + len(spec.costs)
        states = self._optimizer(self._trained(model, spec, layers), size)
        critic_states = self._optimizer(self._trained(critic, spec, critic_layers), size)
        states = {name: states[name] + count * critic_states[name] for name in states}
        prompt = self._longest(spec.prompts, spec.rollout.max_prompt_tokens)
        row = prompt + spec.rollout.max_new_tokens
        answers = -(-spec.rollout.prompts * spec.rollout.samples // self.ranks)
        tokens = max(row, min(self.execution.micro_batch_tokens or PPO_TOKENS, row * answers))
        gathered = size * model.parameters if self.execution.zero == 3 else 0
        sampling = {
            "keys and values": 2 * size * answers * row * model.layers * model.key,
            "logits": 3 * 4 * answers * model.vocabulary,
            "gathered weights": gathered,
        }
        cut = (layers is not None) + count * (critic_layers is not None)
        remembered = {"states of a rollout": cut * size * answers * row * model.hidden}
        if spec.ptx is not None:
            width = self._longest(spec.ptx.data, spec.ptx.max_length)
            batch = width * -(-(spec.ptx.batch_size or answers) // self.ranks)
            tokens = max(tokens, min(self.execution.micro_batch_tokens or PPO_TOKENS, batch), width)
        updating = remembered | {
            "activations": self._activations(model, layers or model.layers, tokens, size)
            + count * self._activations(critic, critic_layers or critic.layers, tokens, size),
            "logits": 3 * 4 * CHUNK_LOGITS,
        }
        return [loading, kept | states | sampling, kept | states | updating]

    def _kept(self, model: ModelFacts, layers: int | None) -> int:
        """Weights of the policy between steps: under ZeRO 3 what is trained is sharded."""
        return model.parameters if layers is not None else self._sharded(model.parameters)

    def _critic(self, spec: Ppo) -> tuple[ModelFacts, int | None]:
        reference = spec.critics.model or next((one for one in spec.rewards if one.function is None), spec.policy)
        model, _ = self._model(reference)
        return model, spec.critics.trainable_layers or spec.trainable_layers

    def _ppo_models(self, spec: Ppo, policy: ModelFacts, start: Origin) -> dict[str, tuple[int, int]]:
        """(weights whole, weights of its own) of every other model.

        Layers that come unchanged from where the policy came from are held once, with the policy's; so are those
        that judges and critics have in common with one another below where they were trained.
        """
        frozen_policy = policy.layers - spec.trainable_layers if spec.trainable_layers is not None else 0
        found: dict[str, tuple[int, int]] = {}
        if spec.reference is not None:
            model, where = self._model(spec.reference)
            found["reference"] = (model.parameters, self._own(model, where, start, frozen_policy))
        elif spec.lora is None:
            own = policy.parameters if spec.trainable_layers is None else spec.trainable_layers * policy.layer
            found["reference"] = (own, own)
        gold = [spec.guards.gold] if spec.guards.gold is not None else []
        judges: dict[str, Sequence[Scorer]] = {"rewards": spec.rewards, "costs": spec.costs, "gold": gold}
        for name, scorers in judges.items():
            whole = own = 0
            for scorer in scorers:
                if scorer.function is not None:
                    continue
                model, where = self._model(scorer)
                whole += where.copies * model.parameters
                own += where.copies * self._own(model, where, start, frozen_policy)
            found[name] = (whole, own)
        critic, layers = self._critic(spec)
        count = 1 if spec.critics.trunk == "shared" else 1 + len(spec.costs)
        if layers is None:
            own = self._sharded(critic.parameters)
        else:
            shared = min(critic.layers - layers, frozen_policy)
            own = (critic.layers - shared) * critic.layer
        found["critics"] = (count * critic.parameters, count * own)
        if spec.rule_based is not None:
            grader, _ = self._model(self._grader(spec.rule_based))
            found["grader"] = (grader.parameters, grader.parameters)
        return found

    def _grader(self, rules: RulesRef) -> Reference:
        """The grader of rules: their own, or that of the stage that made them."""
        made = next((one.rule_based for one in self.job.spec.stages if one.name == rules.stage), None)
        found = rules.grader or (made.grader if made is not None else None)
        if found is None:
            raise Missing(f"{rules.key}.grader")
        return found

    def _own(self, model: ModelFacts, where: Origin, start: Origin, frozen_policy: int) -> int:
        """Weights that a frozen model does not share with the policy."""
        if where.input != start.input or where.trained is None or start.trained is None:
            return model.parameters
        shared = min(model.layers - max(where.trained, start.trained), frozen_policy)
        return (model.layers - shared) * model.layer + (0 if shared else model.embedding)

    # ---- evaluate, simulate

    def _asked(self, spec: Evaluate | Simulate, models: Sequence[Reference], least: int) -> list[dict[str, int]]:
        """Models are held one at a time; answers are sampled (`least` at once, as far as the cache allows), weighed and
        judged in turn."""
        size = self._size(spec.dtype)
        moments = []
        prompt = self._longest(spec.prompts, spec.generation.max_prompt_tokens)
        row = prompt + spec.generation.max_new_tokens
        rows = max(1, TOKENS // row)
        for reference in models:
            if reference.key.startswith("function:"):
                continue
            model, where = self._model(reference)
            cached = 2 * size * row * model.layers * model.key
            moments.append(
                {
                    "weights": size * where.copies * model.parameters,
                    "keys and values": max(rows * cached, min(least * cached, CACHE)),
                    "forward": self._forward(model, rows * row, size),
                    "logits": 2 * 4 * CHUNK_LOGITS,
                }
            )
        return moments

    # ---- rules

    def _rules(self, spec: Rules) -> list[dict[str, int]]:
        """Grader and reward model in turn; of grading, the beginnings' keys and values stay while questions run."""
        size, moments = self._size(spec.dtype), []
        longest = self._longest([*spec.completions, *spec.gold], spec.max_tokens)
        budget = GRADE_TOKENS[self.device]
        for reference in ([spec.grader] if spec.grader is not None else []) + [spec.reward]:
            if reference.key.startswith("function:"):
                continue
            model, where = self._model(reference)
            tokens = max(longest, budget)
            moments.append(
                {
                    "weights": size * where.copies * model.parameters,
                    "keys and values": 2 * size * tokens * model.layers * model.key,
                    "forward": self._forward(model, tokens, size),
                    "logits": 2 * 4 * GRADE_ROWS * model.vocabulary,
                }
            )
        return moments


def _separate(spec: Preference) -> bool:
    return spec.ensemble is not None and spec.ensemble.trunk == "separate"
