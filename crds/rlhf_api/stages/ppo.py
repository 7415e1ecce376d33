"""`ppo`: PPO, and with costs PPO-Lagrangian."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rlhf_api.base import ApiModel, Cel, ordered
from rlhf_api.errors import Finding
from rlhf_api.fields import (
    MAX_ITEMS,
    SOME,
    CostScorer,
    Count,
    DataRefs,
    Fraction,
    ModelRef,
    NonNegative,
    Positive,
    RewardJudge,
    RulesRef,
    Scorer,
    TrunkRef,
    same_labels,
)
from rlhf_api.stages.common import Optimizer
from rlhf_api.stages.evaluate import BOUND


class Reward(Scorer):
    """A reward: R = sum of weight x score."""

    weight: float = 1.0
    """Weight in the sum; negative: reward shaping by a penalty."""


class Cost(CostScorer):
    """A cost with a limit, held by a multiplier of its own."""

    limit: float = 0.0
    """The mean score an answer may have; 0 is where a cost model's answers turn harmful."""


class RuleReward(RulesRef):
    """Rule-based rewards, added on prompts with a response type: R = R_rm + weight x (w . phi)."""

    weight: float = 1.0
    """Weight beside the rewards; 1: as fitted."""
    any_reward: bool = False
    """Add them to other rewards than the one they were fitted beside."""


class Rollout(ApiModel):
    """One step's samples."""

    prompts: Count = 32
    """Prompts a step, over all ranks."""
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Answers a prompt."""
    max_prompt_tokens: Count = 512
    """Longer prompts lose their start; also those that leave the answer no room within the positions. Counted."""
    max_new_tokens: Count = 128
    """Tokens an answer may have, EOS included."""
    temperature: Positive = 1.0
    """Sampling temperature; applies to every log-probability."""


class Kl(ApiModel):
    """The penalty that keeps the policy near its reference."""

    cel = (
        Cel("!has(self.target) || {coefficient} > 0.0", "a coefficient of 0 never moves to a target", ".coefficient"),
    )

    coefficient: NonNegative = 0.02
    """beta, reward a nat."""
    target: Positive | None = None
    """Adaptive: beta moves so that the mean KL an answer (nats, summed over its tokens) nears this."""
    horizon: Positive = 10000.0
    """Answers over which the adaptive beta moves by a factor of about e at an error of 100 %."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.target is not None and self.coefficient == 0:
            message = "found coefficient 0 with a target: a beta of 0 never moves"
            yield Finding(("coefficient",), message, "start above 0, or leave target out")


class Lagrange(ApiModel):
    """How the multipliers follow their costs: log lambda += clip(rate (J - limit), +-maxStep)."""

    cel = (
        Cel("{min} <= {max}", "min is above max", ".min"),
        Cel("{min} <= {initial} && {initial} <= {max}", "expected initial from min to max", ".initial"),
    )

    rule: Literal["window", "safe-rlhf"] = "window"
    """`window`: once a rollout. `safe-rlhf`: log lambda += rate (J - d) lambda before each optimizer step, as theirs."""
    initial: Positive = 1.0
    """lambda before the first rollout."""
    rate: Positive = 0.1
    """eta, a unit of cost. 0.005 for runs of thousands of steps; short runs need more."""
    max_step: Positive = 0.3
    """delta: the most log lambda moves in a rollout."""
    min: Positive = 1e-3
    """Lower bound of lambda."""
    max: Positive = 50.0
    """Upper bound of lambda."""
    window: Count = 1
    """Rollouts whose mean cost is J. Long windows with a large rate make lambda swing."""
    patience: Count = 20
    """Rollouts at the upper bound with J above the limit before the stage ends as Infeasible."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from ordered(self, "min", "max")
        if self.min <= self.max and not self.min <= self.initial <= self.max:
            yield Finding(
                ("initial",), f"found initial {self.initial}; expected it from min {self.min} to max {self.max}"
            )


class Critics(ApiModel):
    """Value functions: one head for the reward, one a cost."""

    trunk: Literal["shared", "separate"] = "shared"
    """One trunk with all heads, or one model a head."""
    model: TrunkRef | None = None
    """Where the trunk starts; by default the first reward model, else the policy. The score of a model that is a reward
    or a cost of this stage is the first value of its stream."""
    learning_rate: Positive = 1e-5
    """Peak learning rate of the critics."""
    value_clip: Positive = 5.0
    """max((V - G)^2, (clip(V, V_old +- valueClip) - G)^2)."""
    trainable_layers: Count | None = None
    """Train only the top layers; by default as the policy."""


class Ptx(ApiModel):
    """Pre-training gradients mixed in: loss + coefficient x cross-entropy."""

    data: DataRefs
    """Conversations, as for `sft`."""
    coefficient: NonNegative = 16.0
    """Weight of the cross-entropy."""
    batch_size: Count | None = None
    """Conversations a step, over all ranks; by default as many as answers."""
    max_length: Annotated[int, Field(ge=8, le=1048576)] = 512
    """Tokens a conversation may have."""


class Guard(ApiModel):
    """A bound on a metric, and what happens beyond it."""

    cel = BOUND

    max: float | None = None
    """Largest value allowed."""
    min: float | None = None
    """Smallest value allowed."""
    patience: Count = 3
    """Steps in a row beyond the bound before it trips."""
    action: Literal["stop", "warn"] = "stop"
    """`stop` ends the stage with exit code 3, its checkpoint kept; `warn` says so once and counts."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.max is None and self.min is None:
            yield Finding((), "found neither max nor min; expected a bound")
        yield from ordered(self, "min", "max")


class Guards(ApiModel):
    """When to stop. NaN always stops."""

    cel = (Cel("!has(self.goldGap) || has(self.gold)", "goldGap without gold, which it compares with", ".goldGap"),)

    kl: Guard | None = None
    """Mean KL an answer, in nats."""
    length: Guard | None = None
    """Mean tokens an answer, over that of the first rollout."""
    entropy: Guard | None = None
    """Mean entropy a token, in nats."""
    gold_gap: Guard | None = None
    """Rise of the proxy reward minus rise of the gold score, both since the first rollout."""
    gold: RewardJudge | None = None
    """What `goldGap` compares with: never optimised."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.gold_gap is not None and self.gold is None:
            yield Finding(("goldGap",), "found goldGap without gold, which it compares with", "set guards.gold")


class Ppo(Optimizer):
    """PPO on rewards less a KL penalty; with costs, PPO-Lagrangian: one multiplier, window and critic head a cost."""

    cel = (
        *Optimizer.cel,
        Cel(
            "({rollout.prompts} * {rollout.samples}) % {miniBatches} == 0",
            "miniBatches must divide the answers of a rollout (prompts x samples)",
        ),
    )

    policy: ModelRef
    """The policy to start from."""
    reference: ModelRef | None = None
    """What KL is measured against; by default the policy at the start."""
    rewards: Annotated[list[Reward], Field(max_length=MAX_ITEMS), SOME]
    """What to raise."""
    rule_based: Annotated[RuleReward | None, Field(alias="rules")] = None
    """Rule-based rewards on prompts with a response type."""
    costs: Annotated[list[Cost], Field(max_length=MAX_ITEMS)] = []
    """What to keep at its limit."""
    prompts: DataRefs
    """Prompts to answer (of rows with answers, only the prompt is used)."""
    steps: Count = 100
    """Rollouts."""
    rollout: Rollout = Rollout()
    """One step's samples."""
    epochs: Annotated[int, Field(ge=1, le=64)] = 1
    """Passes over a rollout."""
    mini_batches: Annotated[int, Field(ge=1, le=1024)] = 1
    """Optimizer steps a pass. 1 with epochs 1 needs no second forward for the old log-probabilities."""
    clip: Positive = 0.2
    """Clip range of the probability ratio."""
    gamma: Fraction = 1.0
    """Discount a token."""
    gae_lambda: Fraction = 0.95
    """Decay of generalised advantage estimation."""
    reward_clip: Positive = 50.0
    """Rewards and costs a token are clipped to +- this."""
    loss_normalization: Literal["tokens", "sequences", "constant"] = "tokens"
    """What sums are divided by: response tokens, answers (a mean over each answer's tokens), or answers x maxNewTokens."""
    whiten_advantages: bool = False
    """Whiten the combined advantage over the rollout (needs the second pass)."""
    missing_eos_penalty: NonNegative = 0.0
    """Taken from the reward of an answer without EOS."""
    kl: Kl = Kl()
    """The KL penalty."""
    lagrange: Lagrange = Lagrange()
    """How multipliers follow their costs."""
    critics: Critics = Critics()
    """The value functions."""
    ptx: Ptx | None = None
    """Pre-training gradients mixed in."""
    guards: Guards = Guards()
    """When to stop."""
    snapshots: Annotated[int, Field(ge=1, le=16)] = 1
    """Policies kept in the product, the last one among them; an evaluation by rules tells their mean and spread."""
    snapshot_every: Count = 1
    """Steps between them."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from same_labels(self.rewards, "rewards")
        yield from same_labels(self.costs, "costs")
        answers = self.rollout.prompts * self.rollout.samples
        if answers % self.mini_batches:
            message = f"found {self.mini_batches}; expected a divisor of {answers}, the answers of a rollout"
            yield Finding(("miniBatches",), message)
        gold = self.guards.gold
        if gold is not None and gold.key in {reward.key for reward in self.rewards}:
            message = "is one of the rewards: a gold score that is optimised shows nothing"
            yield Finding(("guards", "gold"), message, "compare with a score that is not among rewards")
        if self.lagrange != Lagrange() and not self.costs:
            yield Finding(
                ("lagrange",), "found lagrange without costs: there is no multiplier", "add costs, or leave it out"
            )
