"""Where a report lies."""

from __future__ import annotations

from pathlib import Path


def html_of(product: Path) -> Path | None:
    """The HTML file of a report's product."""
    found = sorted(product.glob("*.html"))
    return found[0] if found else None
