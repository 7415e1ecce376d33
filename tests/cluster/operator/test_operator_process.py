"""The operator as a process: it leads, works, and gives the Lease up when it is asked to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import orjson

from cluster.control_plane import ControlPlane
from cluster.operator.ground import SETTINGS, ground, job, phase
from rlhf_operator.runtime.kinds import LEASES


def test_it_runs_a_job_and_gives_the_lease_up(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            config = {
                "watch": [cluster.namespace],
                "operator": {"metricsPort": 0, "healthPort": 0},
                "leaderElection": {"namespace": cluster.namespace, "name": "operator", "retryPeriodSeconds": 5},
                "settings": SETTINGS.model_dump(mode="json", exclude_defaults=True),
            }
            (tmp_path / "config.yaml").write_bytes(orjson.dumps(config))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rlhf_operator.main"),
                *("--config", str(tmp_path / "config.yaml"), "--kubeconfig", str(controlled_plane.kubeconfig)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            await cluster.make(job())
            status = await cluster.until(phase("Complete", "Failed"))
            assert status["phase"] == "Complete"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0
            lease = await cluster.api.get(LEASES, cluster.namespace, "operator")
            assert lease["spec"]["holderIdentity"] == ""

    asyncio.run(main())
