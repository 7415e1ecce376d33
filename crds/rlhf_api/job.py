"""The RLHFJob, v1alpha1: what a user writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from rlhf_api import quantities
from rlhf_api.base import ApiModel, Cel, distinct, exactly_one, one_of
from rlhf_api.errors import Finding
from rlhf_api.fields import (
    MAX_ITEMS,
    SOME,
    Count,
    Fraction,
    FreeObject,
    Name,
    ObjectName,
    Quantity,
    Seed,
    StringMap,
    Whole,
    shaped,
)
from rlhf_api.pods import Pod, Resources, label_findings
from rlhf_api.repeat import Repeat, repeat_cel, repeat_findings
from rlhf_api.run_policy import RunPolicy
from rlhf_api.sources import parse_source, source_findings, source_rules
from rlhf_api.stages import STAGE_TYPES, Evaluate, Moderation, Ppo, Report, Rules, Sft, Simulate
from rlhf_api.stages.preference import CostModel, RewardModel
from rlhf_api.template import Template

API_VERSION = "rlhf.dev/v1alpha1"
KIND = "RLHFJob"


class Input(ApiModel):
    """Something from outside, named once."""

    cel = source_rules()

    name: Name
    """How stages refer to it."""
    source: Annotated[str, Field(min_length=1, max_length=1024)]
    """`hf://org/model@rev`, `hf://datasets/org/name@rev`, `pvc://claim/path`, an fsspec URL such as `s3://bucket/key`,
    `package://module/file` (a file of an installed Python package), or a path (local runner only)."""
    format: (
        Literal["safe-rlhf", "prompt-only", "prompt-completion", "preference", "hh-rlhf", "messages", "alpaca", "turns"]
        | None
    ) = None
    """Format of a data set's rows; by default told from the columns of each file's first 1,000 rows."""
    columns: Annotated[
        dict[Annotated[str, Field(max_length=80)], Annotated[str, Field(max_length=80)]], Field(max_length=32)
    ] = {}
    """Renames: the format's column name to the file's."""
    subset: Annotated[str, Field(max_length=80)] | None = None
    """Configuration of a hub data set, or a glob of files in a folder."""
    split: Annotated[str, Field(max_length=80)] | None = None
    """Split of a hub data set; by default `train`."""
    heldout: Fraction = 0.0
    """Share of prompts that references with `split: heldout` get and `split: train` never see."""
    max_bad_rows: Fraction = 0.0
    """Share of rows that may be unusable; below it they are counted and left out, beyond it the job fails."""
    template: Template | None = None
    """Of a model: what its chat template is given, in every stage that uses it or a product made from it."""
    licence: Annotated[str, Field(max_length=200)] | None = None
    """Licence, for the report, where the source does not tell."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        wrong = list(source_findings(self.source))
        yield from wrong
        if not wrong and self.split is not None and parse_source(self.source).kind != "hub-data":
            hint = "leave it out; a reference's split chooses between train and heldout"
            yield Finding(("split",), f"found a split of {self.source}; only hub data sets have splits", hint)


class Execution(ApiModel):
    """How a stage computes, never what: no field here changes a product's digest."""

    cel = (
        Cel("!{offloadOptimizer} || {zero} > 0", "offloading needs ZeRO: set zero to 1 or more", ".offloadOptimizer"),
    )

    zero: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage: 1 shards the optimizer, 2 gradients too, 3 weights too."""
    offload_optimizer: bool = False
    """Keep optimizer states in CPU memory."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them."""
    micro_batch_tokens: Count | None = None
    """Most tokens (padding included) of one forward; by default chosen by the stage."""
    checkpoint_every: Whole = 50
    """Steps between checkpoints; 0: only when stopped."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints kept."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.offload_optimizer and self.zero == 0:
            yield Finding(
                ("offloadOptimizer",), "found true with zero 0; offloading needs ZeRO", "set zero to 1 or more"
            )


class Placement(ApiModel):
    """Where a stage runs; set on the job for all stages, or on a stage."""

    profile: Name | None = None
    """Name of a preset of the platform's; by default the job's, `local` on a laptop."""
    nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Pods of a stage; by default the profile's."""
    ranks_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Processes a pod; by default the profile's GPUs, or 1."""
    resources: Resources | None = None
    """Replaces the profile's resources."""
    pod: Pod | None = None
    """Refines the profile's pods."""


class Stage(Placement):
    """One step of the job: a name and exactly one type."""

    name: Name
    """How later stages refer to it."""
    repeat: Repeat | None = None
    """One stage a seed, in place of this one: several runs, to see what chance does."""
    execution: Execution = Execution()
    """How it computes."""
    sft: Sft | None = None
    """Supervised fine-tuning."""
    reward_model: RewardModel | None = None
    """A reward model from preferences."""
    cost_model: CostModel | None = None
    """A cost model from preferences with safety labels."""
    moderation: Moderation | None = None
    """A classifier of answers by labels."""
    simulate: Simulate | None = None
    """Preferences, conversations or prompts that models make."""
    rule_based: Annotated[Rules | None, Field(alias="rules")] = None
    """Rule-based rewards from a policy file."""
    ppo: Ppo | None = None
    """PPO, or PPO-Lagrangian with costs."""
    evaluate: Evaluate | None = None
    """Judge candidates against a baseline."""
    report: Report | None = None
    """The report, where its defaults do not do."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        findings = list(exactly_one(self, tuple(_FIELDS)))
        yield from findings
        if self.repeat is not None and not findings:
            yield from repeat_findings(self.name, self.type, self.spec, self.repeat)

    @property
    def type(self) -> str:
        """The stage's type, as written: `sft`, `rewardModel`, ..."""
        return next(alias for field, alias in _FIELDS.items() if getattr(self, field) is not None)

    @property
    def spec(self) -> ApiModel:
        """The spec of its type."""
        spec: ApiModel = next(getattr(self, field) for field in _FIELDS if getattr(self, field) is not None)
        return spec


Stage.cel = (one_of(*STAGE_TYPES), *repeat_cel())
_FIELDS = {name: field.alias for name, field in Stage.model_fields.items() if field.alias in STAGE_TYPES}


class Credentials(ApiModel):
    """What `prepare` may use to fetch inputs; of other stages only one whose judge names a key gets that key."""

    secret_name: ObjectName
    """A Secret in the job's namespace; its keys become environment variables of `prepare`, such as HF_TOKEN."""


class ClaimTemplate(ApiModel):
    """A claim to be made."""

    cel = (
        Cel(
            f"quantity(self.size).compareTo(quantity('{quantities.MOST}')) <= 0",
            f"a quantity is at most {quantities.MOST}",
            ".size",
        ),
    )

    storage_class_name: ObjectName | None = None
    """Storage class; by default the cluster's."""
    access_modes: Annotated[
        list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]],
        Field(max_length=4),
        SOME,
        AfterValidator(distinct),
    ]
    """Access modes."""
    size: Quantity
    """Size."""
    delete_with_job: bool = False
    """By default the claim outlives the job and has no owner."""


class Storage(ApiModel):
    """Where work, products and caches live."""

    cel = (
        one_of("claimName", "claimTemplate"),
        Cel("!has(self.path) || !self.path.split('/').exists(p, p == '..')", "expected a path without ..", ".path"),
    )

    claim_name: ObjectName | None = None
    """An existing claim."""
    claim_template: ClaimTemplate | None = None
    """A claim to be made."""
    path: Annotated[str, shaped(r"^[^/].*$", "a path without a / first", max_length=512)] | None = None
    """Folder inside the claim."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, ("claim_name", "claim_template"))
        if self.path is not None and ".." in self.path.split("/"):
            yield Finding(("path",), f"found {self.path}; expected a folder inside the claim, without ..")


class JobSpec(Placement):
    """What to do."""

    inputs: Annotated[list[Input], Field(max_length=MAX_ITEMS)] = []
    """Everything from outside, named once."""
    stages: Annotated[list[Stage], Field(max_length=MAX_ITEMS), SOME]
    """The stages; the graph follows from their references. Ready stages run side by side."""
    seed: Seed = 0
    """Seed of every stage that has none of its own."""
    credentials: Credentials | None = None
    """For `prepare`; and what judges behind a URL name."""
    storage: Storage | None = None
    """Where work, products and caches live; needed on a cluster."""
    suspend: bool = False
    """Stop with checkpoints; set back to go on."""
    active_deadline_seconds: Count | None = None
    """Active time after which the job fails; time suspended or queued does not count."""
    ttl_seconds_after_finished: Whole | None = None
    """Seconds after which a finished job's children are deleted."""
    run_policy: RunPolicy = RunPolicy()
    """How the job is run."""


class Metadata(ApiModel):
    """Kubernetes metadata; what this project does not use is let through."""

    model_config = ConfigDict(extra="allow")

    name: ObjectName
    """Name."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""
    labels: StringMap = {}
    """Labels."""
    annotations: Annotated[dict[str, str], Field(max_length=256)] = {}
    """Annotations."""
    uid: Annotated[str, Field(max_length=64)] | None = None
    """Given by the API server."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from label_findings("labels", self.labels)


class RLHFJob(ApiModel):
    """One alignment, from data to evidence."""

    api_version: Literal["rlhf.dev/v1alpha1"]
    """Version of the schema."""
    kind: Literal["RLHFJob"]
    """Kind of the object."""
    metadata: Metadata
    """Kubernetes metadata."""
    spec: JobSpec
    """What to do."""
    status: FreeObject | None = None
    """Written by the operator."""
