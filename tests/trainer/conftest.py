"""What all tests of the trainer need: DeepSpeed's op, built once where the launcher looks for it.

Without it every process would build the op anew in torch's own folder, whose key is not the trainer's.
"""

from __future__ import annotations

import pytest

from rlhf_trainer import ops


@pytest.fixture(scope="session", autouse=True)
def _op() -> None:
    ops.build_once()
