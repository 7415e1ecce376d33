"""Which resources of a pod are accelerators, one rank each. What shares of a device a pod asks for counts none."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rlhf_api.quantities import amount

PATTERN = "^(" + "|".join(
    (
        r"nvidia\.com/(gpu|mig-[a-z0-9.]+)(\.shared)?",
        r"amd\.com/gpu",
        r"gpu\.intel\.com/(i915|xe)",
        r"habana\.ai/gaudi",
        r"google\.com/tpu",
        r"aws\.amazon\.com/(neuron|neurondevice|neuroncore)",
        r"huawei\.com/Ascend[0-9]+[A-Za-z0-9]*",
        r"metax-tech\.com/gpu",
        r"volcano\.sh/(gpu-number|vgpu-number)",
    )
) + ")$"  # fmt: skip
"""Names of devices, whole ones and slices that a process may have for itself. Beside them stand memory, cores and
percentages (`nvidia.com/gpumem`, `volcano.sh/vgpu-memory`), which are no devices."""
MOST = 64
"""Devices of a pod: a rank each, as many as `ranksPerNode` may say."""

_DEVICE = re.compile(PATTERN)


def is_device(resource: str) -> bool:
    """Whether a resource is counted in devices."""
    return _DEVICE.fullmatch(resource) is not None


def count(limits: Mapping[str, str]) -> int:
    """Devices of a pod."""
    return sum(int(amount(quantity)) for name, quantity in limits.items() if is_device(name))
