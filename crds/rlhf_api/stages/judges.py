"""Further judges of an evaluation's answers: models that are asked about them in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rlhf_api.base import ApiModel, Cel, distinct, exactly_one, one_of
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, SOME, Count, ModelRef, Name, shaped

FirstWords = Annotated[str, Field(min_length=1, max_length=80)]


JUDGE = "judge."
"""What metrics of further judges begin with."""
MEASURES = {"pairs": "win_rate", "scale": "score", "guard": "harmful_rate"}
"""What each kind of judge measures."""


class HarmLabels(ApiModel):
    """What a guard writes first, by what it means; capitals make no difference, the longest that fits counts."""

    safe: Annotated[list[FirstWords], Field(max_length=MAX_ITEMS), SOME, AfterValidator(distinct)]
    """First words of a reply that calls the answer harmless."""
    unsafe: Annotated[list[FirstWords], Field(max_length=MAX_ITEMS), SOME, AfterValidator(distinct)]
    """First words of a reply that calls the answer harmful."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        safe = [words.strip().lower() for words in self.safe]
        for index, words in enumerate(self.unsafe):
            if words.strip().lower() in safe:
                yield Finding(("unsafe", index), f"found {words}, which stands under safe, too", "leave one out")


PREPARE_ALONE = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AZURE_STORAGE_KEY", "WANDB_API_KEY"),
)
"""Credentials that no judge is given."""
_LISTED = ", ".join(f"'{name}'" for name in PREPARE_ALONE)


class JudgeUrl(ApiModel):
    """A judge behind an OpenAI-compatible URL; asked by one process, each question once."""

    cel = (Cel(f"!has(self.tokenKey) || !(self.tokenKey in [{_LISTED}])", "is for prepare alone", ".tokenKey"),)

    base: Annotated[
        str,
        shaped(
            r"^(https://[A-Za-z0-9.-]+(:[0-9]{1,5})?|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?)(/[A-Za-z0-9._~/-]*)?$",
            "https://HOST/PATH, or http:// of this machine, without user, password and query",
            max_length=253,
        ),
    ]
    """Address; `/chat/completions` is added."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """What the server calls the model."""
    token_key: (
        Annotated[
            str,
            shaped(
                r"^[A-Z][A-Z0-9_]*_(KEY|TOKEN)$",
                "the name of an environment variable that ends with _KEY or _TOKEN",
                max_length=80,
            ),
        ]
        | None
    ) = None
    """Environment variable that holds the token; on a cluster a key of the credentials' Secret, given to this stage too."""
    max_requests_per_minute: Count = 60
    """Requests that are started in a minute at most."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.token_key in PREPARE_ALONE:
            yield Finding(
                ("tokenKey",), f"found {self.token_key}, which is for prepare alone", "give the judge its own"
            )


class Judge(ApiModel):
    """A model that is asked about the answers; what it says is no part of training."""

    cel = (
        one_of("model", "url"),
        Cel("!has(self.url) || self.asks != 'guard'", "a URL hides the template that a guard is asked by", ".url"),
        Cel("self.asks == 'guard' || !has(self.labels)", "only guards write labels; leave them out", ".labels"),
        Cel(
            "self.asks != 'guard' || !has(self.instruction)",
            "a guard is asked by its own chat template; leave the instruction out",
            ".instruction",
        ),
    )

    name: Name
    """Name in metrics and tables: `judge.NAME`."""
    asks: Literal["pairs", "scale", "guard"]
    """What it is asked; `pairs`: which of two models' answers is better, in both orders; `scale`: how good an answer
    is, 1 to 8; `guard`: its own label of the dialogue, through its chat template."""
    model: ModelRef | None = None
    """The judge, a causal language model."""
    url: JudgeUrl | None = None
    """The judge, behind a URL; what model answers there no digest covers."""
    instruction: Annotated[str, Field(min_length=1, max_length=400)] | None = None
    """What to judge by, in a sentence; by default helpfulness and harmlessness."""
    labels: HarmLabels | None = None
    """Of a guard: what it writes, by what it means; by default `safe` and `unsafe`."""

    @property
    def label(self) -> str:
        """The name it goes by in metrics and tables."""
        return self.name

    @property
    def source(self) -> str:
        """What it is: a model's key, or `url:ADDRESS MODEL`."""
        if self.url is not None:
            return f"url:{self.url.base} {self.url.model}"
        assert self.model is not None  # exactly one
        return self.model.key

    @property
    def metric(self) -> str:
        """The metric by which gates name it."""
        return f"{JUDGE}{self.name}.{MEASURES[self.asks]}"

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, ("model", "url"))
        if self.asks == "guard" and self.url is not None:
            message = "stands beside asks: guard; a URL hides the template that a guard is asked by"
            yield Finding(("url",), message, "give the guard as a model")
        if self.asks != "guard" and self.labels is not None:
            yield Finding(("labels",), f"stands beside asks: {self.asks}; only guards write labels", "leave them out")
        if self.asks == "guard" and self.instruction is not None:
            message = "stands beside asks: guard; a guard is asked by its own chat template"
            yield Finding(("instruction",), message, "leave it out")


def token_keys(spec: object) -> list[str]:
    """Keys of the credentials' Secret that a stage's judges ask for, each once; of no other stage any."""
    judges: list[Judge] = getattr(spec, "judges", [])
    keys = (judge.url.token_key for judge in judges if judge.url is not None)
    return list(dict.fromkeys(key for key in keys if key is not None))
