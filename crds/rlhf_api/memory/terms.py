"""What the estimates of all stages rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rlhf_api.fields import DataRef, Reference, RulesRef
from rlhf_api.job import Execution, RLHFJob, Stage
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.memory.lineage import Origin, origin
from rlhf_api.stages.common import Optimizer

Device = Literal["cpu", "cuda"]
Moment = dict[str, int]
"""Bytes by what they are for."""
Lengths = Mapping[str, int]
"""Tokens of the longest row of an input, by its name, where that is known."""
TOKENS = 4096
"""Tokens of a forward in evaluation, and on a CPU in `sft` and preferences, where the execution says nothing."""
GPU_TOKENS = 16384
"""The same of a GPU in all trained stages."""
CHUNK_LOGITS = 1 << 24
"""Logits that `ppo` and `evaluate` hold at once."""
BUCKET = 50_000_000
"""Most elements of a buffer in which ZeRO gathers gradients."""


class Missing(LookupError):
    """The facts of a model are not known. `args[0]` is the name of its input."""


class Terms:
    """One stage of a job, the models it rests on, and where it runs."""

    def __init__(
        self, job: RLHFJob, stage: Stage, facts: Mapping[str, ModelFacts], ranks: int, device: Device, lengths: Lengths
    ) -> None:
        self.job = job
        self.execution: Execution = stage.execution
        self.spec = stage.spec
        self.facts = facts
        self.ranks = ranks
        self.device: Device = device
        self.lengths = lengths

    def model(self, reference: Reference) -> tuple[ModelFacts, Origin]:
        """A model's facts and where it comes from.

        Raises:
            Missing: they are not known.
        """
        source = origin(self.job, reference)
        if source is None:
            raise Missing(reference.key)
        if source.input not in self.facts:
            raise Missing(source.input)
        return self.facts[source.input], source

    def longest(self, data: list[DataRef], at_most: int) -> int:
        """Tokens of the longest row of some data."""
        lengths = [
            self.lengths.get(reference.input, at_most) if reference.input is not None else at_most for reference in data
        ]
        return min(at_most, max(lengths))

    def size(self, dtype: str) -> int:
        """Bytes of a weight."""
        return 2 if dtype == "bfloat16" else 4

    def trained(self, model: ModelFacts, spec: Optimizer, layers: int | None) -> int:
        """Weights that move."""
        if spec.lora is not None:
            wide = 2 * model.hidden + 2 * model.query + 2 * (model.hidden + model.key)
            wide += 3 * (model.hidden + model.intermediate)
            return spec.lora.rank * wide * (layers or model.layers)
        if layers is not None:
            return layers * model.layer + model.hidden
        return model.parameters

    def optimizer(self, trained: int, size: int) -> dict[str, int]:
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

    def activations(self, model: ModelFacts, layers: int, tokens: int, size: int) -> int:
        """What the backward pass keeps of `layers` layers.

        A token of a layer: norms (6 hidden), inputs of the projections (2 hidden), queries, keys, values and output
        of attention, its input to the output projection, and four of the feed-forward's width. With checkpointing a
        state a layer is kept, and one layer's rest exists at a time.
        """
        per_layer = 8 * model.hidden + 3 * model.query + 2 * model.key + 4 * model.intermediate
        if self.execution.gradient_checkpointing:
            return tokens * size * (layers * model.hidden + per_layer)
        return tokens * size * layers * per_layer

    def forward(self, model: ModelFacts, tokens: int, size: int) -> int:
        """A forward that keeps nothing: states, and the widest layer's three products."""
        return tokens * size * (2 * model.hidden + 3 * model.intermediate)

    def sharded(self, weights: int) -> int:
        """Weights of a trained model outside its steps."""
        return -(-weights // self.ranks) if self.execution.zero == 3 else weights

    def grader(self, rules: RulesRef) -> Reference:
        """The grader of rules: their own, or that of the stage that made them."""
        maker = next((entry.rule_based for entry in self.job.spec.stages if entry.name == rules.stage), None)
        grader = rules.grader or (maker.grader if maker is not None else None)
        if grader is None:
            raise Missing(f"{rules.key}.grader")
        return grader
