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


def command(plane: ControlPlane, cluster: Ground, folder: Path) -> Command:
    return Command(plane.kubeconfig, cluster.namespace, folder)


def test_a_job_is_submitted_once_and_changed_only_where_it_may_be(
    controlled_plane: ControlPlane, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            rlhf = command(controlled_plane, cluster, tmp_path)
            file = written(tmp_path, job())
            result = await rlhf("submit", file, "--dry-run")
            assert (result.code, "the API server takes it; it would be created" in result.out) == (0, True), result
            assert (await rlhf("status", "--output", "json")).json == {"jobs": []}
            result = await rlhf("submit", file)
            assert (result.code, result.err) == (0, "")
            first, *next_commands = result.out.splitlines()
            assert first == f"beaver: created in namespace {cluster.namespace}"
            assert next_commands[0].endswith(f"rlhf status beaver --watch -n {cluster.namespace}")
            result = await rlhf("submit", file, "--output", "json")
            assert (result.code, result.json["result"], result.json["phase"]) == (0, "unchanged", "Pending")
            written(tmp_path, job(runPolicy={"maxRestarts": 7}))
            assert (await rlhf("submit", file, "--output", "json")).json["result"] == "changed"
            written(tmp_path, job(runPolicy={"maxRestarts": 7}, seed=7))
            result = await rlhf("submit", file)
            assert result.code == 2
            assert "spec.seed" in result.err and "may not change" in result.err
            assert "delete that job first, or give this one another metadata.name" in result.err

    asyncio.run(main())


def test_what_kubectl_applied_is_the_same_job(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            rlhf = command(controlled_plane, cluster, tmp_path)
            file = written(tmp_path, job(seed=0, suspend=False))
            controlled_plane.kubectl("apply", "-n", cluster.namespace, "-f", str(file))
            assert (await rlhf("submit", file, "--output", "json")).json["result"] == "unchanged"

    asyncio.run(main())


def test_a_field_that_another_manager_owns_is_left_to_it(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            rlhf = command(controlled_plane, cluster, tmp_path)
            file = written(tmp_path, job(suspend=False))
            manager = ("--server-side", "--field-manager=gitops")
            controlled_plane.kubectl("apply", "-n", cluster.namespace, *manager, "-f", str(file))
            assert (await rlhf("submit", file, "--output", "json")).json["result"] == "unchanged"
            written(tmp_path, job(suspend=True))
            result = await rlhf("submit", file)
            assert result.code == 1
            assert 'conflict with "gitops"' in result.err and ".spec.suspend" in result.err
            assert "someone else has set that field" in result.err

    asyncio.run(main())


def test_a_submitted_job_is_followed_to_its_end(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            rlhf = command(controlled_plane, cluster, tmp_path)
            result = await rlhf("submit", written(tmp_path, job()), "--wait")
            assert result.code == 0, result
            messages = [line.partition(" ")[2] for line in result.err.splitlines()]
            assert "beaver: Complete" in messages
            assert any(line.startswith("sft: Complete") for line in messages)
            assert f"rlhf pull beaver -n {cluster.namespace}" in result.err
            status = (await rlhf("status", "beaver", "--output", "json")).json
            assert (status["phase"], status["exitCode"], status["live"]) == ("Complete", 0, False)
            assert {name: stage["phase"] for name, stage in status["stages"].items()} == dict.fromkeys(
                ("prepare", "sft", "reward", "cost", "report"), "Complete"
            )
            text = (await rlhf("status", "beaver")).out
            assert text.startswith("beaver: Complete  5/5 stages")
            assert text.count("└─ a0") == 5
            result = await rlhf("status", "beaver", "--watch")
            assert (result.code, "beaver: Complete  5/5 stages" in result.out) == (0, True)
            assert "beaver" in (await rlhf("status")).out
            result = await rlhf("suspend", "beaver")
            assert (result.code, result.out) == (0, "beaver: has ended (Complete); nothing to suspend\n")
            result = await rlhf("retry", "beaver")
            assert (result.code, result.out) == (0, "beaver: has not failed (Complete); nothing to retry\n")

    asyncio.run(main())


def test_a_failed_job_gives_its_exit_code_and_is_retried(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: 3 if stage_of(pod) == "cost" and attempt_of(pod) == 0 else 0
            rlhf = command(controlled_plane, cluster, tmp_path)
            result = await rlhf("submit", written(tmp_path, job()), "--wait")
            assert result.code == 3, result
            assert f"its log: rlhf logs beaver cost -n {cluster.namespace}" in result.err
            text = (await rlhf("status", "beaver")).out
            assert "exit 3" in text and "cost: Crashed: code 3" in text
            result = await rlhf("retry", "beaver", "--wait")
            assert result.code == 0, result
            assert result.out == "beaver: starts again from cost; what is finished is reused\n"
            assert "cost failed by what it was given (Crashed), not by chance" in result.err
            cost = (await rlhf("status", "beaver", "--output", "json")).json["stages"]["cost"]
            assert [attempt["state"] for attempt in cost["attempts"]] == ["Failed", "Complete"]

    asyncio.run(main())


def test_a_job_is_suspended_and_resumed_and_twice_is_once(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.ends = lambda pod: None if stage_of(pod) == "sft" and attempt_of(pod) == 0 else 0
            rlhf = command(controlled_plane, cluster, tmp_path)
            file = written(tmp_path, job())
            await rlhf("submit", file)
            await cluster.until(lambda status: "sft" in str(status.get("stage")) and phase("Running")(status))
            result = await rlhf("suspend", file, "--wait")
            assert result.code == 0, result
            assert "beaver: suspended; sft saves a checkpoint and ends" in result.out
            assert f"rlhf resume beaver -n {cluster.namespace}" in result.out
            assert (await cluster.status())["phase"] == "Suspended"
            result = await rlhf("suspend", "beaver", "--output", "json")
            assert (result.code, result.json["changed"], result.json["suspend"]) == (0, False, True)
            result = await rlhf("submit", file, "--output", "json")
            assert (result.code, result.json["result"], result.json["phase"]) == (0, "unchanged", "Suspended")
            result = await rlhf("resume", "beaver", "--wait")
            assert (result.code, result.out) == (0, "beaver: resumed; sft goes on from the last checkpoint\n"), result
            result = await rlhf("resume", "beaver")
            assert (result.code, result.out) == (0, "beaver: is not suspended (Complete)\n")
            sft = (await rlhf("status", "beaver", "--output", "json")).json["stages"]["sft"]
            assert [attempt["state"] for attempt in sft["attempts"]] == ["Stopped", "Complete"]

    asyncio.run(main())


def test_an_invalid_job_ends_waiting_with_its_field(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            rlhf = command(controlled_plane, cluster, tmp_path)
            result = await rlhf("submit", written(tmp_path, job(profile="h100x8")), "--wait")
            assert result.code == 2
            assert "InvalidSpec: spec.profile: there is no profile h100x8" in result.err
            result = await rlhf("retry", "beaver")
            assert (result.code, "its spec is refused, which no retry changes" in result.err) == (2, True)
            result = await rlhf("pull", "beaver")
            assert (result.code, "the operator has not begun it (Invalid)" in result.err) == (1, True)
            result = await rlhf("pull", "beaver", "--all")
            assert (result.code, result.err) == (
                1,
                "beaver: nothing of it has begun (Invalid), so there is nothing to read\n",
            )

    asyncio.run(main())


def test_why_a_stage_has_no_log_yet_is_said(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            await cluster.api.create(
                QUOTAS, cluster.namespace, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
            )
            while "hard" not in (await cluster.api.get(QUOTAS, cluster.namespace, "team")).get("status", {}):
                await asyncio.sleep(0.1)
            rlhf = command(controlled_plane, cluster, tmp_path)
            await rlhf("submit", written(tmp_path, job()))
            await cluster.until(lambda status: "exceeded quota" in str(status.get("stages")))
            result = await rlhf("logs", "beaver", "prepare")
            assert result.code == 2
            assert "prepare: attempt 0 has not started: NoPods: " in result.err and "exceeded quota: team" in result.err
            result = await rlhf("logs", "beaver", "sft")
            assert (result.code, result.err) == (2, "sft: no logs: it has not begun (Waiting)\n")
            assert "exceeded quota: team" in (await rlhf("status", "beaver")).out

    asyncio.run(main())


def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    controlled_plane: ControlPlane, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            rlhf = command(controlled_plane, cluster, tmp_path)
            await cluster.make(job())
            for verb in ("status", "suspend", "resume", "retry", "pull"):
                result = await rlhf(verb, "bever")
                assert result.code == 2
                assert f"bever: no such RLHFJob in namespace {cluster.namespace}; there are beaver." in result.err
            result = await rlhf("logs", "beaver", "sft")
            assert (result.code, "sft: no such stage; the operator has not begun the job" in result.err) == (2, True)

    asyncio.run(main())


def test_ctrl_c_while_waiting_leaves_the_job_alone(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            process = command(controlled_plane, cluster, tmp_path).start("submit", written(tmp_path, job()), "--wait")
            assert process.stderr is not None
            line = await asyncio.to_thread(process.stderr.readline)
            assert line.endswith("beaver: Pending\n")
            process.send_signal(2)
            _, err = await asyncio.to_thread(process.communicate, timeout=60)
            assert process.returncode == 130
            assert f"beaver goes on; watch it again: rlhf status beaver --watch -n {cluster.namespace}" in err

    asyncio.run(main())


def test_a_cluster_that_goes_away_is_waited_for(new_plane: NewPlane, tmp_path: Path) -> None:
    plane = new_plane()
    rlhf = Command(plane.kubeconfig, "default", tmp_path)
    file = written(tmp_path, job())
    result = rlhf.run("submit", file)
    assert (result.code, "this cluster has no RLHFJobs: the operator is not installed there" in result.err) == (1, True)
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
