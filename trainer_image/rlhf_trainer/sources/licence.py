"""The licence that a model or data set says it has."""

from __future__ import annotations

import logging
from pathlib import Path

from rlhf_api.gguf import read_header
from rlhf_trainer.sources.choose import card

MAX_LENGTH = 200
"""Characters of a licence's name."""

log = logging.getLogger(__name__)


def told_licence(folder: Path) -> str | None:
    """The licence in a folder's card (front matter of README.md) or in its GGUF file; None where neither says.

    Never guessed from the text of a licence file.
    """
    front = card(folder)
    licence = front.get("license", front.get("licence"))
    if isinstance(licence, list):
        licence = ", ".join(map(_short, licence[:20])) or None
    if licence == "other" and front.get("license_name"):
        licence = front["license_name"]
    if licence is not None:
        return _short(licence)
    for path in sorted(folder.glob("*.gguf")):
        try:
            licence = read_header(path).fields.get("general.license")
        except ValueError as error:
            log.warning("%s", error)  # whoever loads the file refuses it
            continue
        if licence:
            return _short(licence)
    return None


def _short(licence: object) -> str:
    """A licence as one line: a card may say anything."""
    return " ".join(str(licence).split())[:MAX_LENGTH]
