"""What a real API server will not have made, and what is there already: said in words, and gone on from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

import pytest

from cluster.control_plane import ControlPlane
from cluster.operator.ground import PATIENCE, Ground, ground, job, phase, stage
from cluster.operator.standin import stage_of
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.reconcile import LiveRead
from rlhf_operator.runtime.errors import Invalid, NotFound
from rlhf_operator.runtime.kinds import EVENTS, JOBS, PERSISTENT_VOLUME_CLAIMS, Kind, Object

QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")
TEMPLATE = {"accessModes": ["ReadWriteMany"], "size": "1Gi"}


async def refusal(cluster: Ground) -> str:
    """Wait until an object of the job cannot be made; why."""

    def messages(status: Object) -> list[str]:
        conditions = status.get("conditions", ())
        return [
            condition["message"]
            for condition in conditions
            if (condition["type"], condition["reason"]) == ("Stalled", "CreateFailed")
        ]

    await cluster.event_reasons("CreateFailed")
    return messages(await cluster.until(lambda status: bool(messages(status))))[0]


async def objects_of(cluster: Ground, kind: Kind, of: str) -> list[Object]:
    """What was made for a stage."""
    pages = cluster.api.pages(kind, cluster.namespace, label_selector=f"rlhf.dev/stage={of}")
    return [item async for page in pages for item in page.items]


@pytest.mark.parametrize(
    ("pod", "path"),
    [
        ({"volumes": [{"name": "a", "emptyDir": {"sizeLimit": ["1Gi"]}}]}, "spec.pod.volumes[0].emptyDir.sizeLimit"),
        ({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}}, "nodeSelectorTerms"),
    ],
)
def test_a_wrong_pod_field_is_refused_when_the_job_is_made(
    controlled_plane: ControlPlane, pod: Object, path: str
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            with pytest.raises(Invalid, match=re.escape(path)):
                await cluster.make(job(pod=pod))

    asyncio.run(main())


def test_a_stage_that_is_refused_holds_up_no_other(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            value = job()
            value["spec"]["stages"][1]["pod"] = {"tolerations": [{"key": "no key!", "operator": "Exists"}]}
            await cluster.make(value)
            assert "-reward-" in await refusal(cluster)
            status = await cluster.until(
                lambda current: bool(current.get("stages")) and stage(current, "cost")["state"] == "Complete"
            )
            assert stage(status, "reward")["reason"] == "CreateFailed"
            assert "tolerations[0].key" in stage(status, "reward")["message"]
            await cluster.edit(suspend=True)
            await cluster.until(phase("Suspended"))

    asyncio.run(main())


def test_a_claim_of_the_templates_name_that_was_not_made_for_the_job_is_not_mounted(
    controlled_plane: ControlPlane,
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
            claim = {"metadata": {"name": "beaver-storage"}, "spec": spec}
            await cluster.api.create(PERSISTENT_VOLUME_CLAIMS, cluster.namespace, claim)
            await cluster.make(job(storage={"claimTemplate": TEMPLATE}))
            reason = await refusal(cluster)
            assert reason.startswith("PersistentVolumeClaim beaver-storage exists and belongs to someone else"), reason
            assert await objects_of(cluster, JOBS, "prepare") == []
            await cluster.api.delete(PERSISTENT_VOLUME_CLAIMS, cluster.namespace, "beaver-storage")
            patch = {"metadata": {"finalizers": None}}  # nobody takes the protection off
            with contextlib.suppress(NotFound):  # but a controller that was quicker
                await cluster.api.patch(PERSISTENT_VOLUME_CLAIMS, cluster.namespace, "beaver-storage", patch)
            assert (await cluster.until(phase("Complete", "Failed")))["phase"] == "Complete"

    asyncio.run(main())


def test_a_job_that_is_made_again_finds_its_claim(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            uids = set()
            for _ in range(2):
                await cluster.make(job(storage={"claimTemplate": TEMPLATE}))
                assert (await cluster.until(phase("Complete", "Failed")))["phase"] == "Complete"
                claim = await cluster.api.get(PERSISTENT_VOLUME_CLAIMS, cluster.namespace, "beaver-storage")
                uids.add(claim["metadata"]["uid"])
                await cluster.api.delete(RLHFJOBS, cluster.namespace, "beaver")
                await gone(cluster)
            assert len(uids) == 1

    asyncio.run(main())


def test_what_was_known_of_a_claim_is_forgotten_when_it_is_made(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator() as controller:
            raw = await cluster.make(job(storage={"claimTemplate": TEMPLATE}, suspend=True))
            await controller.view.ask(raw, [LiveRead("Claim", "beaver-storage")])
            assert controller.view.cached(raw).claims == {"beaver-storage": None}
            await cluster.edit(suspend=False)
            await cluster.until(phase("Complete", "Failed"))
            assert controller.view.cached(raw).claims.get("beaver-storage", {}) is not None

    asyncio.run(main())


async def gone(cluster: Ground) -> None:
    """Wait until the job is gone."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await cluster.api.get(RLHFJOBS, cluster.namespace, "beaver")
            except NotFound:
                return
            await asyncio.sleep(0.1)


def test_an_override_after_a_refused_job_makes_the_gang_that_it_says(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None if stage_of(pod) == "sft" else 0
            quota = {"metadata": {"name": "team"}, "spec": {"hard": {"count/jobs.batch": "1"}}}
            await cluster.api.create(QUOTAS, cluster.namespace, quota)
            await cluster.make(job())
            assert "exceeded quota" in await refusal(cluster)
            await cluster.edit(runPolicy={"overrides": [{"stage": "sft", "nodes": 1}]})
            await cluster.until(lambda current: current["observedGeneration"] == 2)
            await cluster.api.patch(QUOTAS, cluster.namespace, "team", {"spec": {"hard": {"count/jobs.batch": "9"}}})
            status = await cluster.until(lambda current: stage(current, "sft")["state"] == "Running")
            (gang,) = await objects_of(cluster, JOBS, "sft")
            file = json.loads(gang["spec"]["template"]["metadata"]["annotations"]["rlhf.dev/stage-file"])
            assert gang["spec"]["completions"] == file.get("nodes", 1) == 1
            assert [(attempt["number"], attempt["ranks"]) for attempt in stage(status, "sft")["attempts"]] == [(0, 1)]

    asyncio.run(main())


def test_what_comes_to_a_job_again_is_told_again_also_by_another_process(controlled_plane: ControlPlane) -> None:
    async def suspensions(cluster: Ground) -> list[str]:
        pages = cluster.api.pages(EVENTS, cluster.namespace)
        reasons = [str(item["reason"]) async for page in pages for item in page.items]
        return sorted(item for item in reasons if item in ("Suspended", "Resumed"))

    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            cluster.node.ends = lambda pod: None
            await cluster.make(job())
            for times in (1, 2):
                async with cluster.operator():
                    await cluster.until(phase("Preparing"))
                    for suspend, then in ((True, "Suspended"), (False, "Preparing")):
                        await cluster.edit(suspend=suspend)
                        await cluster.until(phase(then))
                    async with asyncio.timeout(PATIENCE):  # events are sent in the background
                        while await suspensions(cluster) != sorted(["Resumed", "Suspended"] * times):
                            await asyncio.sleep(0.1)
            assert await suspensions(cluster) == ["Resumed", "Resumed", "Suspended", "Suspended"]

    asyncio.run(main())
