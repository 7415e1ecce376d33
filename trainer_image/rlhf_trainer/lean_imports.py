"""Leaving out what libraries import only because it is installed: seconds of processor time in every process.

Libraries look for optional packages with importlib.util.find_spec or a guarded import, and do without one that is not
there. `sys.modules[NAME] = None` is Python's own way to say so (the import system, "The module cache"): both then find
nothing. Only while a library is imported: afterwards every package can be imported again, scipy by our statistics,
accelerate by peft.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("PIL", "accelerate", "scipy")
"""What transformers imports where it can, and no stage uses: pictures, models spread over devices (with it clients of
clouds), and matchings of object detection."""
CLOUDS = ("boto3", "botocore")
"""What TensorBoard imports where it can, to write into S3; events go to the work folder."""
OF_GPUS = ("cuda", "triton")
"""What torch imports where it can, and a rank on the CPU does not use."""


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Within, packages that have not been imported yet cannot be found."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is documented
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, the garbage collector rests, and then takes what there is as there to stay.

    Modules, classes and functions are no garbage: looking through them again and again is a tenth of an import's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_without_torch() -> None:
    """Let transformers run as it does where torch is not installed: tokenizers and configurations, no models.

    It looks for torch once, when it is imported. Nothing is done in a process that has imported either before: what a
    user's function has imported must stay as it is.
    """
    if "torch" not in sys.modules and "transformers" not in sys.modules:
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would say that torch was not found
        with absent("torch", "PIL"), uncollected():
            importlib.import_module("transformers")
