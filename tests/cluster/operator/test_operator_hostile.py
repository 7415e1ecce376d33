"""Objects that a user with kubectl can store beside a job: the operator stays up, and the job goes its way."""

from __future__ import annotations

import asyncio
import copy

from cluster.control_plane import ControlPlane
from cluster.operator.ground import Ground, ground, job, phase
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.kinds import JOBS, SERVICES, Object

ODD = "\x1b[2J\u202e%s {x} \U0001f600"
"""What a terminal obeys, reverses, or formats."""
LABELS = {"app.kubernetes.io/managed-by": "rlhf-operator", "rlhf.dev/stage": "sft"}


def named(name: str, **spec: object) -> Object:
    value = job(**spec)
    value["metadata"]["name"] = name
    return value


def child(name: str, owner: Object, **labels: str) -> Object:
    """Metadata of an object that looks like a child of the job, and names it as its owner as its maker likes."""
    return {"name": name, "labels": LABELS | labels, "ownerReferences": [owner]}


async def store_strangers(cluster: Ground, uid: str) -> None:
    """Objects with the labels of children: owners that are wrong, numbers that are none."""
    owner: Object = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "name": "beaver", "uid": uid}
    container = {"name": "trainer", "image": "a", "securityContext": restricted()}
    pod = {"restartPolicy": "Never", "containers": [container], "securityContext": POD_SECURITY}
    for number, (attempt, reference) in enumerate(
        [
            ("-1", owner | {"controller": True}),
            ("999999999", owner | {"controller": True, "uid": "nobody"}),
            ("NaN", owner | {"controller": True, "kind": "Pod", "apiVersion": "v1"}),
            ("2147483648", owner),
        ]
    ):
        metadata = child(f"stranger-{number}", reference, **{"rlhf.dev/uid": uid, "rlhf.dev/attempt": attempt})
        if attempt == "-1":
            metadata["labels"]["rlhf.dev/attempt"] = "x1"
        spec = {"template": {"spec": pod}, "suspend": True}
        await cluster.api.create(JOBS, cluster.namespace, {"metadata": copy.deepcopy(metadata), "spec": spec})
        service = {"clusterIP": "None", "ports": [{"port": 1}]}
        await cluster.api.create(SERVICES, cluster.namespace, {"metadata": metadata, "spec": service})


POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def restricted() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


NONSENSE: dict[str, Object] = {
    "stages-of-another": {"phase": "Running", "stages": [{"name": "x", "type": "y", "state": "Running"}]},
    "no-result": {"phase": "Running", "resolved": ODD, "planVersion": "1"},
    "future": {"phase": "Preparing", "planVersion": "999", "startTime": "9999-12-31T23:59:59Z"},
    "odd-profile": {"phase": "Running", "planVersion": "1", "profiles": {"default": ODD}},
    "attempt-of-nobody": {
        "phase": "Running",
        "stages": [
            {
                "name": "prepare",
                "type": "prepare",
                "state": "Running",
                "attempts": [{"number": 2**31 - 1, "state": "Running", "uid": "nobody", "message": ODD}],
            }
        ],
    },
}


def test_nothing_that_others_store_holds_a_job_up(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster:
            report = {"name": "report", "report": {"title": ODD, "intendedUse": "é" * 2000}}
            odd = named("odd-text", stages=[*job()["spec"]["stages"], report])
            odd["metadata"]["annotations"] = {"a": "x" * 250_000, "rlhf.dev/retry": ODD}
            odd["metadata"]["labels"] = {f"k{number}": "" for number in range(2000)}
            await cluster.make(odd)
            for name, status in NONSENSE.items():
                await cluster.make(named(name))
                await cluster.api.patch_status(RLHFJOBS, cluster.namespace, name, {"status": status})
            created = await cluster.make(job())
            await store_strangers(cluster, created["metadata"]["uid"])
            async with cluster.operator():
                for name in ("beaver", "odd-text"):
                    assert (await cluster.until(phase("Complete", "Failed"), name))["phase"] == "Complete"
                for name in NONSENSE:
                    status = await cluster.until(lambda current: "Ready" in str(current.get("conditions")), name)
                    (ready,) = [condition for condition in status["conditions"] if condition["type"] == "Ready"]
                    assert ready["reason"], name
                    if ready["reason"] in ("UnknownStatus", "InternalError", "ReconcileError"):
                        assert "status." in ready["message"], (name, ready)

    asyncio.run(main())
