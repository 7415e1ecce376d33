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


async def children(here: Ground, *kinds: Kind) -> list[Object]:
    """What the operator made, and there still is."""
    found = []
    for kind in kinds or CHILDREN:
        pages = here.api.pages(kind, here.namespace, label_selector="app.kubernetes.io/managed-by=rlhf-operator")
        found += [one async for page in pages for one in page.items]
    return found


async def gone(here: Ground) -> None:
    """Wait until no child is left."""
    async with asyncio.timeout(PATIENCE):
        while await children(here):
            await asyncio.sleep(0.1)


def condition(kind: str, reason: str) -> Callable[[Object], bool]:
    """Whether a condition holds, for this reason."""
    return lambda status: any(
        (one["type"], one["status"], one["reason"]) == (kind, "True", reason) for one in status.get("conditions", ())
    )


def running(of: str, attempt: int = 0) -> Callable[[Object], bool]:
    """Whether an attempt of a stage runs."""

    def true(status: Object) -> bool:
        found = [one for one in status.get("stages", ()) if one["name"] == of]
        return bool(found) and found[0]["state"] == "Running" and found[0]["attempts"][-1]["number"] == attempt

    return true


def attempts(status: Object, of: str) -> list[tuple[str, str]]:
    """How the attempts of a stage ended."""
    return [(one["state"], one.get("reason", "")) for one in stage(status, of)["attempts"]]


def test_the_ttl_takes_the_children_and_a_job_applied_again_trains_nothing(
    controlled_plane: ControlPlane, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            file = tmp_path / "job.json"
            file.write_text(json.dumps(job(ttlSecondsAfterFinished=2)))
            apply = ("apply", "-n", here.namespace, "-f", str(file))
            controlled_plane.kubectl(*apply)
            await here.until(phase("Complete", "Failed"))
            await gone(here)
            before = await here.status()
            assert before["phase"] == "Complete"
            ran = dict(here.node.seen)
            assert controlled_plane.kubectl(*apply).strip() == "rlhfjob.rlhf.dev/beaver unchanged"
            await here.edit(ttlSecondsAfterFinished=1)  # the operator looks at it anew, and lets it be
            after = await here.until(lambda status: status["observedGeneration"] == 2)
            assert after | {"observedGeneration": 1} == before
            assert await children(here) == []
            assert here.node.seen == ran

    asyncio.run(main())


def test_a_retry_goes_on_from_the_failed_stage(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda pod: 2 if stage_of(pod) == "reward" else 0
            await here.make(job())
            failed = await here.until(phase("Complete", "Failed"))
            assert failed["phase"] == "Failed"
            here.node.ends = lambda pod: 0
            controlled_plane.kubectl("annotate", "-n", here.namespace, "rlhfjob/beaver", "rlhf.dev/retry=1")
            status = await here.until(phase("Complete"))
            assert attempts(status, "sft") == [("Complete", "Complete")]
            assert [state for state, _ in attempts(status, "reward")] == ["Failed", "Complete"]
            assert [one["number"] for one in stage(status, "report")["attempts"]] == [0, 1]
            controlled_plane.kubectl(
                "wait", "--for=condition=Complete", "rlhfjob/beaver", "-n", here.namespace, "--timeout=60s"
            )

    asyncio.run(main())


def test_the_deadline_fails_the_job_and_the_report_is_written(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda pod: None if stage_of(pod) == "sft" else 0
            await here.make(job())
            await here.until(running("sft"))
            await here.edit(activeDeadlineSeconds=1)
            status = await here.until(phase("Complete", "Failed"))
            assert condition("Failed", "DeadlineExceeded")(status)
            assert attempts(status, "sft") == [("Failed", "DeadlineExceeded")]
            assert stage(status, "report")["state"] == "Complete"
            assert stage(status, "reward")["state"] == "Skipped"

    asyncio.run(main())


def test_an_override_counts_from_the_next_attempt_and_other_ranks_are_refused(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            fails = {0, 1}
            here.node.ends = lambda pod: None if stage_of(pod) == "sft" and attempt_of(pod) < 3 else 0
            await here.make(job())
            await here.until(running("sft"))
            override = {"stage": "sft", "resources": {"limits": {"memory": "2Gi"}}}
            await here.edit(runPolicy={"overrides": [override]})
            await here.until(lambda status: status["observedGeneration"] == 2)
            assert [memory(one) for one in await children(here, JOBS) if stage_of(one) == "sft"] == ["1Gi"]

            def ends(pod: Object) -> int | None:
                if stage_of(pod) != "sft":
                    return 0
                return 1 if attempt_of(pod) in fails else None

            here.node.ends = lambda pod: ends(pod) if attempt_of(pod) == 0 else None
            await here.until(running("sft", 1))
            gangs = [one for one in await children(here, JOBS) if (stage_of(one), attempt_of(one)) == ("sft", 1)]
            assert [memory(one) for one in gangs] == ["2Gi"]
            await here.edit(runPolicy={"overrides": [override | {"nodes": 1}]})
            here.node.ends = ends
            status = await here.until(condition("Stalled", "InvalidOverride"))
            said = stage(status, "sft")["message"]
            assert said.startswith("spec.runPolicy.overrides[0].nodes: sft has a checkpoint of 2 ranks; found 1")
            here.node.ends = lambda pod: 0
            await here.edit(runPolicy={"overrides": [override]})
            status = await here.until(phase("Complete", "Failed"))
            assert [state for state, _ in attempts(status, "sft")] == ["Failed", "Failed", "Complete"]

    asyncio.run(main())


def memory(made: Object) -> str:
    """Memory limit of a Job's trainer."""
    return str(made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])


def test_a_wrong_spec_that_the_crd_lets_through_is_said_with_its_path_once(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            wrong = job(profile="h100x8")
            wrong["spec"]["inputs"][1]["source"] = "data/rows.jsonl"
            await here.make(wrong)
            status = await here.until(condition("Stalled", "InvalidSpec"))
            (message,) = [one["message"] for one in status["conditions"] if one["type"] == "Stalled"]
            assert "spec.profile: there is no profile h100x8" in message
            assert "spec.inputs[1].source: found the path data/rows.jsonl" in message
            assert status["phase"] == "Invalid"
            controlled_plane.kubectl(
                "wait", "--for=condition=Stalled", "rlhfjob/beaver", "-n", here.namespace, "--timeout=60s"
            )
            await here.edit(suspend=True)  # another look at it
            await here.until(lambda found: found["observedGeneration"] == 2)
            assert await children(here) == []
            assert await here.told("InvalidSpec") == ["InvalidSpec"]

    asyncio.run(main())
