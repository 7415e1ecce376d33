"""Events, probes, and how little a quiet system asks for."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import aiohttp
import pytest

from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.runtime.faults import Answer, Faults
from cluster.runtime.ground import PATIENCE, Watched, client, configuration, new_namespace, put, until
from rlhf_operator.runtime import events as recording
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.election import Timing
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.kinds import EVENTS, Object
from rlhf_operator.runtime.lease import Elector
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.probes import Probes


async def events(api: Client, namespace: str) -> list[Object]:
    return [item async for page in api.pages(EVENTS, namespace) for item in page.items]


async def record(recorder: Recorder, *what: tuple[Object, str, str]) -> None:
    task = asyncio.create_task(recorder.run())
    for about, reason, note in what:
        recorder.tell(about, "Warning", reason, note)
    await recorder.flush()
    task.cancel()


def test_an_event_is_told_once_also_by_a_process_that_was_restarted(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        metrics = Metrics()
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            about = {"apiVersion": "v1", "kind": "ConfigMap", **await put(api, namespace, "a")}
            await record(
                Recorder(api, "rlhf.dev/operator", "pod-1", metrics), *[(about, "StageFailed", "sft: exit 2")] * 3
            )
            await record(Recorder(api, "rlhf.dev/operator", "pod-2", metrics), (about, "StageFailed", "sft: exit 2"))
            await record(Recorder(api, "rlhf.dev/operator", "pod-2", metrics), (about, "StageFailed", "ppo: exit 2"))
            recorded = await events(api, namespace)
            assert sorted(event["note"] for event in recorded) == ["ppo: exit 2", "sft: exit 2"]
            assert recorded[0]["regarding"]["uid"] == about["metadata"]["uid"]
            assert metrics.registry.get_sample_value("event_recorder_events_total", {"result": "known"}) == 1

    asyncio.run(main())


def test_a_note_and_a_name_of_any_length_are_taken(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            about = {"apiVersion": "v1", "kind": "ConfigMap", **await put(api, namespace, "a" * 200 + "." + "b" * 50)}
            await record(Recorder(api, "rlhf.dev/operator", "p" * 300), (about, "Pending", "ä" * 2000))
            (recorded,) = await events(api, namespace)
            assert len(recorded["note"].encode()) <= 1024
            assert recorded["note"].endswith("ä...")

    asyncio.run(main())


def test_an_event_that_could_not_be_told_is_told_when_it_comes_again(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        leads = False
        metrics = Metrics()
        async with client(shared_plane, may_write=lambda: leads) as fenced, client(shared_plane) as api:
            namespace = await new_namespace(api)
            about = {"apiVersion": "v1", "kind": "ConfigMap", **await put(api, namespace, "a")}
            recorder = Recorder(fenced, "rlhf.dev/operator", "pod", metrics)
            await record(recorder, (about, "Started", "now"))
            assert await events(api, namespace) == []
            assert metrics.registry.get_sample_value("event_recorder_events_total", {"result": "failed"}) == 1
            leads = True
            await record(recorder, (about, "Started", "now"))
            assert len(await events(api, namespace)) == 1

    asyncio.run(main())


def test_an_event_is_told_when_the_api_server_is_in_order_again(
    shared_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PAUSES", (0.2,) * 1000)
    metrics = Metrics()

    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults, client(shared_plane) as api:
            failing, healthy = await new_namespace(api), await new_namespace(api)
            first, second = [
                {"apiVersion": "v1", "kind": "ConfigMap", **await put(api, namespace, "a")}
                for namespace in (failing, healthy)
            ]
            broken = True
            faults.plan = lambda _method, path: Answer(503) if broken and f"/namespaces/{failing}/" in path else None
            async with Client(faults.configuration(), field_manager="test") as through:
                recorder = Recorder(through, "rlhf.dev/operator", "pod", metrics)
                telling = asyncio.create_task(record(recorder, (first, "A", "here"), (second, "B", "there")))
                async with asyncio.timeout(PATIENCE):
                    while [event["note"] for event in await events(api, healthy)] != ["there"]:
                        await asyncio.sleep(0.1)  # it holds up no other
                assert await events(api, failing) == []
                broken = False
                await telling
            assert [event["note"] for event in await events(api, failing)] == ["here"]

    asyncio.run(main())
    assert metrics.registry.get_sample_value("event_recorder_events_total", {"result": "created"}) == 2


def test_probes_say_what_is_wrong_and_metrics_are_read() -> None:
    async def main() -> None:
        metrics = Metrics()
        problems: list[str] = []
        probes = Probes(
            metrics.registry,
            alive={"lease": lambda: None},
            ready={"watches": lambda: "; ".join(problems) or None},
            before=lambda: metrics.leads("operator", True),
        )
        port = await probes.start("127.0.0.1", 0)
        async with aiohttp.ClientSession() as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    return response.status, await response.text()

            assert await get("/healthz") == (200, "lease: ok\n")
            assert await get("/readyz") == (200, "watches: ok\n")
            problems.append("jobs: 403 Forbidden")
            assert await get("/readyz") == (503, "watches: jobs: 403 Forbidden\n")
            assert 'leader_election_master_status{name="operator"} 1.0' in (await get("/metrics"))[1]
        await probes.stop()

    asyncio.run(main())


def test_a_quiet_system_writes_its_lease_and_reads_nothing(new_plane: NewPlane) -> None:
    plane = new_plane(audit=True)
    timing = Timing(duration=60, deadline=40, retry=0.4)

    async def main() -> None:
        async def connect() -> Client:
            return Client(await configuration(plane), field_manager="quiet")

        elector = Elector(
            connect,
            namespace="default",
            name="operator",
            identity="me",
            timing=timing,
            on_started=lambda: None,
            on_lost=lambda: None,
        )
        async with client(plane, field_manager="quiet") as api, Watched(api, None).running():
            elector.start()
            await until(elector.leads)
            await asyncio.sleep(1)
            before, began = len(requests_made(plane)), time.monotonic()
            await asyncio.sleep(10)
            new, seconds = requests_made(plane)[before:], time.monotonic() - began
        await asyncio.to_thread(elector.stop)
        counted = Counter(new)
        assert set(counted) == {("patch", "leases")}
        assert counted["patch", "leases"] <= seconds / timing.retry + 1

    asyncio.run(main())


def requests_made(plane: ControlPlane) -> list[tuple[str, str]]:
    """Verb and resource of each request that this test's clients made and the API server answered."""
    lines = [json.loads(line) for line in plane.audit_log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [
        (line["verb"], line.get("objectRef", {}).get("resource", ""))
        for line in lines
        if line.get("userAgent") == "quiet"
    ]
