"""The licence that a model or data set says it has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rlhf_trainer.data.readers import card

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
        found = gguf_fields(path).get("general.license")
        if found:
            return str(found)
    return None


def gguf_fields(path: Path) -> dict[str, Any]:
    """Scalars and strings of a GGUF file's header, by key; arrays are left out.

    Raises:
        ValueError: it is no GGUF file.
    """
    from gguf import GGUFReader, GGUFValueType

    try:
        reader = GGUFReader(path)
    except Exception as error:  # the reader raises whatever its arrays raise on damaged files
        raise ValueError(f"{path.name}: cannot be read as GGUF ({error})") from error
    kept = {}
    for name, field in reader.fields.items():
        if field.types and field.types[0] != GGUFValueType.ARRAY:
            kept[name] = field.contents()
    return kept
