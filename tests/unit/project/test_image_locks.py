"""What the images install is what was tested: parts of the one lock."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LOCKS = Path(__file__).parents[3] / "requirements"


def pins(lock: str) -> dict[str, str]:
    """Each pin of a lock with its hashes, by the package's name; on which systems it is needed depends on who needs it."""
    text = (LOCKS / lock).read_text().replace(" \\\n", " ")
    return {
        line.partition("==")[0]: re.sub(r" ; .*?(?= --hash)", "", " ".join(line.split())) for line in text.splitlines()
    }


@pytest.mark.parametrize("image", ["operator", "trainer"])
def test_an_image_installs_what_the_lock_says(image: str) -> None:
    locked = pins("lock.txt")
    assert {name: locked.get(name) for name in pins(f"{image}.txt")} == pins(f"{image}.txt")


def test_the_operators_image_is_light() -> None:
    assert not {"torch", "transformers", "deepspeed", "datasets"} & pins("operator.txt").keys()
    assert {"kubernetes", "prometheus-client", "pydantic"} <= pins("operator.txt").keys()
