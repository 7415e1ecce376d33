"""What is watched, namespace by namespace: one that cannot be read holds up no other, and is told of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from virtual_time import run

from rlhf_operator.informers import ClusterState
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.answers import Page, WatchEvent
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import Forbidden, Gone
from rlhf_operator.runtime.kinds import Key, Kind
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import Lane


class Api(Client):
    """A job in each namespace, nothing else, and no right in those that are refused."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.cut = asyncio.Event()
        """Set: every watch ends, its place forgotten."""

    async def pages(self, kind: Kind, namespace: str | None = None, **_: object) -> AsyncIterator[Page]:
        self._check("list", kind, namespace)
        metadata = {"name": "beaver", "namespace": namespace, "uid": f"uid-{namespace}", "resourceVersion": "1"}
        job = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": {}}
        yield Page([job] if kind is RLHFJOBS else [], "1")

    @contextlib.asynccontextmanager
    async def watch(
        self, kind: Kind, namespace: str | None = None, **_: object
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        self._check("watch", kind, namespace)
        yield self._events()

    async def _events(self) -> AsyncIterator[WatchEvent]:
        await self.cut.wait()
        raise Gone(410, "Expired", "too old")
        yield

    def _check(self, verb: str, kind: Kind, namespace: str | None) -> None:
        if namespace in self.refused:
            raise Forbidden(403, "Forbidden", f"cannot {verb} {kind.plural}")


class Watching:
    """A view of two namespaces, and what it told."""

    def __init__(self, api: Api) -> None:
        self.metrics = Metrics()
        self.told: list[Key] = []
        self.view = ClusterState(api, ["team-a", "team-b"], self._tell, self.metrics)

    def _tell(self, key: Key, _: Lane) -> None:
        self.told.append(key)

    def up(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value("reflector_up", {"name": name})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.view.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


A, B = Key("team-a", "beaver"), Key("team-b", "beaver")


def test_a_namespace_that_cannot_be_read_holds_up_no_other_and_is_taken_up_when_it_can_be() -> None:
    async def main() -> None:
        api = Api("team-b")
        watching = Watching(api)
        async with watching.running():
            await asyncio.sleep(3600)
            assert watching.told == [A]
            assert watching.view.blind is None
            assert (watching.up("team-a/rlhfjobs"), watching.up("team-a/pods"), watching.up("team-b/pods")) == (1, 1, 0)
            api.refused.clear()
            await asyncio.sleep(60)
            assert watching.told == [A, B]
            assert (watching.up("team-b/rlhfjobs"), watching.up("team-b/pods")) == (1, 1)

    run(main())


def test_who_sees_nothing_says_of_each_namespace_and_kind_why() -> None:
    async def main() -> None:
        api = Api("team-a", "team-b")
        watching = Watching(api)
        assert watching.view.blind == "nothing is listed yet"
        async with watching.running():
            await asyncio.sleep(10)
            problems = str(watching.view.blind).split("; ")
            kinds = ("jobs", "pods", "services")
            names = {(name, kind) for name in ("team-a", "team-b") for kind in kinds}
            assert set(problems) == {f"{name}/{kind}: 403 Forbidden: cannot list {kind}" for name, kind in names}
            api.refused.remove("team-a")
            await asyncio.sleep(60)
            assert watching.view.blind is None

    run(main())


def test_a_right_that_is_taken_away_is_told_by_the_metric_and_back_it_is_watched_again() -> None:
    async def main() -> None:
        api = Api()
        watching = Watching(api)
        async with watching.running():
            await asyncio.sleep(1)
            api.refused.add("team-b")
            api.cut.set()
            await asyncio.sleep(60)
            assert watching.up("team-b/pods") == 0
            assert watching.view.blind is None  # what it knows of team-a is as good as ever
            api.refused.clear()
            api.cut.clear()
            await asyncio.sleep(60)
            assert watching.up("team-b/pods") == 1

    run(main())


def test_why_it_cannot_be_read_is_logged_once_and_that_it_can_be_again_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        api = Api("team-b")
        async with Watching(api).running():
            await asyncio.sleep(24 * 3600)
            api.refused.clear()
            await asyncio.sleep(3600)

    with caplog.at_level(logging.INFO):
        run(main())
    messages = [text for text in caplog.messages if text.startswith("team-b/pods")]
    assert len(messages) == 2
    assert messages[0].startswith("team-b/pods: 403 Forbidden: cannot list pods; again in")
    assert messages[1] == "team-b/pods: watched again"


def test_who_led_and_leads_no_more_tells_nothing_of_what_it_watched() -> None:
    async def main() -> None:
        watching = Watching(Api("team-b"))
        async with watching.running():
            await asyncio.sleep(1)
        for name in ("team-a/rlhfjobs", "team-b/pods"):
            assert watching.up(name) is None
            assert watching.metrics.registry.get_sample_value("reflector_items", {"name": name}) is None

    run(main())
