"""The operator's own kind."""

from __future__ import annotations

from rlhf_operator.runtime.kinds import Kind

RLHFJOBS = Kind("rlhf.dev", "v1alpha1", "rlhfjobs", "RLHFJob")
