"""What all tests of the trainer need: DeepSpeed's op, built before, so that no test waits for it; and forgetting."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from rlhf_trainer import deepspeed_ops


@pytest.fixture(scope="session", autouse=True)
def _op() -> None:
    deepspeed_ops.build_once()


@pytest.fixture(scope="module", autouse=True)
def _functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Users' functions that a module's tests import are forgotten with its folders: a worker that takes over tests of
    the module later makes them anew, elsewhere."""
    before, folder = list(sys.path), str(tmp_path_factory.getbasetemp())
    yield
    sys.path[:] = before
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(folder):
            del sys.modules[name]
