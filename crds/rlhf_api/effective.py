"""What a stage does, with what follows from the stages it refers to written out. Pure."""

from __future__ import annotations

from typing import TypeVar

from rlhf_api.base import ApiModel
from rlhf_api.fields import CostJudge, CostScorer, RewardJudge, RulesRef, Scorer
from rlhf_api.job import Stage
from rlhf_api.stages import STAGE_TYPES, Evaluate, Ppo, Rules

T = TypeVar("T", bound=Scorer)
Key = tuple[str, tuple[str, ...]]


def effective(stage: Stage, stages: dict[str, Stage]) -> ApiModel:
    """The spec of a stage's type with what is taken from other stages written out.

    Rules are graded by the grader of their stage; an `evaluate` without judges is judged by the rewards and costs its
    candidates were trained on.
    """
    spec = stage.spec
    if isinstance(spec, Ppo | Evaluate) and spec.rule_based is not None:
        spec = spec.model_copy(update={"rule_based": _graded(spec.rule_based, stages)})
    return _judged(spec, stages) if isinstance(spec, Evaluate) and not spec.rewards and not spec.costs else spec


def _graded(rules: RulesRef, stages: dict[str, Stage]) -> RulesRef:
    """Rules with their grader written out."""
    maker = stages[rules.stage].spec if rules.stage in stages else None
    if rules.grader is not None or not isinstance(maker, Rules):
        return rules
    return rules.model_copy(update={"grader": maker.grader})


def _judged(spec: Evaluate, stages: dict[str, Stage]) -> Evaluate:
    rewards: dict[Key, RewardJudge] = {}
    costs: dict[Key, CostJudge] = {}
    for candidate in spec.candidates:
        trained = stages[candidate.stage].spec if candidate.stage is not None else None
        if isinstance(trained, Ppo):
            for reward in trained.rewards:
                maker = stages.get(reward.stage or "")  # none for inputs and functions, and in a job that is refused
                if maker is not None and STAGE_TYPES[maker.type].product == "cost":
                    costs[_key(reward)] = _judge(CostJudge, reward)  # a penalty: reward shaping
                else:
                    rewards[_key(reward)] = _judge(RewardJudge, reward)
            costs.update((_key(cost), _judge(CostJudge, cost)) for cost in trained.costs)
    return spec.model_copy(update={"rewards": list(rewards.values()), "costs": list(costs.values())})


def _key(scorer: Scorer) -> Key:
    """What makes two candidates' judges the same: the model or function, and the labels that count as harm."""
    return scorer.key, tuple(scorer.labels) if isinstance(scorer, CostScorer) else ()


def _judge(judge: type[T], scorer: Scorer) -> T:
    shared = set(judge.model_fields) & set(type(scorer).model_fields)
    return judge.model_validate({name: value for name in shared if (value := getattr(scorer, name))})
