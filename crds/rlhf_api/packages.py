"""Where installed packages lie; none of their code is run."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_folder(name: str) -> Path | None:
    """Folder of an installed package, `a.b` below that of `a`; None: no package `a` is installed.

    Only the first part is looked up: looking up a submodule runs its parents.
    """
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return None
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(folders)), *rest) if folders else None
