"""Where inputs come from: fetched once by `prepare`, kept under `<storage>/inputs/<digest>/`, offline from then on."""

from __future__ import annotations

from rlhf_trainer.sources.fetch import Fetched, fetch
from rlhf_trainer.sources.keep import verify

__all__ = ["Fetched", "fetch", "verify"]
