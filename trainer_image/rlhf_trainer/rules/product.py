"""`rules.json`: the weights of rules by name, and everything they hold for: policy, reward model, grader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_api.bounded import read_object
from rlhf_api.errors import SpecError
from rlhf_api.yaml import Document
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules.grader import Asking
from rlhf_trainer.rules.parser import policy_of
from rlhf_trainer.rules.policy import Policy, as_json
from rlhf_trainer.rules.probabilities import Classified, Floats

RULES = "rules.json"
VERSION = "1"


@dataclass(frozen=True)
class Model:
    """A model by what it is, wherever it lies."""

    source: str
    """How the fitting stage referred to it."""
    digest: str


@dataclass(frozen=True)
class Weights:
    """What a `rules` stage makes."""

    policy: Policy
    reward: Model
    """What the weights were fitted beside."""
    grader: Model | None
    """None: fitted on labels."""
    asking: Asking
    weights: Mapping[str, Mapping[str, float]]
    """By response type, by feature."""

    def of(self, kind: str) -> Floats:
        """[F] weights of a response type, in the order of its features.

        Raises:
            KeyError: none were fitted.
        """
        return np.array([self.weights[kind][name] for name in self.policy.features[kind]], dtype=np.float64)

    def rewards(self, kind: str, classified: Classified) -> Floats:
        """[N] w . phi."""
        rewards: Floats = (classified.features * self.of(kind)).sum(axis=1)
        return rewards

    def check_reward(self, digests: list[str], where: str) -> None:
        """Refuse other rewards than the one that the weights were fitted beside.

        Raises:
            InputError: says what was found and how to mend it.
        """
        if digests != [self.reward.digest]:
            listed = ", ".join(digest if " x " in digest else digest[:12] for digest in digests)
            raise InputError(
                f"{where}: the rules were fitted beside the reward {self.reward.source} ({self.reward.digest[:12]}), "
                f"with weight 1 and alone; found rewards {listed}. Fit them beside these, or set anyReward: true"
            )

    def check_grader(self, digest: str, where: str) -> None:
        """Refuse another grader than the one whose answers were weighed.

        Raises:
            InputError: says what was found and how to mend it.
        """
        if self.grader is not None and digest != self.grader.digest:
            raise InputError(
                f"{where}.grader: the rules weigh the answers of {self.grader.source} ({self.grader.digest[:12]}); "
                f"found {digest[:12]}. Give that grader, or fit the rules with this one"
            )

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "version": VERSION,
            "policy": as_json(self.policy),
            "policy_digest": self.policy.digest,
            "reward": asdict(self.reward),
            "grader": None if self.grader is None else asdict(self.grader),
            "asking": asdict(self.asking),
            "weights": {kind: dict(named) for kind, named in self.weights.items()},
        }

    def write(self, folder: Path) -> None:
        """Write `rules.json`."""
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        (folder / RULES).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Weights:
        """Read `rules.json`.

        Raises:
            InputError: not there, of another version, or not consistent.
        """
        file = folder / RULES
        try:
            content = read_object(file)
            if content["version"] != VERSION:
                raise InputError(f"{file}: found version {content['version']!r}; this trainer reads {VERSION!r}")
            policy = policy_of(Document(content["policy"]))
            asking = {**content["asking"], **{key: tuple(content["asking"][key]) for key in ("yes_words", "no_words")}}
            rules = cls(
                policy,
                Model(**content["reward"]),
                None if content["grader"] is None else Model(**content["grader"]),
                Asking(**asking),
                {kind: {name: float(w) for name, w in named.items()} for kind, named in content["weights"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SpecError) as error:
            raise InputError(f"{file}: not rules of this version: {error}") from error
        if policy.digest != content["policy_digest"]:
            raise InputError(f"{file}: its policy is not the one that the weights were fitted for; fit them again")
        for kind, named in rules.weights.items():
            if set(named) != set(policy.features.get(kind, ())):
                raise InputError(f"{file}: weights of {kind} are not those of its features; fit them again")
        return rules
