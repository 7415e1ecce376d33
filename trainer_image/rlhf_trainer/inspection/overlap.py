"""Prompts that evaluate and also train, exactly or nearly: looked up in one pass over what training reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_trainer.inspection.minhash import NEAR, SHINGLE, TwinIndex, normalise
from rlhf_trainer.inspection.texts import TextSample

COMPARED = 4000
"""Different prompts of an evaluation's reference that are compared, those of the lowest hash; of more it is said."""
EXAMPLES = 3
SHOWN = 160
"""Characters of an example's texts."""
TEXTS, CHARACTERS = 2048, 1 << 20
"""Texts, and characters of them, that are looked up at a time: what bounds memory, whatever training reads."""

Marks = npt.NDArray[np.bool_]


@dataclass
class Evaluated:
    """The prompts of one reference of an evaluation."""

    input: str
    where: str
    """`stage judge, evaluate.prompts[0]`."""
    prompts: TextSample = field(default_factory=lambda: TextSample(COMPARED))

    def add(self, prompt: str) -> None:
        """Take a prompt in; an empty one is like no other."""
        text = normalise(prompt)
        if text:
            self.prompts.add(text)


@dataclass
class _Trained:
    """What one selection of training's rows has of the evaluated prompts, each (M,)."""

    stages: tuple[str, ...]
    exact: Marks
    near: Marks


class Twins:
    """Finds what training reads among the prompts of evaluations.

    Memory: COMPARED prompts of each evaluation, as an index, and TEXTS of training at a time.
    """

    def __init__(self, evaluated: Sequence[Evaluated]) -> None:
        self._evaluated = evaluated
        self._texts = sorted({text for reference in evaluated for text in reference.prompts.texts})
        self._places = {text: index for index, text in enumerate(self._texts)}
        self._index = TwinIndex(self._texts)
        self._twin: dict[int, tuple[float, str]] = {}
        """By evaluated text that no training row has exactly: (Jaccard index, the first near text of training)."""
        self._trained: list[_Trained] = []

    def look_up(self, stages: Sequence[str], prompts: Iterator[str]) -> None:
        """Mark what training rows have of the evaluated prompts.

        Args:
            stages: names of those that read the rows.
            prompts: of all rows.
        """
        marks = _Trained(tuple(stages), *(np.zeros(len(self._texts), np.bool_) for _ in range(2)))
        self._trained.append(marks)
        for texts in _portions(prompts):
            same = [self._places[text] for text in texts if text in self._places]
            marks.exact[same] = True
            for twin in self._index.twins(texts, skip=marks.exact | marks.near):
                marks.near[twin.indexed] = True
                known_likeness = self._twin.get(twin.indexed, (0.0, ""))[0]
                if twin.likeness > known_likeness:
                    self._twin[twin.indexed] = (twin.likeness, texts[twin.text])

    def overlaps(self) -> list[dict[str, Any]]:
        """One entry for each reference of an evaluation: counts, up to EXAMPLES examples, a sentence (`text`)."""
        return [self._overlap(reference) for reference in self._evaluated]

    def _overlap(self, reference: Evaluated) -> dict[str, Any]:
        texts = reference.prompts.texts
        places = np.array([self._places[text] for text in texts], np.int64)
        exact, near = (self._any(kind)[places] for kind in ("exact", "near"))
        near &= ~exact
        by_stage: dict[str, Marks] = {}
        for trained in self._trained:
            for stage in trained.stages:
                marks = (trained.exact | trained.near)[places]
                by_stage[stage] = by_stage.get(stage, np.zeros_like(marks)) | marks
        counts = {stage: int(marks.sum()) for stage, marks in by_stage.items()}
        shown = [*np.flatnonzero(near), *np.flatnonzero(exact)][:EXAMPLES]
        entry: dict[str, Any] = {
            "where": reference.where,
            "different": reference.prompts.different,
            "compared": len(texts),
            "exact": int(exact.sum()),
            "near": int(near.sum()),
            "stages": counts,
            "examples": [self._example(int(places[i]), [s for s in by_stage if by_stage[s][i]]) for i in shown],
        }
        return entry | {"text": sentence(reference.input, entry)}

    def _any(self, kind: str) -> Marks:
        marks: Marks = np.any([getattr(trained, kind) for trained in self._trained], axis=0)
        return marks

    def _example(self, place: int, stages: list[str]) -> dict[str, Any]:
        exact = any(trained.exact[place] for trained in self._trained)
        likeness, twin = (1.0, self._texts[place]) if exact else self._twin[place]
        return {
            "prompt": _cut(self._texts[place]),
            "twin": _cut(twin),
            "likeness": round(likeness, 4),
            "exact": exact,
            "stages": stages,
        }


def sentence(name: str, entry: Mapping[str, Any]) -> str:
    """What was found for a reference of an evaluation to an input, in words."""
    stage = stage_of(entry["where"])
    part = "" if entry["compared"] == entry["different"] else f", a sample of {entry['different']},"
    twins = entry["exact"] + entry["near"]
    if not twins:
        return (
            f"None of {entry['compared']} different prompts of {stage} (input {name}){part} is, or nearly is, a prompt that "
            f"{_listed(entry['stages'])} read."
        )
    readers = _listed([f"{reader} ({count})" for reader, count in entry["stages"].items() if count])
    return (
        f"{twins} of {entry['compared']} different prompts of {stage} (input {name}){part} are, or nearly are, prompts that "
        f"{readers} read: {entry['exact']} the same but for case and spacing, {entry['near']} with a likeness of at least "
        f"{NEAR:g} (Jaccard index of runs of {SHINGLE} characters). What it says of them may not hold for new prompts."
    )


def stage_of(where: str) -> str:
    """The stage's name in `stage judge, evaluate.prompts[0]`."""
    return where.removeprefix("stage ").partition(",")[0]


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _portions(prompts: Iterator[str]) -> Iterator[list[str]]:
    """Different normalised texts, as many at a time as memory is meant for."""
    texts: dict[str, None] = {}
    characters = 0
    for prompt in prompts:
        text = normalise(prompt)
        if text and text not in texts:
            texts[text] = None
            characters += len(text)
        if len(texts) >= TEXTS or characters >= CHARACTERS:
            yield list(texts)
            texts, characters = {}, 0
    if texts:
        yield list(texts)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
