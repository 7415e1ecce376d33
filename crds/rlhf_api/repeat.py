"""`repeat`: a stage that stands for several, one a seed. `rlhf_api.expansion` writes them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from rlhf_api.base import ApiModel, Cel, distinct
from rlhf_api.errors import Finding
from rlhf_api.fields import Seed
from rlhf_api.stages import STAGE_TYPES

MOST_NAME: Final = 40
"""Characters of a stage's name."""
ONCE = ("evaluate", "report")
"""Types that run once: an evaluation is given all members, and the report tells of the whole job."""


class Repeat(ApiModel):
    """One stage a seed."""

    seeds: Annotated[list[Seed], Field(min_length=2, max_length=8), AfterValidator(distinct)]
    """The seeds; stage `ppo` becomes `ppo-s0`, `ppo-s1`, ..., which differ in nothing but their seed."""


def member_name(stage: str, seed: int) -> str:
    """What a repeated stage is called with one of its seeds."""
    return f"{stage}-s{seed}"


def repeat_cel() -> Iterator[Cel]:
    """What the API server checks of a stage with `repeat`; says the same as `repeat_findings`."""
    once = " || ".join(f"has(self.{kind})" for kind in ONCE)
    yield Cel(f"!has(self.repeat) || !({once})", "evaluate and report run once", ".repeat")
    seeded = " || ".join(f"(has(self.{kind}) && has(self.{kind}.seed))" for kind in STAGE_TYPES if kind not in ONCE)
    yield Cel(f"!has(self.repeat) || !({seeded})", "the seeds are those of repeat; leave seed out", ".repeat")
    longest = f"self.name.size() + 2 + string(x).size() <= {MOST_NAME}"
    yield Cel(
        f"!has(self.repeat) || self.repeat.seeds.all(x, {longest})",
        f"NAME-sSEED has at most {MOST_NAME} characters",
        ".name",
    )


def repeat_findings(name: str, kind: str, spec: ApiModel, repeat: Repeat) -> Iterator[Finding]:
    """What is wrong with a repeated stage that it shows by itself."""
    if kind in ONCE:
        hint = "repeat the stages whose models it judges" if kind == "evaluate" else "leave it out"
        yield Finding(("repeat",), f"found repeat of {kind}, which runs once", hint)
    elif getattr(spec, "seed", None) is not None:
        message = "is given beside repeat.seeds; expected one of them"
        yield Finding((kind, "seed"), message, "leave it out: each member has its own")
    longest = max((member_name(name, seed) for seed in repeat.seeds), key=len)
    if len(longest) > MOST_NAME:
        message = f"{longest}, a name of {len(longest)} characters, is made of it; expected at most {MOST_NAME}"
        yield Finding(("name",), message, "shorten the name, or take smaller seeds")
