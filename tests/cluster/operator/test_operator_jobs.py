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


async def names(cluster: Ground, kind: Kind) -> list[str]:
    """Names of the objects of a kind that the operator made."""
    pages = cluster.api.pages(kind, cluster.namespace, label_selector="app.kubernetes.io/managed-by=rlhf-operator")
    return [item["metadata"]["name"] async for page in pages for item in page.items]


async def running_pod(cluster: Ground, of: str, index: int = 0) -> str:
    """Name of a running pod of a stage."""
    async for page in cluster.api.pages(PODS, cluster.namespace):
        for pod in page.items:
            if stage_of(pod) == of and index_of(pod) == index and pod["status"].get("phase") == "Running":
                return str(pod["metadata"]["name"])
    raise AssertionError(f"no running pod {index} of {of}")


def running(of: str, attempt: int = 0):  # type: ignore[no-untyped-def]
    def true(status: Object) -> bool:
        stages = [entry for entry in status.get("stages", []) if entry["name"] == of]
        return bool(stages) and stages[0]["state"] == "Running" and stages[0]["attempts"][-1]["number"] == attempt

    return true


def test_a_job_runs_to_its_end_under_enforced_pod_security(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            await cluster.make(job())
            status = await cluster.until(phase("Complete", "Failed", "Invalid"))
            assert status["phase"] == "Complete", status
            assert cluster.node.ran["sft"] == {(0, 0), (0, 1)}
            assert len(await names(cluster, JOBS)) == 5
            assert len(await names(cluster, SERVICES)) == 1
            controlled_plane.kubectl(
                "wait", "--for=condition=Complete", "rlhfjob/beaver", "-n", cluster.namespace, "--timeout=60s"
            )

    asyncio.run(main())


def test_a_failing_rank_counts_once_and_an_eviction_does_not(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():

            def ends(pod: Object) -> int | None:
                if stage_of(pod) != "sft":
                    return 0
                if attempt_of(pod) == 0:
                    return 1 if index_of(pod) == 1 else None
                return None if attempt_of(pod) == 1 else 0

            cluster.node.ends = ends
            await cluster.make(job())
            await cluster.until(running("sft", 1))
            eviction = Kind("", "v1", f"pods/{await running_pod(cluster, 'sft')}/eviction", "Eviction")
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": await running_pod(cluster, "sft"), "namespace": cluster.namespace},
            }
            await cluster.api.create(eviction, cluster.namespace, body)
            status = await cluster.until(phase("Complete", "Failed"))
            outcomes = [
                (attempt["state"], attempt["reason"], attempt["counted"])
                for attempt in stage(status, "sft")["attempts"]
            ]
            assert outcomes == [
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
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None if (stage_of(pod), attempt_of(pod)) == (of, 0) else 0
            await cluster.make(job(runPolicy={"lostNodeTimeout": 2}))
            await cluster.until(running(of))
            gone = await running_pod(cluster, of)
            cluster.node.lost.add(gone)
            await cluster.api.delete(PODS, cluster.namespace, gone, grace_seconds=1)  # as the taint manager does
            status = await cluster.until(phase("Complete", "Failed"))
            assert status["phase"] == "Complete"
            outcomes = [(attempt["state"], attempt["counted"]) for attempt in stage(status, of)["attempts"]]
            assert outcomes == [("Disrupted", False), ("Complete", False)]
            await cluster.api.get(PODS, cluster.namespace, gone)  # still there

    asyncio.run(main())


def test_suspend_and_resume(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None if stage_of(pod) == "sft" and attempt_of(pod) == 0 else 0
            await cluster.make(job())
            await cluster.until(running("sft"))
            await cluster.edit(suspend=True)
            await cluster.until(phase("Suspended"))
            assert [item for item in await names(cluster, JOBS) if "-sft-" in item] == []
            await cluster.edit(suspend=False)
            status = await cluster.until(phase("Complete", "Failed"))
            assert [item["state"] for item in stage(status, "sft")["attempts"]] == ["Stopped", "Complete"]

    asyncio.run(main())


def test_a_failed_stage_fails_the_job_with_a_report(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: 3 if stage_of(pod) == "reward" else None if stage_of(pod) == "cost" else 0
            await cluster.make(job())
            status = await cluster.until(phase("Complete", "Failed"))
            assert stage(status, "reward")["attempts"][0]["exitCode"] == 3
            assert stage(status, "cost")["state"] == "Skipped"
            assert stage(status, "report")["state"] == "Complete"
            await cluster.event_reasons("StageFailed", "Failed")

    asyncio.run(main())


def test_deleting_the_job_takes_everything_with_it(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None
            await cluster.make(job())
            await cluster.until(running("prepare"))
            await cluster.api.delete(RLHFJOBS, cluster.namespace, "beaver")
            async with asyncio.timeout(PATIENCE):
                while any([await names(cluster, kind) for kind in (JOBS, PODS, SERVICES)]):
                    await asyncio.sleep(0.1)

    asyncio.run(main())


def test_a_quota_that_refuses_pods_is_told_in_its_own_words(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            quota = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
            await cluster.api.create(QUOTAS, cluster.namespace, quota)
            async with asyncio.timeout(PATIENCE):
                while not (await cluster.api.get(QUOTAS, cluster.namespace, "team")).get("status", {}).get("hard"):
                    await asyncio.sleep(0.1)
            await cluster.make(job())
            status = await cluster.until(
                lambda current: (
                    bool(current.get("stages")) and "exceeded quota" in str(stage(current, "prepare").get("message"))
                )
            )
            assert stage(status, "prepare")["reason"] == "NoPods"

    asyncio.run(main())


def test_a_pod_field_that_the_api_server_refuses_is_told(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            await cluster.make(job(pod={"tolerations": [{"key": "no key!", "operator": "Exists"}]}))
            value = await cluster.until(lambda current: "CreateFailed" in str(current.get("conditions")))
            assert "tolerations[0].key" in str(value["conditions"])

    asyncio.run(main())


def test_a_running_job_that_nothing_changes_writes_nothing(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None
            await cluster.make(job())
            await cluster.until(running("prepare"))
            await asyncio.sleep(3)
            before = (await cluster.api.get(RLHFJOBS, cluster.namespace, "beaver"))["metadata"]["resourceVersion"]
            await asyncio.sleep(5)
            after = (await cluster.api.get(RLHFJOBS, cluster.namespace, "beaver"))["metadata"]["resourceVersion"]
            assert before == after

    asyncio.run(main())
