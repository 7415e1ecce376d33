"""Where a report lies."""

from __future__ import annotations

from pathlib import Path


def html_of(product: Path) -> Path | None:
    """The HTML file of a report's product."""
    files = sorted(product.glob("*.html"))
    return files[0] if files else None
