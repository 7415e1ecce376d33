"""Which rows a stage reads and which a `simulate` stage makes, so that one can be told not to fit the other."""

from __future__ import annotations

from rlhf_api.errors import Loc
from rlhf_api.stages import STAGE_TYPES, Simulate
from rlhf_api.stages.common import Rows

MADE: dict[str, frozenset[Rows]] = {
    "rlcd": frozenset({"pairs", "conversations", "prompts"}),
    "rlaif": frozenset({"pairs", "conversations", "prompts"}),
    "rlcdRescore": frozenset({"pairs", "conversations", "prompts"}),
    "contextDistillation": frozenset({"conversations", "prompts"}),
    "completions": frozenset({"completions", "prompts"}),
    "redTeam": frozenset({"prompts"}),
}
"""What the rows of each method of `simulate` give: of a pair, also its preferred answer and its prompt. Completions of
all grades, the unacceptable ones among them, are nothing to imitate."""


def needed(kind: str, field: str) -> Rows:
    """What the rows of a field must give."""
    return STAGE_TYPES[kind].rows.get(field, "prompts")


def misfit(kind: str, at: Loc, maker: Simulate) -> str | None:
    """What a simulation makes that a field cannot use, in words; None: it can.

    Args:
        kind: type of the stage that reads.
        at: the reference's place in that stage: (type, field, ..., index).
        maker: the simulation referred to.
    """
    want = needed(kind, _field(at))
    makes = MADE[maker.method]
    if want in makes:
        return None
    return f"makes {' and '.join(sorted(makes))} by {maker.method}; expected {want}"


def instead(kind: str, at: Loc) -> str:
    """The methods of `simulate` whose rows a field can use, as a hint."""
    want = needed(kind, _field(at))
    return f"methods that make {want}: {', '.join(method for method, makes in MADE.items() if want in makes) or 'none'}"


def _field(at: Loc) -> str:
    return ".".join(str(part) for part in at[1:] if isinstance(part, str))
