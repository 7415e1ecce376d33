"""Do models that exchange token ids have one tokenizer: a policy, its reference, its judges and its critics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rlhf_api.fields import DataRef, Reference, RulesRef
from rlhf_api.job import RLHFJob
from rlhf_api.stages import Ppo
from rlhf_trainer.data.chat import encode_prompt, same_tokenizer
from rlhf_trainer.data.rows import Message
from rlhf_trainer.inspection.readers import root
from rlhf_trainer.inspection.uses import of_stage

JUDGES = re.compile(r"ppo\.(rewards\[\d+\]|costs\[\d+\]|guards\.gold)$")
"""Fields of models that score the policy's answers as ids."""


@dataclass(frozen=True)
class Meeting:
    """Two inputs whose models, or what is trained from them, exchange token ids."""

    where: str
    first: str
    second: str


def meetings(job: RLHFJob) -> Iterator[Meeting]:
    """Every pair of different inputs that meet in a PPO stage."""
    stages = {stage.name: stage.spec for stage in job.spec.stages}
    for stage in job.spec.stages:
        if not isinstance(stage.spec, Ppo):
            continue
        policy = root(stage.spec.policy, stages)
        for where, reference in of_stage(stage):
            model = root(reference, stages) if _exchanges(where, reference) else None
            if policy is not None and model is not None and model != policy:
                yield Meeting(where, policy, model)


def tokenizer_problems(job: RLHFJob, load: Callable[[str], Any]) -> Iterator[str]:
    """Meetings of different tokenizers, in words; `load` gives an input's tokenizer."""
    loaded: dict[str, Any] = {}
    for meeting in meetings(job):
        for name in (meeting.first, meeting.second):
            if name not in loaded:
                loaded[name] = load(name)
        reason = same_tokenizer(loaded[meeting.first], loaded[meeting.second])
        if reason is not None:
            yield (
                f"{meeting.where}: its tokenizer ({meeting.second}) is not the policy's ({meeting.first}): {reason}. "
                "Use models trained from one base"
            )


def template_notes(job: RLHFJob, load: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """(input, sentence) of each judge of a PPO stage that was made for another chat template than the policy's.

    Args:
        job: A valid job whose models have one tokenizer wherever they meet.
        load: Gives an input's tokenizer, prepared with what the job fixes of its template.
    """
    for meeting in meetings(job):
        if not JUDGES.search(meeting.where):
            continue
        greeting: list[Message] = [{"role": "user", "content": "How are you?"}]
        if encode_prompt(load(meeting.first), greeting) != encode_prompt(load(meeting.second), greeting):
            yield (
                meeting.second,
                f"{meeting.where}: its chat template ({meeting.second}) is not the policy's ({meeting.first}); answers "
                "are scored as the policy's template writes them, which it may not have learned from",
            )


def _exchanges(where: str, reference: Reference) -> bool:
    """Whether it is a model that exchanges token ids with the policy; a grader reads text."""
    return not isinstance(reference, DataRef | RulesRef) and not where.endswith("rules.grader")
