"""`simulate`: preferences, conversations and prompts that models make themselves.

Methods: RLCD (arXiv 2307.12950), RLAIF (arXiv 2212.08073), RLCD-Rescore, context distillation (arXiv 2112.00861),
completions for rule-based rewards (arXiv 2411.01111), and red-team prompts against a policy (arXiv 2202.03286).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from rlhf_api.base import ApiModel, Cel, exactly_one, one_of
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, SOME, CostJudge, Count, DataRefs, ModelRef, Seed, Whole, same_labels, shaped
from rlhf_api.stages.common import Dtype
from rlhf_api.stages.evaluate import Generation

Task = Literal["harmlessness", "helpfulness", "outlines", "own"]
Phrase = Annotated[
    str,
    shaped(
        r"^[^\[\]():\r\n]*[^\[\]():\s][^\[\]():\r\n]*$",
        "a phrase on one line, without brackets and colons: it is put in brackets before a colon",
        max_length=200,
    ),
]
Instruction = Annotated[str, Field(min_length=1, max_length=400)]
ResponseType = Annotated[
    str, shaped(r"^[a-z][a-z0-9_]*$", "lower case letters, digits and _, a letter first", max_length=40)
]
OWN = (
    Cel("{task} != 'own' || {phrases}.size() > 0", "task own without phrases: there is nothing to draw from", ".task"),
)


class Contrast(ApiModel):
    """Two phrases that ask for opposite answers."""

    positive: Phrase
    """Asks for the answer that is preferred."""
    negative: Phrase
    """Asks for the other."""


class JudgedContrast(Contrast):
    """Two phrases, and how a judge is asked about what they made."""

    instruction: Instruction
    """What the judge is told to choose by, in a sentence."""


class Contrasting(ApiModel):
    """Methods that ask by a phrase in brackets before the colon of `Assistant`; earlier turns carry the opposite."""

    cel = OWN

    task: Task = "harmlessness"
    """List of phrases to draw from; 16 for harmlessness, 1 for helpfulness, 3 for outlines; `own`: only `phrases`."""
    phrases: Annotated[list[Contrast], Field(max_length=MAX_ITEMS)] = []
    """Phrases of your own, added to the task's."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from _own(self.task, self.phrases, "phrases")


class Rlcd(Contrasting):
    """Pairs of contrast: one answer to each phrase, the positive one preferred by construction."""


class ContextDistillation(Contrasting):
    """Conversations: the prompt without the phrase, and the answer to the positive phrase; for `sft`."""


class Rlaif(ApiModel):
    """Pairs of two samples of one prompt, judged in both orders; the mean log-odds become a soft label."""

    cel = (
        Cel(
            "{task} != 'own' || {instructions}.size() > 0",
            "task own without instructions: there is nothing to draw from",
            ".task",
        ),
    )

    task: Task = "harmlessness"
    """List of instructions to draw from; `own`: only `instructions`."""
    instructions: Annotated[list[Instruction], Field(max_length=MAX_ITEMS)] = []
    """Instructions of your own, added to the task's: what to choose by, in a sentence."""
    judge: ModelRef | None = None
    """What judges; by default the model itself."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from _own(self.task, self.instructions, "instructions")


class RlcdRescore(ApiModel):
    """Pairs of contrast, judged like RLAIF's with the instruction that belongs to the phrase."""

    cel = OWN

    task: Task = "harmlessness"
    """List of phrases to draw from; `own`: only `phrases`."""
    phrases: Annotated[list[JudgedContrast], Field(max_length=MAX_ITEMS)] = []
    """Phrases of your own with their instructions, added to the task's."""
    judge: ModelRef | None = None
    """What judges; by default the model itself."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from _own(self.task, self.phrases, "phrases")


class Style(ApiModel):
    """How a completion of one grade is asked for."""

    response_type: ResponseType
    """Of which prompts."""
    grade: Literal["ideal", "suboptimal", "unacceptable"]
    """What the completion is meant to be."""
    phrase: Phrase
    """Asks for it."""


class Completions(ApiModel):
    """Completions for rule-based rewards: 1 ideal, 2 sub-optimal (different flaws), 1 unacceptable a prompt; `rules`
    grades them. Prompts need a column `response_type`."""

    styles: Annotated[list[Style], Field(max_length=MAX_ITEMS)] = []
    """Phrases of your own, added to those of the response types hard_refuse, safe_refuse and comply."""


class RedTeam(ApiModel):
    """Prompts: the model writes new ones like those it is shown, the target answers, costs judge, the worst are kept."""

    target: ModelRef
    """The policy under attack."""
    costs: Annotated[list[CostJudge], Field(max_length=MAX_ITEMS), SOME]
    """Judges of harm; an answer's harm is the largest of their scores."""
    shown: Annotated[int, Field(ge=1, le=32)] = 4
    """Prompts shown as examples."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the new prompts that is kept: those whose answers score worst."""
    max_answer_tokens: Count = 128
    """Tokens the target's answer may have."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from same_labels(self.costs, "costs")


METHODS = {
    "rlcd": "rlcd",
    "rlaif": "rlaif",
    "rlcd_rescore": "rlcdRescore",
    "context_distillation": "contextDistillation",
    "completions": "completions",
    "red_team": "redTeam",
}
"""Field and name of each method."""


class Simulate(ApiModel):
    """Rows that models make: pairs, conversations or prompts, by exactly one method, with where each comes from."""

    cel = (
        one_of(*METHODS.values()),
        Cel(
            "(!has(self.rlaif) && !has(self.redTeam)) || {generation.temperature} > 0.0",
            "at temperature 0 two answers to one prompt are the same answer",
            ".generation",
        ),
    )

    model: ModelRef
    """What answers (or, red-teaming, writes the prompts)."""
    prompts: DataRefs
    """What is answered; of rows with answers, only the prompt is used."""
    rlcd: Rlcd | None = None
    """Pairs of contrast, preferred by construction."""
    rlaif: Rlaif | None = None
    """Pairs of samples, judged."""
    rlcd_rescore: RlcdRescore | None = None
    """Pairs of contrast, judged."""
    context_distillation: ContextDistillation | None = None
    """Conversations with the answer to the positive phrase."""
    completions: Completions | None = None
    """Completions of known grades, for `rules`."""
    red_team: RedTeam | None = None
    """Prompts that a policy answers badly."""
    chat: Literal["template", "plain"] | None = None
    """How a dialogue is written: through the model's chat template, or as lines of `Human:` and `Assistant:`; by
    default the template where the model has one."""
    generation: Generation = Generation()
    """How answers are sampled; `samples`: pairs (conversations, sets, prompts) a prompt."""
    audit: Whole = 16
    """Rows drawn by the seed for people to check: kept in audit.jsonl, left out of the data; at most a tenth."""
    dtype: Dtype = "float32"
    """Compute type."""
    seed: Seed | None = None
    """Seed of phrases, sampling and audit; by default `spec.seed`."""

    @property
    def method(self) -> str:
        """The method, as written: `rlcd`, `rlcdRescore`, ..."""
        return next(alias for name, alias in METHODS.items() if getattr(self, name) is not None)

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        wrong = list(exactly_one(self, tuple(METHODS)))
        yield from wrong
        if not wrong and self.generation.temperature == 0 and (self.rlaif is not None or self.red_team is not None):
            message = "found temperature 0, at which two answers to one prompt are the same answer"
            yield Finding(("generation", "temperature"), message, "set it above 0")


def _own(task: str, entries: Sequence[object], field: str) -> Iterator[Finding]:
    if task == "own" and not entries:
        yield Finding(("task",), f"found own without {field}: there is nothing to draw from", f"list {field}")
