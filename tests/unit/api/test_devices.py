"""Which resources are devices, and what quantities say: as Kubernetes reads them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rlhf_api import devices
from rlhf_api.pods import Resources
from rlhf_api.quantities import amount


@pytest.mark.parametrize(
    ("limits", "ranks"),
    [
        ({"nvidia.com/gpu": "2"}, 2),
        ({"nvidia.com/gpu": "2000m"}, 2),
        ({"nvidia.com/gpu.shared": "1"}, 1),
        ({"nvidia.com/mig-1g.10gb": "3"}, 3),
        ({"nvidia.com/mig-1g.10gb.shared": "3"}, 3),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "10240", "nvidia.com/gpucores": "30"}, 1),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"}, 1),
        ({"volcano.sh/vgpu-number": "2", "volcano.sh/vgpu-memory": "10240", "volcano.sh/vgpu-cores": "50"}, 2),
        ({"volcano.sh/gpu-memory": "8192"}, 0),
        ({"aliyun.com/gpu-mem": "16"}, 0),
        ({"run.ai/gpu-memory": "16"}, 0),
        ({"tencent.com/vcuda-core": "100"}, 0),
        ({"gpu.intel.com/i915": "2"}, 2),
        ({"gpu.intel.com/xe": "2"}, 2),
        ({"gpu.intel.com/memory.max": "2"}, 0),
        ({"amd.com/gpu": "8"}, 8),
        ({"habana.ai/gaudi": "8"}, 8),
        ({"google.com/tpu": "4"}, 4),
        ({"aws.amazon.com/neuron": "16"}, 16),
        ({"huawei.com/Ascend910": "8"}, 8),
        ({"metax-tech.com/gpu": "8", "metax-tech.com/vmemory": "4"}, 8),
        ({"nvidia.com/gpu": "8", "rdma/hca_shared_devices_a": "8"}, 8),
        ({"requests.nvidia.com/gpu": "1"}, 0),
        ({"example.com/gpu": "8"}, 0),
        ({"nvidia.com/gpu": "0"}, 0),
        ({"cpu": "64", "memory": "1Ti"}, 0),
    ],
)
def test_devices_are_counted_by_their_exact_names(limits: dict[str, str], ranks: int) -> None:
    assert devices.count(Resources.model_validate({"limits": limits}).limits) == ranks


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        *(("1", "1"), ("+1", "1"), ("1.", "1"), (".5", "0.5"), ("1.5Gi", "1610612736"), ("500m", "0.5")),
        *(("1E", "1000000000000000000"), ("1E3", "1000"), ("1e3", "1000"), ("1e-3", "0.001"), ("1E+2", "100")),
        *(("1k", "1000"), ("1Ki", "1024"), ("100n", "0.0000001"), ("2u", "0.000002"), ("1Ei", str(2**60))),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(quantity: str, number: str) -> None:
    Resources.model_validate({"limits": {"memory": quantity}})
    assert amount(quantity) == Decimal(number)


@pytest.mark.parametrize(
    "quantity", ["", "-1", "1K", "1KiB", "1e", "1e1000", "e3", ".", "1 Gi", "0x10", "1_000", "NaN"]
)
def test_what_kubernetes_would_not_read_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="limits"):
        Resources.model_validate({"limits": {"memory": quantity}})
