"""TTL, retry, deadline, overrides and wrong specs against a real API server, Job controller and garbage collector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from cluster.control_plane import ControlPlane
from cluster.operator.ground import PATIENCE, Ground, ground, job, phase, stage
from cluster.operator.standin import attempt_of, stage_of
from rlhf_operator.runtime.kinds import JOBS, PODS, SERVICES, Kind, Object

CHILDREN = (JOBS, PODS, SERVICES)


async def children(cluster: Ground, *kinds: Kind) -> list[Object]:
    """What the operator made, and there still is."""
    owned = []
    for kind in kinds or CHILDREN:
        pages = cluster.api.pages(kind, cluster.namespace, label_selector="app.kubernetes.io/managed-by=rlhf-operator")
        owned += [item async for page in pages for item in page.items]
    return owned


async def gone(cluster: Ground) -> None:
    """Wait until no child is left."""
    async with asyncio.timeout(PATIENCE):
        while await children(cluster):
            await asyncio.sleep(0.1)


def condition(kind: str, reason: str) -> Callable[[Object], bool]:
    """Whether a condition holds, for this reason."""
    return lambda status: any(
        (entry["type"], entry["status"], entry["reason"]) == (kind, "True", reason)
        for entry in status.get("conditions", ())
    )


def running(of: str, attempt: int = 0) -> Callable[[Object], bool]:
    """Whether an attempt of a stage runs."""

    def true(status: Object) -> bool:
        stages = [entry for entry in status.get("stages", ()) if entry["name"] == of]
        return bool(stages) and stages[0]["state"] == "Running" and stages[0]["attempts"][-1]["number"] == attempt

    return true


def attempts(status: Object, of: str) -> list[tuple[str, str]]:
    """How the attempts of a stage ended."""
    return [(attempt["state"], attempt.get("reason", "")) for attempt in stage(status, of)["attempts"]]


def test_the_ttl_takes_the_children_and_a_job_applied_again_trains_nothing(
    controlled_plane: ControlPlane, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            file = tmp_path / "job.json"
            file.write_text(json.dumps(job(ttlSecondsAfterFinished=2)))
            apply = ("apply", "-n", cluster.namespace, "-f", str(file))
            controlled_plane.kubectl(*apply)
            await cluster.until(phase("Complete", "Failed"))
            await gone(cluster)
            before = await cluster.status()
            assert before["phase"] == "Complete"
            ran = dict(cluster.node.ran)
            assert controlled_plane.kubectl(*apply).strip() == "rlhfjob.rlhf.dev/beaver unchanged"
            await cluster.edit(ttlSecondsAfterFinished=1)  # the operator looks at it anew, and lets it be
            after = await cluster.until(lambda status: status["observedGeneration"] == 2)
            assert after | {"observedGeneration": 1} == before
            assert await children(cluster) == []
            assert cluster.node.ran == ran

    asyncio.run(main())


def test_a_retry_goes_on_from_the_failed_stage(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: 2 if stage_of(pod) == "reward" else 0
            await cluster.make(job())
            failed = await cluster.until(phase("Complete", "Failed"))
            assert failed["phase"] == "Failed"
            cluster.node.ends = lambda pod: 0
            controlled_plane.kubectl("annotate", "-n", cluster.namespace, "rlhfjob/beaver", "rlhf.dev/retry=1")
            status = await cluster.until(phase("Complete"))
            assert attempts(status, "sft") == [("Complete", "Complete")]
            assert [state for state, _ in attempts(status, "reward")] == ["Failed", "Complete"]
            assert [attempt["number"] for attempt in stage(status, "report")["attempts"]] == [0, 1]
            controlled_plane.kubectl(
                "wait", "--for=condition=Complete", "rlhfjob/beaver", "-n", cluster.namespace, "--timeout=60s"
            )

    asyncio.run(main())


def test_the_deadline_fails_the_job_and_the_report_is_written(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None if stage_of(pod) == "sft" else 0
            await cluster.make(job())
            await cluster.until(running("sft"))
            await cluster.edit(activeDeadlineSeconds=1)
            status = await cluster.until(phase("Complete", "Failed"))
            assert condition("Failed", "DeadlineExceeded")(status)
            assert attempts(status, "sft") == [("Failed", "DeadlineExceeded")]
            assert stage(status, "report")["state"] == "Complete"
            assert stage(status, "reward")["state"] == "Skipped"

    asyncio.run(main())


def test_an_override_counts_from_the_next_attempt_and_other_ranks_are_refused(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            fails = {0, 1}
            cluster.node.ends = lambda pod: None if stage_of(pod) == "sft" and attempt_of(pod) < 3 else 0
            await cluster.make(job())
            await cluster.until(running("sft"))
            override = {"stage": "sft", "resources": {"limits": {"memory": "2Gi"}}}
            await cluster.edit(runPolicy={"overrides": [override]})
            await cluster.until(lambda status: status["observedGeneration"] == 2)
            assert [memory(child) for child in await children(cluster, JOBS) if stage_of(child) == "sft"] == ["1Gi"]

            def ends(pod: Object) -> int | None:
                if stage_of(pod) != "sft":
                    return 0
                return 1 if attempt_of(pod) in fails else None

            cluster.node.ends = lambda pod: ends(pod) if attempt_of(pod) == 0 else None
            await cluster.until(running("sft", 1))
            gangs = [
                child for child in await children(cluster, JOBS) if (stage_of(child), attempt_of(child)) == ("sft", 1)
            ]
            assert [memory(child) for child in gangs] == ["2Gi"]
            await cluster.edit(runPolicy={"overrides": [override | {"nodes": 1}]})
            cluster.node.ends = ends
            status = await cluster.until(condition("Stalled", "InvalidOverride"))
            message = stage(status, "sft")["message"]
            assert message.startswith("spec.runPolicy.overrides[0].nodes: sft has a checkpoint of 2 ranks; found 1")
            cluster.node.ends = lambda pod: 0
            await cluster.edit(runPolicy={"overrides": [override]})
            status = await cluster.until(phase("Complete", "Failed"))
            assert [state for state, _ in attempts(status, "sft")] == ["Failed", "Failed", "Complete"]

    asyncio.run(main())


def memory(batch_job: Object) -> str:
    """Memory limit of a Job's trainer."""
    return str(batch_job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])


def test_a_wrong_spec_that_the_crd_lets_through_is_said_with_its_path_once(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            wrong = job(profile="h100x8")
            wrong["spec"]["inputs"][1]["source"] = "data/rows.jsonl"
            await cluster.make(wrong)
            status = await cluster.until(condition("Stalled", "InvalidSpec"))
            (message,) = [entry["message"] for entry in status["conditions"] if entry["type"] == "Stalled"]
            assert "spec.profile: there is no profile h100x8" in message
            assert "spec.inputs[1].source: found the path data/rows.jsonl" in message
            assert status["phase"] == "Invalid"
            controlled_plane.kubectl(
                "wait", "--for=condition=Stalled", "rlhfjob/beaver", "-n", cluster.namespace, "--timeout=60s"
            )
            await cluster.edit(suspend=True)  # another look at it
            await cluster.until(lambda current: current["observedGeneration"] == 2)
            assert await children(cluster) == []
            assert await cluster.event_reasons("InvalidSpec") == ["InvalidSpec"]

    asyncio.run(main())
