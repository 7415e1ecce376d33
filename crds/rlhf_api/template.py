"""What a job may fix of a model's chat template."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rlhf_api.base import ApiModel
from rlhf_api.errors import Finding
from rlhf_api.fields import shaped

DATE = "2026-01-01"
"""What templates that read the clock are given where the job names no date: the same tomorrow."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = {"messages", "tools", "add_generation_prompt", "strftime_now", "raise_exception", "bos_token", "eos_token"}
"""Names that chat templates are given by whoever renders them."""


class Template(ApiModel):
    """What every rendering of a model's chat template is given; products made from the model carry it on."""

    variables: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=80)], Annotated[str, Field(max_length=1024)]],
        Field(max_length=32),
    ] = {}
    """Variables of the template, in quotes: `enable_thinking: "false"`. `true`, `false` and whole numbers are read as
    such, all else is text."""
    date: Annotated[str, shaped(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "a date such as 2026-01-31", max_length=10)] | None = (
        None
    )
    """Day that a template which reads the clock is given; by default 2026-01-01."""
    system_role: Literal["keep", "fold"] = "keep"
    """`fold`: a system's text is written before the first user's, for templates without a system's turn."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        for name in self.variables:
            if not NAME.fullmatch(name) or name in RESERVED:
                yield Finding(("variables", name), "is no name of a variable that a job may set")
        try:
            datetime.date.fromisoformat(self.date or DATE)
        except ValueError:
            yield Finding(("date",), f"found {self.date}; expected a day of the calendar, such as 2026-01-31")
