"""Whose fault an ending is, as the API server and the real Job controller show it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cluster.control_plane import ControlPlane
from cluster.operator.ground import ground, job, phase
from cluster.operator.standin import attempt_of, container_status, index_of, stage_of
from rlhf_operator.runtime.kinds import Object


def ended(code: int, message: str = "", after: timedelta = timedelta()) -> Object:
    """A container that ended, by a clock of its own."""
    at = (datetime.now(UTC) + after).strftime("%Y-%m-%dT%H:%M:%SZ")
    words = message or json.dumps({"reason": "Crashed", "message": "its words", "step": 5})
    return {"terminated": {"exitCode": code, "reason": "Error", "startedAt": at, "finishedAt": at, "message": words}}


def crashed(hours: int) -> Object:
    return {"phase": "Failed", "containerStatuses": [container_status(ended(1, after=timedelta(hours=hours)))]}


SIDECAR = container_status({"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "istio-proxy")
DONE = json.dumps({"reason": "Done", "step": 7})
FULL = 'Usage of EmptyDir volume "rlhf-tmp" exceeds the limit "10Gi". '
CASES: dict[str, tuple[Callable[[], Object], tuple[str, str, bool], int]] = {
    "clock-ahead": (lambda: crashed(2), ("Failed", "Crashed", True), 1),
    "clock-behind": (lambda: crashed(-2), ("Failed", "Crashed", True), 1),
    "sidecar-runs-on": (
        lambda: {"phase": "Running", "containerStatuses": [container_status(ended(0, DONE)), SIDECAR]},
        ("Complete", "Complete", False),
        0,
    ),
    "sidecar-fails": (
        lambda: {
            "phase": "Failed",
            "containerStatuses": [container_status(ended(0, DONE)), container_status(ended(1), "istio-proxy")],
        },
        ("Complete", "Complete", False),
        0,
    ),
    "crash-beside-sidecar": (
        lambda: {"phase": "Running", "containerStatuses": [container_status(ended(1)), SIDECAR]},
        ("Failed", "Crashed", True),
        1,
    ),
    "own-limit": (
        lambda: {"phase": "Failed", "reason": "Evicted", "message": FULL},
        ("Failed", "LimitExceeded", True),
        1,
    ),
    "not-admitted": (
        lambda: {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no healthy devices"},
        ("Disrupted", "NotAdmitted", False),
        0,
    ),
}
"""What the kubelet says of the first attempt's pods; what the attempt's record is to be; restarts that count."""


def test_each_fault_is_seen_as_what_it_is(controlled_plane: ControlPlane) -> None:
    def odd(pod: Object) -> Object | None:
        case = str(pod["metadata"]["labels"]["rlhf.dev/job"])
        first = stage_of(pod) == "sft" and attempt_of(pod) == 0
        crash = case not in ("sidecar-runs-on", "sidecar-fails")
        if not first or (crash and index_of(pod) == 1):  # of two pods one crashes, and its peer is ended
            return None
        terminated = any(
            "terminated" in container["state"] for container in pod["status"].get("containerStatuses") or ()
        )
        return None if terminated else CASES[case][0]()

    def ends(pod: Object) -> int | None:
        return None if stage_of(pod) == "sft" and attempt_of(pod) == 0 else 0

    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            cluster.node.odd, cluster.node.ends = odd, ends
            for case in CASES:
                value = {**job(), "metadata": {"name": case}}
                value["spec"]["stages"][0]["nodes"] = 1 if case == "sidecar-fails" else 2
                await cluster.make(value)
            for case, (_, record, restarts) in CASES.items():
                status = await cluster.until(phase("Complete", "Failed"), case)
                assert phase("Complete")(status), (case, status)
                stage = next(entry for entry in status["stages"] if entry["name"] == "sft")
                attempt = stage["attempts"][0]
                assert (attempt["state"], attempt["reason"], attempt["counted"]) == record, (case, attempt)
                assert stage["restarts"] == restarts, case

    asyncio.run(main())
