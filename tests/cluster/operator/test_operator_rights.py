"""The operator as the chart makes it: its configuration, its service account, its rights, everywhere or in a namespace."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.chart.helm import NAMESPACE, find, objects, parse, template
from cluster.control_plane import ControlPlane, kubeconfig
from cluster.operator.ground import PATIENCE, Ground, ground, job, phase
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.errors import NotFound
from rlhf_operator.runtime.kinds import CONFIG_MAPS, JOBS, LEASES, PERSISTENT_VOLUME_CLAIMS, SERVICES, Object

RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


def installed(plane: ControlPlane, name: str, folder: Path, *values: str) -> tuple[Path, Path]:
    """Give a release's account its rights; its configuration and its kubeconfig."""
    rendered = objects(template("default", "--set", f"fullnameOverride={name}", *values))
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    items = [namespace, *(one for one in rendered if one["kind"] in RIGHTS)]
    plane.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    config = parse(find(rendered, "ConfigMap", name)["data"]["config.yaml"])
    config["operator"] |= {"metricsPort": 0, "healthPort": 0}
    (folder / "config.yaml").write_text(json.dumps(config))
    token = plane.kubectl("create", "token", name, "-n", NAMESPACE).strip()
    authority = base64.b64encode((plane.pki / "ca.crt").read_bytes()).decode()
    (folder / "account.kubeconfig").write_text(json.dumps(kubeconfig(plane.url, authority, token)))
    return folder / "config.yaml", folder / "account.kubeconfig"


async def children(here: Ground) -> list[Object]:
    """What the operator made, and there still is."""
    selector = "app.kubernetes.io/managed-by=rlhf-operator"
    return [
        one
        for kind in (JOBS, CONFIG_MAPS, SERVICES)
        async for page in here.api.pages(kind, here.namespace, label_selector=selector)
        for one in page.items
    ]


@contextlib.asynccontextmanager
async def process(config: Path, account: Path, log: Path) -> AsyncIterator[None]:
    """The operator's process, until the end of the block."""
    with log.open("wb") as file:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rlhf_operator.main", "--config", str(config), "--kubeconfig", str(account)),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=file,
            stderr=file,
        )
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.wait(), PATIENCE) == 0, log.read_text()


@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "in-a-namespace"])
def test_the_chart_gives_the_operator_every_right_it_needs_and_jobs_of_its_namespaces_alone(
    controlled_plane: ControlPlane, tmp_path: Path, everywhere: bool
) -> None:
    def mine(**spec: object) -> Object:
        template = {"accessModes": ["ReadWriteMany"], "size": "1Gi"}
        return job(storage={"claimTemplate": template}, ttlSecondsAfterFinished=1, **spec)

    async def main() -> None:
        async with ground(controlled_plane) as here, ground(controlled_plane) as other:
            name = f"operator-{here.namespace}"
            values = () if everywhere else ("--set", f"namespaces={{{here.namespace}}}")
            config, account = installed(controlled_plane, name, tmp_path, *values)
            async with process(config, account, tmp_path / "log"):
                await other.make(mine())
                await here.make(mine())
                await here.until(phase("Succeeded", "Failed"))
                async with asyncio.timeout(PATIENCE):  # the children go by the TTL
                    while await children(here):
                        await asyncio.sleep(0.1)
                assert (await here.status())["phase"] == "Succeeded"
                await here.api.get(PERSISTENT_VOLUME_CLAIMS, here.namespace, "beaver-storage")
                await here.told("StageComplete", "Complete")
                await here.edit(runPolicy={"deleteAfterFinished": True})
                with pytest.raises(NotFound):
                    async with asyncio.timeout(PATIENCE):
                        while True:
                            await here.api.get(RLHFJOBS, here.namespace, "beaver")
                            await asyncio.sleep(0.1)
                if everywhere:
                    assert (await other.until(phase("Succeeded", "Failed")))["phase"] == "Succeeded"
                else:
                    assert await other.status() == {}
                    assert [one async for page in other.api.pages(JOBS, other.namespace) for one in page.items] == []
            lease = await here.api.get(LEASES, NAMESPACE, name)
            assert lease["spec"]["holderIdentity"] == ""
            log = (tmp_path / "log").read_text()
            assert "403" not in log, log
            assert "orbidden" not in log, log

    asyncio.run(main())
