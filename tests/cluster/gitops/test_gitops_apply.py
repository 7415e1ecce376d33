"""What a GitOps tool does again and again changes nothing: applying, applying by another manager, comparing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.operator.ground import fresh, ground, job, phase
from corpus.cases import good_specs
from rlhf_api.yaml import load_yaml
from rlhf_operator.runtime.kinds import JOBS

EXAMPLES = Path(__file__).parents[3] / "examples"
NOT_FROM_GIT = {"from-the-api-server", "null-in-a-volume"}
"""Cases that nobody applies: one carries what only a server writes, of the other any server drops a null."""


def corpus() -> str:
    """Every good spec, each under a name of its own."""
    items = []
    for name, text in good_specs().items():
        if name not in NOT_FROM_GIT:
            value: Any = load_yaml(text.encode()).value
            metadata = {key: value["metadata"][key] for key in ("labels", "annotations") if key in value["metadata"]}
            items.append({**value, "metadata": {**metadata, "name": name}})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


class Manifests:
    """Manifests of a folder, and what a tool does with them in a namespace."""

    def __init__(self, plane: ControlPlane, where: Path, namespace: str) -> None:
        self._plane = plane
        self.where = where
        self._given = ("-n", namespace, "-f", str(where))
        self._namespace = namespace

    def apply(self, *how: str) -> list[str]:
        """Apply them; gives a line each."""
        return self._plane.kubectl("apply", *how, *self._given).splitlines()

    def diff(self, *how: str) -> str:
        """What `kubectl diff` shows; it fails if there is anything."""
        return self._plane.kubectl("diff", *how, *self._given)

    def stored(self, *path: str) -> dict[str, Any]:
        """A field of every stored job, by name."""
        listed = json.loads(self._plane.kubectl("get", "rlhfjobs", "-n", self._namespace, "-o", "json"))
        fields = {}
        for item in listed["items"]:
            value: Any = item
            for part in path:
                value = value[part]
            fields[item["metadata"]["name"]] = value
        return fields


@pytest.fixture(params=["examples", "corpus"])
def manifests(request: pytest.FixtureRequest, shared_plane: ControlPlane, tmp_path: Path) -> Manifests:
    """The examples as they are, and every good spec of the corpus."""
    where = EXAMPLES
    if request.param == "corpus":
        where = tmp_path / "jobs.json"
        where.write_text(corpus())
    return Manifests(shared_plane, where, asyncio.run(fresh(shared_plane)))


def test_applying_twice_changes_nothing_and_nothing_differs(manifests: Manifests) -> None:
    created = manifests.apply()
    assert created
    assert all(line.endswith(" created") for line in created)
    before = manifests.stored("metadata", "resourceVersion")
    assert len(before) == len(created)
    assert all(line.endswith(" unchanged") for line in manifests.apply())
    assert manifests.diff() == ""
    assert manifests.stored("metadata", "resourceVersion") == before
    assert set(manifests.stored("metadata", "generation").values()) == {1}


def test_another_manager_that_applies_the_same_takes_part_and_changes_nothing(manifests: Manifests) -> None:
    managers = [("--server-side", f"--field-manager={name}") for name in ("kustomize-controller", "argocd-controller")]
    manifests.apply(*managers[0])
    spec = manifests.stored("spec")
    manifests.apply(*managers[1])  # is noted among the managers, once; a conflict would fail
    before = manifests.stored("metadata", "resourceVersion")
    for manager in managers:
        manifests.apply(*manager)
        assert manifests.diff(*manager) == ""
    assert manifests.stored("metadata", "resourceVersion") == before
    assert manifests.stored("spec") == spec
    assert set(manifests.stored("metadata", "generation").values()) == {1}


def test_what_was_applied_from_git_is_what_is_stored(manifests: Manifests) -> None:
    """Nothing is pruned, and nothing is added: what a tool compares field by field."""
    manifests.apply("--server-side", "--field-manager=kustomize-controller")
    if manifests.where.is_file():  # a list of many jobs: larger than what is read as one job
        jobs: list[Any] = json.loads(manifests.where.read_text())["items"]
    else:
        jobs = [load_yaml(file.read_bytes()).value for file in sorted(manifests.where.glob("*.yaml"))]
    specs = {job["metadata"]["name"]: job["spec"] for job in jobs}
    assert manifests.stored("spec") == specs


def test_a_job_that_ran_is_as_git_says(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            file = tmp_path / "job.json"
            file.write_text(json.dumps(job()))
            manifests = Manifests(controlled_plane, file, cluster.namespace)
            manifests.apply()
            await cluster.until(phase("Complete", "Failed"))
            before = manifests.stored("metadata", "resourceVersion")
            assert manifests.diff() == ""
            assert manifests.apply() == ["rlhfjob.rlhf.dev/beaver unchanged"]
            assert manifests.stored("metadata", "resourceVersion") == before
            jobs = [item async for page in cluster.api.pages(JOBS, cluster.namespace) for item in page.items]
            assert len(jobs) == 5
            assert not [item for item in jobs if "app.kubernetes.io/instance" in item["metadata"]["labels"]]

    asyncio.run(main())
