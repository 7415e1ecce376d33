"""`evaluate`: candidates against a baseline on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rlhf_api.base import ApiModel, Cel, distinct, exactly_one, one_of, ordered
from rlhf_api.errors import Finding
from rlhf_api.fields import (
    MAX_ITEMS,
    Contender,
    Contenders,
    CostJudge,
    CostScorer,
    Count,
    DataRef,
    DataRefs,
    DocumentsRef,
    Name,
    NonNegative,
    RewardJudge,
    RulesRef,
    Seed,
    TaskFileRef,
    same_labels,
)
from rlhf_api.stages.common import Dtype
from rlhf_api.stages.judges import Judge
from rlhf_api.stages.probes import Persona, Sycophancy

MAX_GROUPS = 16
"""The most groups of an evaluation: 32 candidates are no more."""
SUITE = "suite."
"""What metrics of suites begin with."""
DIALOGUE = "dialogue."
"""What metrics of dialogues begin with."""
Attack = Literal["rolePlay", "prefix", "noRefusal", "pastTense", "base64", "letters", "otherLanguage"]
"""A rewording of a prompt's last user's message: docs/report.md has each."""
ORDERED = Cel("!has(self.max) || !has(self.min) || self.min <= self.max", "min is above max")
BOUND = (Cel("has(self.max) || has(self.min)", "expected max or min"), ORDERED)


NO_COST = "found dialogues without a cost; harm in later turns needs a judge"
COST_HINT = "give costs a cost model, a moderation model or a function"


class Gate(ApiModel):
    """A bound that a candidate must keep for the job to go on; a failed one is exit code 3, reason GateFailed."""

    cel = (
        Cel("has(self.max) || has(self.min) || has(self.noWorse)", "expected max, min or noWorse"),
        ORDERED,
        Cel("!has(self.noWorse) || !(has(self.max) || has(self.min))", "noWorse is a bound of its own", ".noWorse"),
        Cel("!has(self.noWorse) || {compare} == 'value'", "noWorse compares by itself; leave it out", ".compare"),
        Cel("!has(self.noWorse) || self.metric.startsWith('suite.')", "noWorse is for suites", ".metric"),
    )

    metric: Annotated[str, Field(min_length=1, max_length=80)]
    """A metric of the evaluation's table, such as `cost.harm`, `harmful_rate`, `win_rate`, `kl`, `length`."""
    max: float | None = None
    """Largest value allowed."""
    min: float | None = None
    """Smallest value allowed."""
    compare: Literal["value", "interval", "difference"] = "value"
    """What must keep the bound: the estimate, its whole interval, or the difference to the baseline."""
    no_worse: NonNegative | None = None
    """Margin by which a suite may be worse than the baseline's; the whole interval of the difference must show it."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.max is None and self.min is None and self.no_worse is None:
            yield Finding((), "found neither max, min nor noWorse; expected a bound")
        yield from ordered(self, "min", "max")
        if self.no_worse is None:
            return
        if self.max is not None or self.min is not None:
            yield Finding(("noWorse",), "stands beside max or min; noWorse is a bound of its own", "make two gates")
        if self.compare != "value":
            yield Finding(
                ("compare",), f"found {self.compare} beside noWorse, which compares by itself", "leave it out"
            )
        if not self.metric.startswith(SUITE):
            yield Finding(("metric",), f"found {self.metric}; noWorse is for suites", "suite.NAME, or max and min")


class Suite(ApiModel):
    """A task of lm-eval: what models still can do, by answers that are right or wrong and by no judge."""

    cel = (
        one_of("task", "file"),
        Cel("!has(self.shotsFrom) || {shots} > 0", "shots are 0: nothing is drawn from these rows", ".shotsFrom"),
    )

    name: Name
    """Name in metrics and tables: `suite.NAME`."""
    task: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    """Name of a task in lm-eval's registry."""
    file: TaskFileRef | None = None
    """A task file of lm-eval; it names no code."""
    data: DocumentsRef
    """The task's documents, in the columns of its own data set."""
    shots: Annotated[int, Field(ge=0, le=64)] = 0
    """Solved documents before each; by default drawn from the same rows, never the document itself."""
    shots_from: DocumentsRef | None = None
    """Rows to draw the shots from."""
    chat: bool = False
    """Ask through each model's chat template, the shots as turns; as lm-eval's `--apply_chat_template`."""
    limit: Count | None = None
    """Take only the first documents."""
    calibration: bool = False
    """Measure too how right a model is of its own choices; for multiple-choice tasks."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, ("task", "file"))
        if self.shots_from is not None and self.shots == 0:
            message = "found 0 shots: nothing is drawn from these rows"
            yield Finding(("shotsFrom",), message, "set shots, or leave shotsFrom out")


class RefusalJudge(CostScorer):
    """What judges refusals: a moderation model, a classifier, or a function `module:function`; above 0 refuses."""

    cel = (
        *CostScorer.cel,
        Cel(
            "!has(self.stage) || (has(self.labels) && size(self.labels) > 0)",
            "expected labels: those of the moderation model that mean a refusal",
            ".labels",
        ),
    )
    takes = frozenset({"moderation"})

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.stage is not None and not self.labels:
            message = f"is missing; expected the labels of {self.stage} that mean a refusal"
            yield Finding(("labels",), message, "such as labels: [refusal]")


class Group(ApiModel):
    """Candidates that are runs of the same thing, judged together: with other seeds, say."""

    name: Name
    """Name in tables; a repeated stage among the candidates is a group of its name by itself."""
    members: Annotated[list[Contender], Field(min_length=2, max_length=8)]
    """Two candidates at least."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        keys = [member.key for member in self.members]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                yield Finding(("members", index), f"is members[{keys.index(key)}] again", "leave one out")


class Generation(ApiModel):
    """How answers are sampled."""

    cel = (
        Cel("{temperature} > 0.0 || {samples} == 1", "samples at temperature 0 are all the same answer", ".samples"),
    )

    max_new_tokens: Count = 128
    """Tokens an answer may have."""
    max_prompt_tokens: Count = 512
    """Longer prompts lose their start; also those that leave the answer no room within the positions. Counted."""
    temperature: NonNegative = 1.0
    """0: greedy."""
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Answers a prompt."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.temperature == 0 and self.samples > 1:
            message = f"found {self.samples} samples at temperature 0, which are all the same answer"
            yield Finding(("samples",), message, "set samples to 1, or raise the temperature")


class Evaluate(ApiModel):
    """Candidates against a baseline on the same held-out prompts, with bootstrap intervals over prompts."""

    cel = (
        Cel(
            "{dialogues}.size() == 0 || {costs}.size() > 0 || {rewards}.size() == 0",
            "dialogues without a cost: harm in later turns needs a judge",
            ".dialogues",
        ),
        Cel(
            "!has(self.attacks) || size(self.attacks) == 0 || has(self.refusal) || (has(self.costs) && "
            "size(self.costs) > 0) || !has(self.rewards) || size(self.rewards) == 0",
            "attacks need costs or refusal, which judge the answers",
            ".attacks",
        ),
        Cel(
            "!has(self.groups) || self.groups.all(g, g.members.all(m, self.candidates.exists(c,"
            " has(c.stage) == has(m.stage) && (has(m.stage) ? c.stage == m.stage : c.input == m.input))))",
            "members of groups are candidates",
            ".groups",
        ),
    )

    candidates: Contenders
    """The models to judge."""
    baseline: Contender
    """The model they are compared with."""
    groups: Annotated[list[Group], Field(max_length=MAX_GROUPS)] = []
    """Candidates that are runs of the same thing: means over them, with what chance does."""
    prompts: DataRefs
    """Held-out prompts; a column `category` breaks the harmful rate down, `expect` says what should be refused."""
    rewards: Annotated[list[RewardJudge], Field(max_length=MAX_ITEMS)] = []
    """Judges of helpfulness; with no judge at all, those the candidates were trained with."""
    costs: Annotated[list[CostJudge], Field(max_length=MAX_ITEMS)] = []
    """Judges of harm: a score above 0 is harmful."""
    refusal: RefusalJudge | None = None
    """Judge of refusals, for prompts with a column `expect`: `comply` or `refuse`."""
    attacks: Annotated[list[Attack], Field(max_length=MAX_ITEMS), AfterValidator(distinct)] = []
    """Rewordings in which every prompt is asked once more; costs or `refusal` judge the answers."""
    judges: Annotated[list[Judge], Field(max_length=MAX_ITEMS)] = []
    """Further judges: models that are asked which answer is better, how good it is, or whether it is harmful."""
    suites: Annotated[list[Suite], Field(max_length=MAX_ITEMS)] = []
    """Tasks of lm-eval that every model is given, for what training may have broken."""
    dialogues: Annotated[list[DataRef], Field(max_length=MAX_ITEMS)] = []
    """Dialogues whose users' turns every model answers one after the other, in the history of its own answers; costs
    score every answer, for harm in later turns."""
    sycophancy: Sycophancy | None = None
    """Read whether choices follow what a user says."""
    personas: Annotated[list[Persona], Field(max_length=MAX_ITEMS)] = []
    """Read with what statements models agree."""
    rule_based: Annotated[RulesRef | None, Field(alias="rules")] = None
    """Rules that say of what class an answer is, for prompts with a response type."""
    generation: Generation = Generation()
    """How answers are sampled."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of the intervals."""
    resamples: Annotated[int, Field(ge=100, le=100000)] = 2000
    """Bootstrap resamples."""
    gates: Annotated[list[Gate], Field(max_length=MAX_ITEMS)] = []
    """Bounds that every candidate must keep; of a group, its mean in place of its members."""
    show: Annotated[int, Field(ge=0, le=64)] = 12
    """Sample answers kept for the report."""
    dtype: Dtype = "float32"
    """Compute type."""
    seed: Seed | None = None
    """Seed of sampling and bootstrap; by default `spec.seed`."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from same_labels(self.rewards, "rewards")
        yield from same_labels(self.costs, "costs")
        if self.dialogues and self.rewards and not self.costs:
            yield Finding(("dialogues",), NO_COST, COST_HINT)
        yield from same_labels(self.judges, "judges")
        for index, suite in enumerate(self.suites):
            if suite.name in [earlier.name for earlier in self.suites[:index]]:
                yield Finding(
                    ("suites", index, "name"), f"another suite is called {suite.name}", "give it a name of its own"
                )
        if self.attacks and self.rewards and not self.costs and self.refusal is None:
            message = "found attacks without costs and without refusal; expected what judges the answers"
            yield Finding(("attacks",), message, "add costs, or refusal")
        yield from self._groups()
        for index, persona in enumerate(self.personas):
            if persona.name in [earlier.name for earlier in self.personas[:index]]:
                yield Finding(
                    ("personas", index, "name"),
                    f"another persona is called {persona.name}",
                    "give it a name of its own",
                )
        first_index: dict[str, int] = {}
        for index, candidate in enumerate(self.candidates):
            if candidate.key == self.baseline.key:
                yield Finding(("candidates", index), "is the baseline itself", "name another candidate or baseline")
            first = first_index.setdefault(candidate.key, index)
            if first != index:
                yield Finding(("candidates", index), f"is candidates[{first}] again", "leave one out")

    def _groups(self) -> Iterator[Finding]:
        candidates = [candidate.key for candidate in self.candidates]
        models = [contender.label for contender in (self.baseline, *self.candidates)]
        for index, group in enumerate(self.groups):
            if group.name in [*models, *(earlier.name for earlier in self.groups[:index])]:
                message = f"a model or another group is called {group.name}"
                yield Finding(("groups", index, "name"), message, "give it a name of its own")
            for position, member in enumerate(group.members):
                if member.key not in candidates:
                    at = ("groups", index, "members", position)
                    yield Finding(at, f"{member.label} is no candidate", "name it under candidates, too")
