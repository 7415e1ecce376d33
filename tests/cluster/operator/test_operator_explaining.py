"""Why something waits, as Kueue and the Job controller wrote it down, whichever version of Kueue is served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cluster.control_plane import ControlPlane
from cluster.runtime.ground import PATIENCE, client, new_namespace
from rlhf_operator.pending_reasons import PendingReasonFetcher
from rlhf_operator.reconcile import LiveRead
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.kinds import EVENTS, Key, Kind, Object

CRDS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
NAME = "workloads.kueue.x-k8s.io"
WAITS = "couldn't assign flavors to pod set main: insufficient quota for cpu"


def workload_crd(*versions: str) -> Object:
    """Kueue's kind, served in these versions."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    served = [
        {"name": name, "served": True, "storage": index == 0, "schema": schema} for index, name in enumerate(versions)
    ]
    return {
        "metadata": {"name": NAME},
        "spec": {
            "group": "kueue.x-k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "Workload", "plural": "workloads"},
            "versions": served,
        },
    }


@contextlib.asynccontextmanager
async def explainer(api: Client) -> AsyncIterator[tuple[PendingReasonFetcher, asyncio.Queue[Key]]]:
    """One that runs, and the keys it woke."""
    woken: asyncio.Queue[Key] = asyncio.Queue()
    fetcher = PendingReasonFetcher(api, woken.put_nowait)
    task = asyncio.create_task(fetcher.run())
    try:
        yield fetcher, woken
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("versions", [("v1beta1",), ("v1beta2",), ("v1beta1", "v1beta2")], ids="+".join)
def test_kueues_words_are_told_in_any_version_that_is_served(
    shared_plane: ControlPlane, versions: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            await api.create(CRDS, None, workload_crd(*versions))
            try:
                kind = Kind("kueue.x-k8s.io", versions[-1], "workloads", "Workload")
                async with asyncio.timeout(PATIENCE):
                    while not await api.serves(kind):
                        await asyncio.sleep(0.1)
                    shared_plane.kubectl("wait", "--for=condition=Established", f"crd/{NAME}", "--timeout=60s")
                condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": WAITS}
                labels = {"kueue.x-k8s.io/job-uid": "uid-1"}
                body = {"apiVersion": kind.api_version, "kind": "Workload"}
                body |= {"metadata": {"name": "w", "labels": labels}, "status": {"conditions": [condition]}}
                await api.create(kind, namespace, body)
                async with explainer(api) as (fetcher, woken):
                    key, look = Key(namespace, "beaver"), LiveRead("Workload", "beaver-sft-a0", "uid-1")
                    fetcher.follow(key, [look])
                    assert await asyncio.wait_for(woken.get(), PATIENCE) == key
                    assert fetcher.explanations(key) == {look: WAITS}
            finally:
                await api.delete(CRDS, None, NAME)
                async with asyncio.timeout(PATIENCE):
                    while any(
                        [await api.serves(Kind("kueue.x-k8s.io", version, "workloads", "W")) for version in versions]
                    ):
                        await asyncio.sleep(0.1)

    asyncio.run(main())


def event(name: str, uid: str, type_: str, note: str, second: int) -> Object:
    regarding = {"apiVersion": "batch/v1", "kind": "Job", "name": "beaver-sft-a0", "uid": uid}
    return {
        "metadata": {"name": name},
        "eventTime": f"2026-03-01T12:00:{second:02d}.000000Z",
        "reportingController": "job-controller",
        "reportingInstance": "test",
        "action": "Create",
        "reason": "FailedCreate",
        "regarding": regarding,
        "type": type_,
        "note": note,
    }


def test_the_last_warning_about_a_job_is_told_and_no_other(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api, explainer(api) as (fetcher, woken):
            namespace = await new_namespace(api)
            for number, (uid, type_, note) in enumerate(
                [
                    ("uid-1", "Warning", "exceeded quota: first"),
                    ("uid-1", "Warning", "exceeded quota: last"),
                    ("uid-1", "Normal", "a pod was made"),
                    ("uid-2", "Warning", "another's"),
                ]
            ):
                recorded = event(f"e{number}", uid, type_, note, number)
                recorded["regarding"]["namespace"] = namespace
                await api.create(EVENTS, namespace, recorded)
            key, look = Key(namespace, "beaver"), LiveRead("Events", "beaver-sft-a0", "uid-1")
            fetcher.follow(key, [look])
            assert await asyncio.wait_for(woken.get(), PATIENCE) == key
            assert fetcher.explanations(key) == {look: "exceeded quota: last"}

    asyncio.run(main())


def test_what_is_told_later_is_asked_for_again(shared_plane: ControlPlane) -> None:
    """The Job controller may write why only after the question: nothing else would make anyone look."""

    async def main() -> None:
        async with client(shared_plane) as api, explainer(api) as (fetcher, woken):
            namespace = await new_namespace(api)
            key, look, other_look = (
                Key(namespace, "beaver"),
                LiveRead("Events", "a", "uid-1"),
                LiveRead("Events", "b", "uid-2"),
            )
            early = event("e1", "uid-2", "Warning", "the other's", 1)
            early["regarding"]["namespace"] = namespace
            await api.create(EVENTS, namespace, early)
            fetcher.follow(key, [look, other_look])
            assert await asyncio.wait_for(woken.get(), PATIENCE) == key
            assert fetcher.explanations(key) == {other_look: "the other's"}  # so that the first was asked, in vain
            late = event("e2", "uid-1", "Warning", "exceeded quota", 2)
            late["regarding"]["namespace"] = namespace
            await api.create(EVENTS, namespace, late)
            assert await asyncio.wait_for(woken.get(), PATIENCE) == key
            assert fetcher.explanations(key) == {look: "exceeded quota", other_look: "the other's"}
            fetcher.follow(key, [other_look])
            assert fetcher.explanations(key) == {other_look: "the other's"}
            fetcher.forget(key)
            assert fetcher.explanations(key) == {}

    asyncio.run(main())


def test_without_kueue_nothing_is_explained_and_nothing_fails(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api, explainer(api) as (fetcher, woken):
            namespace = await new_namespace(api)
            key, look = Key(namespace, "beaver"), LiveRead("Workload", "beaver-sft-a0", "uid-1")
            fetcher.follow(key, [look])
            note = event("e", "uid-3", "Warning", "told", 1)
            note["regarding"]["namespace"] = namespace
            await api.create(EVENTS, namespace, note)
            after = LiveRead("Events", "beaver-sft-a0", "uid-3")
            fetcher.follow(key, [look, after])
            assert await asyncio.wait_for(woken.get(), PATIENCE) == key  # asked after the other, answered all the same
            assert fetcher.explanations(key) == {after: "told"}

    asyncio.run(main())
