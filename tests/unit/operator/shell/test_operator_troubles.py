"""A job whose looks fail says so itself, and holds up no other job and no other of its stages."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fakes.cluster_model import SETTINGS, Cluster, job
from rlhf_operator import controller as shell
from rlhf_operator.controller import Controller
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.answers import Page
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.decoding import decode
from rlhf_operator.runtime.errors import AlreadyExists, ApiError, NotFound
from rlhf_operator.runtime.kinds import Key, Kind, Object
from rlhf_operator.runtime.metrics import Metrics

KEY = Key("team", "beaver")
DOWN = ApiError(500, "InternalError", 'failed calling webhook "mjob.kb.io": no endpoints available')


class Told:
    """In place of a recorder."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def tell(self, about: Object, type_: str, reason: str, note: str, **_: Any) -> None:
        assert about["metadata"]["name"]
        self.reasons.append(reason)


class Api(Client):
    """A store of one job and what is made for it; some requests fail."""

    def __init__(self, raw: Object) -> None:
        self.job = copy.deepcopy(raw)
        self.job["metadata"]["resourceVersion"] = "1"
        self.objects: dict[tuple[str, str], Object] = {}
        self.fails: dict[tuple[str, str], ApiError] = {}
        """By verb, and a part of the kind and name."""
        self.writes = 0

    def _may(self, verb: str, what: str) -> None:
        for (of, part), error in self.fails.items():
            if of == verb and part in what:
                raise error

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        if kind is RLHFJOBS:
            return copy.deepcopy(self.job)
        if (kind.kind, name) not in self.objects:
            raise NotFound(404, "NotFound", name)
        return self.objects[kind.kind, name]

    async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        name = body["metadata"]["name"]
        self._may("create", f"{kind.kind}/{name}")
        created = copy.deepcopy(body)
        created["metadata"] |= {"uid": f"uid-{kind.kind}-{name}", "resourceVersion": "1"}
        self.objects[kind.kind, name] = created
        return created

    async def patch_status(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        self._may("patch", "conditions" if set(patch["status"]) == {"conditions"} else "all")
        self.writes += 1
        self.job["status"] = (self.job.get("status") or {}) | patch["status"]
        version = int(self.job["metadata"]["resourceVersion"]) + 1
        self.job["metadata"]["resourceVersion"] = str(version)
        return copy.deepcopy(self.job)

    async def delete(self, kind: Kind, namespace: str | None, name: str, **_: Any) -> None:
        self._may("delete", f"{kind.kind}/{name}")
        self.objects.pop((kind.kind, name), None)

    async def pages(self, kind: Kind, namespace: str | None = None, **_: Any) -> AsyncIterator[Page]:
        yield Page([obj for (of, _), obj in self.objects.items() if of == kind.kind], "1")

    def condition(self, kind: str) -> tuple[str, str, str]:
        (condition,) = [entry for entry in self.job["status"]["conditions"] if entry["type"] == kind]
        return condition["status"], condition["reason"], condition["message"]


class Here:
    """A controller, an API, and what was told."""

    def __init__(self, raw: Object) -> None:
        self.api, self.told = Api(raw), Told()
        self.controller = Controller(
            self.api,
            SETTINGS,
            namespaces=None,
            recorder=self.told,  # type: ignore[arg-type] - it tells nobody
            workers=1,
            progress_per_second=1,
            metrics=Metrics(),
        )

    async def look(self, times: int) -> list[str]:
        """Look so often; the failures in words."""
        failures = []
        for _ in range(times):
            self.controller.view.jobs.of(None)._put(copy.deepcopy(self.api.job))
            try:
                await self.controller.reconcile(KEY)
            except Exception as error:  # noqa: BLE001 - whatever it is, a worker goes on
                failures.append(f"{type(error).__name__}: {error}")
        return failures


def prepared() -> Object:
    """A job whose reward and cost stages are on record and not made yet."""
    cluster = Cluster(job())
    while len(cluster.ever) < 3:
        cluster.step()
    raw = copy.deepcopy(cluster.job)
    for stage in raw["status"]["stages"]:
        if stage["name"] in ("reward", "cost"):
            stage |= {"state": "Pending", "attempts": [{"number": 0, "state": "Pending"}]}
            stage["attempts"][0]["startTime"] = "2026-03-01T12:00:00Z"
    return raw


def test_a_webhook_that_is_down_is_told_after_a_few_tries_and_holds_up_no_other_stage() -> None:
    async def main() -> None:
        shell_run = Here(prepared())
        shell_run.api.fails["create", "Job/beaver-reward"] = DOWN
        await shell_run.look(1)
        assert any(kind == "Job" and "cost" in name for kind, name in shell_run.api.objects)
        assert "CreateFailed" not in shell_run.told.reasons
        await shell_run.look(3)
        assert shell_run.api.condition("Stalled")[:2] == ("True", "CreateFailed")
        assert "no endpoints available" in shell_run.api.condition("Stalled")[2]
        assert shell_run.told.reasons.count("CreateFailed") > 0
        shell_run.api.fails.clear()
        await shell_run.look(2)
        assert shell_run.api.condition("Stalled")[:2] == ("False", "NotStalled")

    asyncio.run(main())


def test_a_fault_of_the_operator_marks_the_job_and_goes_when_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        shell_run, right = Here(job()), shell.reconcile

        def wrong(*_: Any) -> Any:
            raise KeyError("x")

        monkeypatch.setattr(shell, "reconcile", wrong)
        assert await shell_run.look(2) == ["KeyError: 'x'"] * 2
        assert "status" not in shell_run.api.job
        await shell_run.look(1)
        assert shell_run.api.condition("Stalled")[:2] == ("True", "InternalError")
        assert "KeyError: 'x'" in shell_run.api.condition("Stalled")[2]
        assert shell_run.told.reasons == ["InternalError"]
        await shell_run.look(5)
        assert shell_run.api.writes == 1, "it says so once"
        monkeypatch.setattr(shell, "reconcile", right)
        assert await shell_run.look(2) == []
        assert shell_run.api.condition("Stalled")[:2] == ("False", "NotStalled")

    asyncio.run(main())


def test_what_vanishes_between_two_requests_is_made_at_the_next_look() -> None:
    """It exists when it is to be made, and not when it is read: no event of the job's own would bring another look."""

    async def main() -> None:
        shell_run = Here(job())
        shell_run.api.fails["create", "Job/"] = AlreadyExists(409, "AlreadyExists", "somebody else's")
        shell_run.controller.view.jobs.of(None)._put(copy.deepcopy(shell_run.api.job))
        assert await shell_run.controller.reconcile(KEY) is not None
        shell_run.api.fails.clear()
        assert await shell_run.look(2) == []
        assert any(kind == "Job" for kind, _ in shell_run.api.objects)

    asyncio.run(main())


def test_a_deletion_that_is_refused_is_told_and_the_rest_is_done() -> None:
    async def main() -> None:
        shell_run = Here(job())
        await shell_run.look(2)
        assert len(shell_run.api.objects) == 1
        for obj in shell_run.api.objects.values():
            shell_run.controller.view.children[shell.CHILD_KINDS[obj["kind"]]].of(None)._put(obj)
        shell_run.api.job["spec"]["suspend"] = True
        shell_run.api.job["metadata"]["resourceVersion"] = "100"
        shell_run.api.fails["delete", "Job/"] = DOWN
        await shell_run.look(3)
        assert shell_run.api.condition("Stalled")[:2] == ("True", "ReconcileError")
        writes = shell_run.api.writes
        await shell_run.look(3)
        assert shell_run.api.writes == writes, "it stays until the deletion succeeds"

    asyncio.run(main())


def test_a_status_that_is_refused_is_told_by_its_conditions_alone() -> None:
    async def main() -> None:
        shell_run = Here(job())
        shell_run.api.fails["patch", "all"] = ApiError(422, "Invalid", "status.stages: Too many")
        failures = await shell_run.look(4)
        assert len(failures) == 4
        assert shell_run.api.condition("Stalled")[:2] == ("True", "ReconcileError")
        assert "status.stages: Too many" in shell_run.api.condition("Stalled")[2]

    asyncio.run(main())


@pytest.mark.parametrize("depth", [260, 1100, 9000])
def test_a_job_of_any_depth_is_refused_by_its_field_and_hides_no_other(depth: int) -> None:
    """As an API server with an older schema may have stored it."""

    async def main() -> None:
        deep = job(pod={"affinity": {"DEEP": 1}})
        text = str(deep).replace("'", '"').replace('{"DEEP": 1}', '{"a":' * depth + "1" + "}" * depth)
        shell_run = Here(decode(text.encode()))
        neighbour = job()
        neighbour["metadata"] |= {"name": "other", "uid": "uid-2", "resourceVersion": "1"}
        shell_run.controller.view.jobs.of(None)._put(neighbour)
        assert await shell_run.look(1) == []
        assert shell_run.api.condition("Stalled")[:2] == ("True", "InvalidSpec")
        assert shell_run.api.condition("Stalled")[2].startswith("spec.pod.affinity.a")
        assert shell_run.controller.view.job(Key("team", "other")) is not None

    asyncio.run(main())


def test_a_job_that_cannot_be_kept_is_marked_and_others_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        shell_run = Here(job())
        store = shell_run.controller.view.jobs.of(None)._store
        keep = store._keep

        def fails(obj: Object) -> Object:
            if obj["metadata"]["name"] == "beaver":
                raise TypeError("too strange")
            return keep(obj)

        monkeypatch.setattr(store, "_keep", fails)
        assert await shell_run.look(3) == ["Unreadable: TypeError: too strange"] * 3
        assert shell_run.api.condition("Stalled")[:2] == ("True", "InternalError")
        assert "too strange" in shell_run.api.condition("Stalled")[2]

    asyncio.run(main())
