"""The operator against a real API server and Job controller, with Pod Security enforced; only the node is a stand-in."""

from __future__ import annotations

import asyncio

import pytest

from cluster.control_plane import ControlPlane
from cluster.operator.ground import PATIENCE, Ground, ground, job, phase, stage
from cluster.operator.standin import attempt_of, index_of, stage_of
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.kinds import JOBS, PODS, SERVICES, Kind, Object

QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")


async def names(here: Ground, kind: Kind) -> list[str]:
    """Names of the objects of a kind that the operator made."""
    pages = here.api.pages(kind, here.namespace, label_selector="app.kubernetes.io/managed-by=rlhf-operator")
    return [one["metadata"]["name"] async for page in pages for one in page.items]


async def pod(here: Ground, of: str, index: int = 0) -> str:
    """Name of a running pod of a stage."""
    async for page in here.api.pages(PODS, here.namespace):
        for one in page.items:
            if stage_of(one) == of and index_of(one) == index and one["status"].get("phase") == "Running":
                return str(one["metadata"]["name"])
    raise AssertionError(f"no running pod {index} of {of}")


def running(of: str, attempt: int = 0):  # type: ignore[no-untyped-def]
    def true(status: Object) -> bool:
        found = [one for one in status.get("stages", []) if one["name"] == of]
        return bool(found) and found[0]["state"] == "Running" and found[0]["attempts"][-1]["number"] == attempt

    return true


def test_a_job_runs_to_its_end_under_enforced_pod_security(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            await here.make(job())
            status = await here.until(phase("Complete", "Failed", "Invalid"))
            assert status["phase"] == "Complete", status
            assert here.node.seen["sft"] == {(0, 0), (0, 1)}
            assert len(await names(here, JOBS)) == 5
            assert len(await names(here, SERVICES)) == 1
            controlled_plane.kubectl(
                "wait", "--for=condition=Complete", "rlhfjob/beaver", "-n", here.namespace, "--timeout=60s"
            )

    asyncio.run(main())


def test_a_failing_rank_counts_once_and_an_eviction_does_not(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():

            def ends(one: Object) -> int | None:
                if stage_of(one) != "sft":
                    return 0
                if attempt_of(one) == 0:
                    return 1 if index_of(one) == 1 else None
                return None if attempt_of(one) == 1 else 0

            here.node.ends = ends
            await here.make(job())
            await here.until(running("sft", 1))
            eviction = Kind("", "v1", f"pods/{await pod(here, 'sft')}/eviction", "Eviction")
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": await pod(here, "sft"), "namespace": here.namespace},
            }
            await here.api.create(eviction, here.namespace, body)
            status = await here.until(phase("Complete", "Failed"))
            found = [(one["state"], one["reason"], one["counted"]) for one in stage(status, "sft")["attempts"]]
            assert found == [
                ("Failed", "Crashed", True),
                ("Disrupted", "Evicted", False),
                ("Complete", "Complete", False),
            ]
            assert stage(status, "sft")["restarts"] == 1
            assert status["phase"] == "Complete"

    asyncio.run(main())


@pytest.mark.parametrize("of", ["sft", "reward"])
def test_a_lost_node_costs_an_attempt_and_not_the_job(controlled_plane: ControlPlane, of: str) -> None:
    """Of a gang of two, and of one pod: the real Job controller waits for such a pod as long as it is there."""

    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: None if (stage_of(one), attempt_of(one)) == (of, 0) else 0
            await here.make(job(runPolicy={"lostNodeTimeout": 2}))
            await here.until(running(of))
            gone = await pod(here, of)
            here.node.lost.add(gone)
            await here.api.delete(PODS, here.namespace, gone, grace_seconds=1)  # as the taint manager does
            status = await here.until(phase("Complete", "Failed"))
            assert status["phase"] == "Complete"
            found = [(one["state"], one["counted"]) for one in stage(status, of)["attempts"]]
            assert found == [("Disrupted", False), ("Complete", False)]
            await here.api.get(PODS, here.namespace, gone)  # still there

    asyncio.run(main())


def test_suspend_and_resume(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: None if stage_of(one) == "sft" and attempt_of(one) == 0 else 0
            await here.make(job())
            await here.until(running("sft"))
            await here.edit(suspend=True)
            await here.until(phase("Suspended"))
            assert [one for one in await names(here, JOBS) if "-sft-" in one] == []
            await here.edit(suspend=False)
            status = await here.until(phase("Complete", "Failed"))
            assert [one["state"] for one in stage(status, "sft")["attempts"]] == ["Stopped", "Complete"]

    asyncio.run(main())


def test_a_failed_stage_fails_the_job_with_a_report(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: 3 if stage_of(one) == "reward" else None if stage_of(one) == "cost" else 0
            await here.make(job())
            status = await here.until(phase("Complete", "Failed"))
            assert stage(status, "reward")["attempts"][0]["exitCode"] == 3
            assert stage(status, "cost")["state"] == "Skipped"
            assert stage(status, "report")["state"] == "Complete"
            await here.told("StageFailed", "Failed")

    asyncio.run(main())


def test_deleting_the_job_takes_everything_with_it(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: None
            await here.make(job())
            await here.until(running("prepare"))
            await here.api.delete(RLHFJOBS, here.namespace, "beaver")
            async with asyncio.timeout(PATIENCE):
                while any([await names(here, kind) for kind in (JOBS, PODS, SERVICES)]):
                    await asyncio.sleep(0.1)

    asyncio.run(main())


def test_a_quota_that_refuses_pods_is_told_in_its_own_words(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            quota = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
            await here.api.create(QUOTAS, here.namespace, quota)
            async with asyncio.timeout(PATIENCE):
                while not (await here.api.get(QUOTAS, here.namespace, "team")).get("status", {}).get("hard"):
                    await asyncio.sleep(0.1)
            await here.make(job())
            status = await here.until(
                lambda found: (
                    bool(found.get("stages")) and "exceeded quota" in str(stage(found, "prepare").get("message"))
                )
            )
            assert stage(status, "prepare")["reason"] == "NoPods"

    asyncio.run(main())


def test_a_pod_field_that_the_api_server_refuses_is_told(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            await here.make(job(pod={"tolerations": [{"key": "no key!", "operator": "Exists"}]}))
            value = await here.until(lambda found: "CreateFailed" in str(found.get("conditions")))
            assert "tolerations[0].key" in str(value["conditions"])

    asyncio.run(main())


def test_a_running_job_that_nothing_changes_writes_nothing(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: None
            await here.make(job())
            await here.until(running("prepare"))
            await asyncio.sleep(3)
            before = (await here.api.get(RLHFJOBS, here.namespace, "beaver"))["metadata"]["resourceVersion"]
            await asyncio.sleep(5)
            after = (await here.api.get(RLHFJOBS, here.namespace, "beaver"))["metadata"]["resourceVersion"]
            assert before == after

    asyncio.run(main())
