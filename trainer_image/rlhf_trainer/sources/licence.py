"""The licence that a model or data set says it has."""

from __future__ import annotations

import logging
from pathlib import Path

from rlhf_api.gguf import read_header
from rlhf_trainer.sources.choose import card

log = logging.getLogger(__name__)


def told_licence(folder: Path) -> str | None:
    """The licence in a folder's card (front matter of README.md) or in its GGUF file; None where neither says.

    Never guessed from the text of a licence file.
    """
    front = card(folder)
    licence = front.get("license", front.get("licence"))
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence)) or None
    if licence == "other" and front.get("license_name"):
        licence = front["license_name"]
    if licence is not None:
        return str(licence)
    for path in sorted(folder.glob("*.gguf")):
        try:
            found = read_header(path).fields.get("general.license")
        except ValueError as error:
            log.warning("%s", error)  # whoever loads the file refuses it
            continue
        if found:
            return str(found)
    return None
