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


async def refusal(here: Ground) -> str:
    """Wait until an object of the job cannot be made; why."""

    def told(status: Object) -> list[str]:
        conditions = status.get("conditions", ())
        return [one["message"] for one in conditions if (one["type"], one["reason"]) == ("Stalled", "CreateFailed")]

    await here.told("CreateFailed")
    return told(await here.until(lambda status: bool(told(status))))[0]


async def made(here: Ground, kind: Kind, of: str) -> list[Object]:
    """What was made for a stage."""
    pages = here.api.pages(kind, here.namespace, label_selector=f"rlhf.dev/stage={of}")
    return [one async for page in pages for one in page.items]


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
        async with ground(controlled_plane) as here:
            with pytest.raises(Invalid, match=re.escape(path)):
                await here.make(job(pod=pod))

    asyncio.run(main())


def test_a_stage_that_is_refused_holds_up_no_other(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            value = job()
            value["spec"]["stages"][1]["pod"] = {"tolerations": [{"key": "no key!", "operator": "Exists"}]}
            await here.make(value)
            assert "-reward-" in await refusal(here)
            status = await here.until(
                lambda found: bool(found.get("stages")) and stage(found, "cost")["state"] == "Complete"
            )
            assert stage(status, "reward")["reason"] == "CreateFailed"
            assert "tolerations[0].key" in stage(status, "reward")["message"]
            await here.edit(suspend=True)
            await here.until(phase("Suspended"))

    asyncio.run(main())


def test_a_claim_of_the_templates_name_that_was_not_made_for_the_job_is_not_mounted(
    controlled_plane: ControlPlane,
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
            claim = {"metadata": {"name": "beaver-storage"}, "spec": spec}
            await here.api.create(PERSISTENT_VOLUME_CLAIMS, here.namespace, claim)
            await here.make(job(storage={"claimTemplate": TEMPLATE}))
            said = await refusal(here)
            assert said.startswith("PersistentVolumeClaim beaver-storage exists and belongs to someone else"), said
            assert await made(here, JOBS, "prepare") == []
            await here.api.delete(PERSISTENT_VOLUME_CLAIMS, here.namespace, "beaver-storage")
            patch = {"metadata": {"finalizers": None}}  # nobody takes the protection off
            with contextlib.suppress(NotFound):  # but a controller that was quicker
                await here.api.patch(PERSISTENT_VOLUME_CLAIMS, here.namespace, "beaver-storage", patch)
            assert (await here.until(phase("Complete", "Failed")))["phase"] == "Complete"

    asyncio.run(main())


def test_a_job_that_is_made_again_finds_its_claim(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            uids = set()
            for _ in range(2):
                await here.make(job(storage={"claimTemplate": TEMPLATE}))
                assert (await here.until(phase("Complete", "Failed")))["phase"] == "Complete"
                found = await here.api.get(PERSISTENT_VOLUME_CLAIMS, here.namespace, "beaver-storage")
                uids.add(found["metadata"]["uid"])
                await here.api.delete(RLHFJOBS, here.namespace, "beaver")
                await gone(here)
            assert len(uids) == 1

    asyncio.run(main())


def test_what_was_known_of_a_claim_is_forgotten_when_it_is_made(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator() as controller:
            raw = await here.make(job(storage={"claimTemplate": TEMPLATE}, suspend=True))
            await controller.view.ask(raw, [LiveRead("Claim", "beaver-storage")])
            assert controller.view.cached(raw).claims == {"beaver-storage": None}
            await here.edit(suspend=False)
            await here.until(phase("Complete", "Failed"))
            assert controller.view.cached(raw).claims.get("beaver-storage", {}) is not None

    asyncio.run(main())


async def gone(here: Ground) -> None:
    """Wait until the job is gone."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await here.api.get(RLHFJOBS, here.namespace, "beaver")
            except NotFound:
                return
            await asyncio.sleep(0.1)


def test_an_override_after_a_refused_job_makes_the_gang_that_it_says(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda pod: None if stage_of(pod) == "sft" else 0
            quota = {"metadata": {"name": "team"}, "spec": {"hard": {"count/jobs.batch": "1"}}}
            await here.api.create(QUOTAS, here.namespace, quota)
            await here.make(job())
            assert "exceeded quota" in await refusal(here)
            await here.edit(runPolicy={"overrides": [{"stage": "sft", "nodes": 1}]})
            await here.until(lambda found: found["observedGeneration"] == 2)
            await here.api.patch(QUOTAS, here.namespace, "team", {"spec": {"hard": {"count/jobs.batch": "9"}}})
            status = await here.until(lambda found: stage(found, "sft")["state"] == "Running")
            (gang,) = await made(here, JOBS, "sft")
            file = json.loads(gang["spec"]["template"]["metadata"]["annotations"]["rlhf.dev/stage-file"])
            assert gang["spec"]["completions"] == file.get("nodes", 1) == 1
            assert [(one["number"], one["ranks"]) for one in stage(status, "sft")["attempts"]] == [(0, 1)]

    asyncio.run(main())


def test_what_comes_to_a_job_again_is_told_again_also_by_another_process(controlled_plane: ControlPlane) -> None:
    async def told(here: Ground) -> list[str]:
        pages = here.api.pages(EVENTS, here.namespace)
        found = [str(one["reason"]) async for page in pages for one in page.items]
        return sorted(one for one in found if one in ("Suspended", "Resumed"))

    async def main() -> None:
        async with ground(controlled_plane) as here:
            here.node.ends = lambda pod: None
            await here.make(job())
            for times in (1, 2):
                async with here.operator():
                    await here.until(phase("Preparing"))
                    for suspend, then in ((True, "Suspended"), (False, "Preparing")):
                        await here.edit(suspend=suspend)
                        await here.until(phase(then))
                    async with asyncio.timeout(PATIENCE):  # events are sent in the background
                        while await told(here) != sorted(["Resumed", "Suspended"] * times):
                            await asyncio.sleep(0.1)
            assert await told(here) == ["Resumed", "Resumed", "Suspended", "Suspended"]

    asyncio.run(main())
