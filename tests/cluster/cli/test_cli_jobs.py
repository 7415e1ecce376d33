"""`rlhf` against a real API server with a real operator; only the node is a stand-in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cluster.cli.ground import Command, until, written
from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.operator.ground import CRD, Ground, ground, job, phase
from cluster.operator.standin import attempt_of, stage_of
from rlhf_operator.runtime.kinds import Kind

QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")


def command(plane: ControlPlane, here: Ground, folder: Path) -> Command:
    return Command(plane.kubeconfig, here.namespace, folder)


def test_a_job_is_submitted_once_and_changed_only_where_it_may_be(
    controlled_plane: ControlPlane, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here:
            rlhf = command(controlled_plane, here, tmp_path)
            file = written(tmp_path, job())
            said = await rlhf("submit", file, "--dry-run")
            assert (said.code, "the API server takes it; it would be created" in said.out) == (0, True), said
            assert (await rlhf("status", "--output", "json")).json == {"jobs": []}
            said = await rlhf("submit", file)
            assert (said.code, said.err) == (0, "")
            first, *next_commands = said.out.splitlines()
            assert first == f"beaver: created in namespace {here.namespace}"
            assert next_commands[0].endswith(f"rlhf status beaver --watch -n {here.namespace}")
            said = await rlhf("submit", file, "--output", "json")
            assert (said.code, said.json["result"], said.json["phase"]) == (0, "unchanged", "Pending")
            written(tmp_path, job(runPolicy={"maxRestarts": 7}))
            assert (await rlhf("submit", file, "--output", "json")).json["result"] == "changed"
            written(tmp_path, job(runPolicy={"maxRestarts": 7}, seed=7))
            said = await rlhf("submit", file)
            assert said.code == 2
            assert "spec.seed" in said.err and "may not change" in said.err
            assert "delete that job first, or give this one another metadata.name" in said.err

    asyncio.run(main())


def test_what_kubectl_applied_is_the_same_job(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here:
            rlhf = command(controlled_plane, here, tmp_path)
            file = written(tmp_path, job(seed=0, suspend=False))
            controlled_plane.kubectl("apply", "-n", here.namespace, "-f", str(file))
            assert (await rlhf("submit", file, "--output", "json")).json["result"] == "unchanged"

    asyncio.run(main())


def test_a_field_that_another_manager_owns_is_left_to_it(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here:
            rlhf = command(controlled_plane, here, tmp_path)
            file = written(tmp_path, job(suspend=False))
            manager = ("--server-side", "--field-manager=gitops")
            controlled_plane.kubectl("apply", "-n", here.namespace, *manager, "-f", str(file))
            assert (await rlhf("submit", file, "--output", "json")).json["result"] == "unchanged"
            written(tmp_path, job(suspend=True))
            said = await rlhf("submit", file)
            assert said.code == 1
            assert 'conflict with "gitops"' in said.err and ".spec.suspend" in said.err
            assert "someone else has set that field" in said.err

    asyncio.run(main())


def test_a_submitted_job_is_followed_to_its_end(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            rlhf = command(controlled_plane, here, tmp_path)
            said = await rlhf("submit", written(tmp_path, job()), "--wait")
            assert said.code == 0, said
            told = [line.partition(" ")[2] for line in said.err.splitlines()]
            assert "beaver: Complete" in told
            assert any(line.startswith("sft: Complete") for line in told)
            assert f"rlhf pull beaver -n {here.namespace}" in said.err
            found = (await rlhf("status", "beaver", "--output", "json")).json
            assert (found["phase"], found["exitCode"], found["live"]) == ("Complete", 0, False)
            assert {name: stage["phase"] for name, stage in found["stages"].items()} == dict.fromkeys(
                ("prepare", "sft", "reward", "cost", "report"), "Complete"
            )
            text = (await rlhf("status", "beaver")).out
            assert text.startswith("beaver: Complete  5/5 stages")
            assert text.count("└─ a0") == 5
            said = await rlhf("status", "beaver", "--watch")
            assert (said.code, "beaver: Complete  5/5 stages" in said.out) == (0, True)
            assert "beaver" in (await rlhf("status")).out
            said = await rlhf("suspend", "beaver")
            assert (said.code, said.out) == (0, "beaver: has ended (Complete); nothing to suspend\n")
            said = await rlhf("retry", "beaver")
            assert (said.code, said.out) == (0, "beaver: has not failed (Complete); nothing to retry\n")

    asyncio.run(main())


def test_a_failed_job_gives_its_exit_code_and_is_retried(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: 3 if stage_of(one) == "cost" and attempt_of(one) == 0 else 0
            rlhf = command(controlled_plane, here, tmp_path)
            said = await rlhf("submit", written(tmp_path, job()), "--wait")
            assert said.code == 3, said
            assert f"its log: rlhf logs beaver cost -n {here.namespace}" in said.err
            text = (await rlhf("status", "beaver")).out
            assert "exit 3" in text and "cost: Crashed: code 3" in text
            said = await rlhf("retry", "beaver", "--wait")
            assert said.code == 0, said
            assert said.out == "beaver: starts again from cost; what is finished is reused\n"
            assert "cost failed by what it was given (Crashed), not by chance" in said.err
            found = (await rlhf("status", "beaver", "--output", "json")).json["stages"]["cost"]
            assert [one["state"] for one in found["attempts"]] == ["Failed", "Complete"]

    asyncio.run(main())


def test_a_job_is_suspended_and_resumed_and_twice_is_once(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            here.node.ends = lambda one: None if stage_of(one) == "sft" and attempt_of(one) == 0 else 0
            rlhf = command(controlled_plane, here, tmp_path)
            file = written(tmp_path, job())
            await rlhf("submit", file)
            await here.until(lambda status: "sft" in str(status.get("stage")) and phase("Running")(status))
            said = await rlhf("suspend", file, "--wait")
            assert said.code == 0, said
            assert "beaver: suspended; sft saves a checkpoint and ends" in said.out
            assert f"rlhf resume beaver -n {here.namespace}" in said.out
            assert (await here.status())["phase"] == "Suspended"
            said = await rlhf("suspend", "beaver", "--output", "json")
            assert (said.code, said.json["changed"], said.json["suspend"]) == (0, False, True)
            said = await rlhf("submit", file, "--output", "json")
            assert (said.code, said.json["result"], said.json["phase"]) == (0, "unchanged", "Suspended")
            said = await rlhf("resume", "beaver", "--wait")
            assert (said.code, said.out) == (0, "beaver: resumed; sft goes on from the last checkpoint\n"), said
            said = await rlhf("resume", "beaver")
            assert (said.code, said.out) == (0, "beaver: is not suspended (Complete)\n")
            found = (await rlhf("status", "beaver", "--output", "json")).json["stages"]["sft"]
            assert [one["state"] for one in found["attempts"]] == ["Stopped", "Complete"]

    asyncio.run(main())


def test_an_invalid_job_ends_waiting_with_its_field(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            rlhf = command(controlled_plane, here, tmp_path)
            said = await rlhf("submit", written(tmp_path, job(profile="h100x8")), "--wait")
            assert said.code == 2
            assert "InvalidSpec: spec.profile: there is no profile h100x8" in said.err
            said = await rlhf("retry", "beaver")
            assert (said.code, "its spec is refused, which no retry changes" in said.err) == (2, True)
            said = await rlhf("pull", "beaver")
            assert (said.code, "the operator has not begun it (Invalid)" in said.err) == (1, True)
            said = await rlhf("pull", "beaver", "--all")
            assert (said.code, said.err) == (
                1,
                "beaver: nothing of it has begun (Invalid), so there is nothing to read\n",
            )

    asyncio.run(main())


def test_why_a_stage_has_no_log_yet_is_said(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here, here.operator():
            await here.api.create(
                QUOTAS, here.namespace, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
            )
            while "hard" not in (await here.api.get(QUOTAS, here.namespace, "team")).get("status", {}):
                await asyncio.sleep(0.1)
            rlhf = command(controlled_plane, here, tmp_path)
            await rlhf("submit", written(tmp_path, job()))
            await here.until(lambda status: "exceeded quota" in str(status.get("stages")))
            said = await rlhf("logs", "beaver", "prepare")
            assert said.code == 2
            assert "prepare: attempt 0 has not started: NoPods: " in said.err and "exceeded quota: team" in said.err
            said = await rlhf("logs", "beaver", "sft")
            assert (said.code, said.err) == (2, "sft: no logs: it has not begun (Waiting)\n")
            assert "exceeded quota: team" in (await rlhf("status", "beaver")).out

    asyncio.run(main())


def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    controlled_plane: ControlPlane, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here:
            rlhf = command(controlled_plane, here, tmp_path)
            await here.make(job())
            for verb in ("status", "suspend", "resume", "retry", "pull"):
                said = await rlhf(verb, "bever")
                assert said.code == 2
                assert f"bever: no such RLHFJob in namespace {here.namespace}; there are beaver." in said.err
            said = await rlhf("logs", "beaver", "sft")
            assert (said.code, "sft: no such stage; the operator has not begun the job" in said.err) == (2, True)

    asyncio.run(main())


def test_ctrl_c_while_waiting_leaves_the_job_alone(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as here:
            process = command(controlled_plane, here, tmp_path).start("submit", written(tmp_path, job()), "--wait")
            assert process.stderr is not None
            line = await asyncio.to_thread(process.stderr.readline)
            assert line.endswith("beaver: Pending\n")
            process.send_signal(2)
            _, err = await asyncio.to_thread(process.communicate, timeout=60)
            assert process.returncode == 130
            assert f"beaver goes on; watch it again: rlhf status beaver --watch -n {here.namespace}" in err

    asyncio.run(main())


def test_a_cluster_that_goes_away_is_waited_for(new_plane: NewPlane, tmp_path: Path) -> None:
    plane = new_plane()
    rlhf = Command(plane.kubeconfig, "default", tmp_path)
    file = written(tmp_path, job())
    said = rlhf.run("submit", file)
    assert (said.code, "this cluster has no RLHFJobs: the operator is not installed there" in said.err) == (1, True)
    plane.kubectl("apply", "--server-side", "-f", str(CRD))
    until(lambda: rlhf.run("submit", file).code == 0, "the CRD is served")
    process = rlhf.start("submit", file, "--wait")
    assert process.stderr is not None
    assert process.stderr.readline().endswith("beaver: Pending\n")
    plane.apiserver.kill()
    assert process.stderr.readline().startswith("the cluster does not answer, trying again: ")
    plane.apiserver.start()
    plane.apiserver.until(plane.ready, 120)
    assert process.stderr.readline() == "the cluster answers again\n"
    condition = {
        "type": "Complete",
        "status": "True",
        "reason": "Complete",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    }
    status = {"status": {"phase": "Complete", "conditions": [condition]}}
    patch = ("patch", "rlhfjob", "beaver", "--type=merge", "--subresource=status", f"--patch={json.dumps(status)}")
    plane.kubectl(*patch)
    process.communicate(timeout=120)
    assert process.returncode == 0
