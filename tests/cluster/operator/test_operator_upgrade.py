"""An upgrade: of the operator under a running job, and of the CRD under stored jobs."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.operator.ground import CRD, SETTINGS, Ground, fresh, ground, job, phase, serve_jobs, stage
from cluster.operator.standin import stage_of
from cluster.runtime.ground import client
from corpus.cases import good_specs
from rlhf_api.load import parse_job
from rlhf_api.plan import plan
from rlhf_api.status import JobStatus
from rlhf_api.yaml import load_yaml
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.reconcile import Settings
from rlhf_operator.runtime.errors import Invalid
from rlhf_operator.runtime.kinds import JOBS, Object

STORED = Path(__file__).parents[2] / "corpus" / "stored"
UPGRADED = Settings.model_validate(
    SETTINGS.model_dump(mode="json", exclude_defaults=True)
    | {"image": "trainer:2", "profiles": {"default": {"resources": {"limits": {"memory": "2Gi"}}}}}
)


async def trainers(cluster: Ground, name: str) -> dict[str, tuple[str, str]]:
    """Image and memory of a job's stages."""
    containers = {}
    async for page in cluster.api.pages(JOBS, cluster.namespace, label_selector=f"rlhf.dev/job={name}"):
        for item in page.items:
            container = item["spec"]["template"]["spec"]["containers"][0]
            memory = container["resources"].get("limits", {}).get("memory", "")
            containers[stage_of(item)] = container["image"], memory
    return containers


def test_a_job_that_runs_while_the_operator_is_upgraded_ends_with_what_it_began_with(
    controlled_plane: ControlPlane,
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            cluster.node.ends = lambda pod: None if stage_of(pod) == "sft" else 0
            await cluster.make(job())
            async with cluster.operator():
                await cluster.until(lambda current: any(entry["state"] == "Running" for entry in _sft(current)))
            cluster.node.ends = lambda pod: 0
            async with cluster.operator(UPGRADED):
                status = await cluster.until(phase("Complete", "Failed"))
                assert status["phase"] == "Complete"
                assert (status["image"], status["planVersion"]) == ("trainer:1", "1")
                assert len(stage(status, "sft")["attempts"]) == 1
                containers = await trainers(cluster, "beaver")
                assert {image for image, _ in containers.values()} == {"trainer:1"}
                assert {containers[name][1] for name in ("sft", "reward", "cost")} == {"1Gi"}
                later = job()
                later["metadata"]["name"] = "otter"
                await cluster.make(later)
                assert (await cluster.until(phase("Complete", "Failed"), "otter"))["phase"] == "Complete"
                containers = await trainers(cluster, "otter")
                assert {image for image, _ in containers.values()} == {"trainer:2"}
                assert {containers[name][1] for name in ("sft", "reward", "cost")} == {"2Gi"}

    asyncio.run(main())


def _sft(status: Object) -> list[Object]:
    return [entry for entry in status.get("stages", ()) if entry["name"] == "sft"]


def former_crd() -> str:
    """The CRD as it was before it last changed.

    Raises:
        CalledProcessError: this is no clone with its history.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=CRD.parent, capture_output=True, text=True, check=True).stdout

    for commit in git("log", "--format=%H", "--", CRD.name).split():
        text = git("show", f"{commit}:./{CRD.name}")
        if text != CRD.read_text():
            return text
    raise AssertionError("the CRD never changed")


def test_what_the_former_crd_stored_is_whole_and_taken_under_the_present_one(
    new_plane: NewPlane, tmp_path: Path
) -> None:
    plane = new_plane()
    (tmp_path / "former.yaml").write_text(former_crd())
    texts = good_specs() | {path.stem: path.read_text() for path in STORED.glob("*.yaml")}

    async def stored(namespace: str) -> list[Object]:
        async with client(plane) as api:
            return [item async for page in api.pages(RLHFJOBS, namespace) for item in page.items]

    async def fill(namespace: str) -> None:
        async with client(plane) as api:
            for name, text in texts.items():
                value = load_yaml(text.encode()).value
                try:
                    created = await api.create(RLHFJOBS, namespace, {**value, "metadata": {"name": f"job-{name}"}})
                except Invalid:
                    continue  # of a rule that is younger
                if created["spec"] != value["spec"]:  # of a field that is younger, and was dropped: no job of before
                    await api.delete(RLHFJOBS, namespace, f"job-{name}")
                    continue
                await api.patch_status(RLHFJOBS, namespace, f"job-{name}", {"status": value.get("status", {})})

    async def touch(namespace: str, name: str) -> None:
        async with client(plane) as api:
            await api.patch(RLHFJOBS, namespace, name, {"metadata": {"labels": {"seen": "yes"}}})
            await api.patch_status(RLHFJOBS, namespace, name, {"status": {"phase": "Pending"}})

    namespace = asyncio.run(fresh(plane, tmp_path / "former.yaml"))
    asyncio.run(fill(namespace))
    before = asyncio.run(stored(namespace))
    assert len(before) > len(texts) / 2
    serve_jobs(plane)
    plane.apiserver.stop()  # so that what it serves then is the present one for certain
    plane.apiserver.start()
    plane.apiserver.until(plane.ready, 120)
    after = asyncio.run(stored(namespace))
    assert [stored_job["spec"] for stored_job in after] == [stored_job["spec"] for stored_job in before]
    assert [stored_job.get("status") for stored_job in after] == [stored_job.get("status") for stored_job in before]
    for stored_job in after:
        assert plan(parse_job(stored_job)).stages
        JobStatus.model_validate(stored_job.get("status") or {})
        asyncio.run(touch(namespace, stored_job["metadata"]["name"]))
