"""Every metric of the trainer, once: its name in `metrics.jsonl`, in Prometheus, its unit and what it means.

`docs/metrics.md` and `/metrics` are made of this list. A name ending in `.*` stands for one metric a label, such as
`cost.harm` and `lambda.harm`; the part after the dot becomes the Prometheus label.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measurement of a step."""

    name: str
    """Key in metrics.jsonl; `loss`, `cost.*`."""
    unit: str
    """What one of it is: nats, tokens, share, ... Empty: a plain number."""
    help: str
    """What it means, in a sentence."""
    stages: tuple[str, ...]
    """Stage types that report it."""
    label: str | None = None
    """Prometheus label that takes the part after the dot."""
    finite: bool = False
    """NaN or infinity ends the stage (exit code 3, reason NaN)."""
    headline: bool = False
    """Shown beside the progress bar and in the job's status."""

    @property
    def prefix(self) -> str:
        """The name up to the label: `cost.` of `cost.*`; the whole name otherwise."""
        return self.name.removesuffix("*")

    @property
    def prometheus(self) -> str:
        """Name in Prometheus: `rlhf_train_<name>`, with `_by_<label>` where it has one."""
        base = "rlhf_train_" + self.prefix.rstrip(".").replace(".", "_")
        return base if self.label is None else f"{base}_by_{self.label}"


TRAINED = ("sft", "rewardModel", "costModel", "moderation", "ppo")
PREFERENCE = ("rewardModel", "costModel")
MODERATION = ("moderation",)
PPO = ("ppo",)
SIMULATE = ("simulate",)

METRICS: tuple[Metric, ...] = (
    Metric("loss", "", "Training loss of the step, over all ranks.", TRAINED, finite=True, headline=True),
    Metric("grad_norm", "", "Global norm of the gradient before clipping.", TRAINED, finite=True),
    Metric("learning_rate", "", "Learning rate of the step.", TRAINED),
    Metric("epoch", "epochs", "Passes over the data so far.", ("sft", *PREFERENCE, *MODERATION)),
    Metric("tokens", "tokens", "Tokens the step learned from, padding not counted.", TRAINED),
    Metric("heldout_loss", "nats", "Cross-entropy a learned token on held-out conversations.", ("sft",), finite=True),
    Metric("accuracy", "share", "Share of pairs in which the better answer scores higher.", PREFERENCE, headline=True),
    Metric("sign_accuracy", "share", "Share of answers whose score has the right sign.", ("costModel",), headline=True),
    Metric("heldout_accuracy", "share", "The same of held-out pairs.", PREFERENCE),
    Metric("label_accuracy", "share", "Share of known labels on the right side of 1/2.", MODERATION, headline=True),
    Metric("heldout_auroc", "share", "Mean over labels of the AUROC on held-out answers.", MODERATION),
    Metric("margin", "", "Mean score of the better less the worse answer.", PREFERENCE),
    Metric("reward", "", "Mean reward an answer, weighted sum of all rewards, KL not counted.", PPO, headline=True),
    Metric("reward.*", "", "Mean score an answer of one reward.", PPO, label="reward"),
    Metric(
        "cost.*", "", "Mean score an answer of one cost; above its limit is too much.", PPO, label="cost", headline=True
    ),
    Metric("lambda.*", "", "Multiplier of one cost.", PPO, label="cost", finite=True, headline=True),
    Metric("rbr.*", "", "Mean reward by rules an answer, by response type.", PPO, label="response_type"),
    Metric("class_share.*", "share", "Share of a class among a response type's answers.", PPO, label="class"),
    Metric("kl", "nats", "Mean over answers of the sum of log pi/pi_ref over its tokens.", PPO, headline=True),
    Metric("kl_coefficient", "1/nats", "Weight of the KL penalty.", PPO),
    Metric("policy_loss", "", "Clipped surrogate loss.", PPO, finite=True),
    Metric("value_loss", "", "Loss of the reward's critic.", PPO, finite=True),
    Metric("cost_value_loss.*", "", "Loss of one cost's critic.", PPO, label="cost", finite=True),
    Metric("ptx_loss", "nats", "Cross-entropy a token on the pre-training mix.", PPO, finite=True),
    Metric("entropy", "nats", "Mean entropy a token of the policy.", PPO),
    Metric("clip_fraction", "share", "Share of tokens whose probability ratio was clipped.", PPO),
    Metric("explained_variance", "share", "Share of the returns' variance the reward's critic explains.", PPO),
    Metric("cost_explained_variance.*", "share", "The same of one cost's critic.", PPO, label="cost"),
    Metric("length", "tokens", "Mean tokens an answer, EOS included.", (*PPO, *SIMULATE)),
    Metric("missing_eos", "share", "Share of answers cut before EOS.", (*PPO, *SIMULATE)),
    Metric("length_ratio", "share", "Mean tokens an answer over that of the first rollout.", PPO),
    Metric("unique_answers", "share", "Different answers of a rollout over its answers.", PPO),
    Metric("reward_std", "", "Standard deviation of the reward over a rollout.", PPO),
    Metric("reward_std.*", "", "Standard deviation of one reward's scores over a rollout.", PPO, label="reward"),
    Metric("cost_std.*", "", "Standard deviation of one cost's scores over a rollout.", PPO, label="cost"),
    Metric("cost_window.*", "", "J: mean score of one cost over its multiplier's window.", PPO, label="cost"),
    Metric("disagreement.*", "", "Mean standard deviation over the members of a reward or cost.", PPO, label="scorer"),
    Metric("gold", "", "Mean gold score an answer; never optimised.", PPO),
    Metric("gold_gap", "", "Rise of the reward less rise of the gold score, since the first rollout.", PPO),
    Metric("advantage", "", "Mean combined advantage a token.", PPO),
    Metric("critic_grad_norm", "", "Global norm of the shared critic's gradient before clipping.", PPO, finite=True),
    Metric("critic_grad_norm.*", "", "The same of a critic of its own.", PPO, label="critic", finite=True),
    Metric(
        "order_agreement",
        "share",
        "Share of pairs whose better answer is the same in both orders.",
        SIMULATE,
        headline=True,
    ),
    Metric(
        "order_bias",
        "nats",
        "Mean log-odds of answer A, whichever answer it is: the judge's lean to a place.",
        SIMULATE,
    ),
    Metric("label_mass", "share", "Probability that the judge gives to A and B together.", SIMULATE),
)

PHASES: dict[str, str] = {
    "load": "Models are read and put on the device.",
    "generate": "Answers are sampled.",
    "score": "Rewards, costs, reference and values of the answers are computed.",
    "grade": "A grader answers the questions of rules about the answers.",
    "update": "Forward, backward and optimizer steps.",
    "evaluate": "Held-out rows are measured.",
    "sync": "Ranks exchange results, or weights are gathered for the rollout.",
}
"""Parts of a step whose seconds and tokens are measured; the rest of a step is `other`."""

STAGE_SERIES: tuple[tuple[str, str, str], ...] = (
    ("rlhf_train_info{stage,type}", "gauge", "What runs: always 1."),
    ("rlhf_train_step", "gauge", "Steps done."),
    ("rlhf_train_phase_seconds_total{phase}", "counter", "Seconds spent in each phase of a step."),
    ("rlhf_train_phase_tokens_total{phase}", "counter", "Tokens computed in each phase of a step."),
)
"""Series of /metrics beside those of METRICS."""


def find(name: str) -> Metric | None:
    """The definition of a metric by its key in metrics.jsonl; None: it has none."""
    exact = _EXACT.get(name)
    if exact is not None:
        return exact
    return _LABELLED.get(name.partition(".")[0] + ".") if "." in name else None


def finite_required(name: str) -> bool:
    """Whether NaN or infinity in this metric ends the stage."""
    metric = find(name)
    return metric is not None and metric.finite


def headline(values: dict[str, float]) -> dict[str, float]:
    """The few of a step's values that are shown beside the progress bar."""
    return {name: value for name, value in values.items() if (metric := find(name)) is not None and metric.headline}


_EXACT = {metric.name: metric for metric in METRICS if metric.label is None}
_LABELLED = {metric.prefix: metric for metric in METRICS if metric.label is not None}
