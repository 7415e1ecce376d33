"""Whose fault the end of an attempt is: one table. What the job did counts against maxRestarts, what the platform did does
not."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final, Literal

from rlhf_api.lifecycle import STEADY_SECONDS

Whose = Literal["job", "platform", "operator"]


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    reason: str
    """Of the attempt, in status: one word."""
    sign: str
    """By what it is known."""
    whose: Whose
    then: Literal["Failed", "Disrupted", "Stopped"]
    """State of the attempt: `Failed` counts against maxRestarts, the others do not."""
    final: bool = False
    """Another attempt cannot help: the stage fails at once."""
    avoid: bool = False
    """The next attempt prefers another node."""


def _of_job(reason: str, sign: str, *, final: bool = False) -> Fault:
    return Fault(reason, sign, "job", "Failed", final=final)


def _of_platform(reason: str, sign: str, *, avoid: bool = False) -> Fault:
    return Fault(reason, sign, "platform", "Disrupted", avoid=avoid)


WRONG_INPUT: Final = _of_job("InvalidInput", "the trainer ends with exit code 2", final=True)
WORLD_SIZE: Final = _of_job("WorldSizeChanged", "exit code 2: the checkpoint is of another number of ranks")
GUARD: Final = _of_job("Guard", "the trainer ends with exit code 3", final=True)
SUSPENDED: Final = Fault("Suspended", "spec.suspend is set", "operator", "Stopped")
SIBLING: Final = Fault("SiblingFailed", "another stage of the job failed", "operator", "Stopped")
DEADLINE: Final = _of_job("DeadlineExceeded", "activeDeadlineSeconds have passed", final=True)
PENDING: Final = Fault("PendingTimeout", "not all pods ran within pendingTimeout", "operator", "Failed")
STUCK: Final = _of_job("Stuck", "no step within stuckTimeout")
EVICTED: Final = _of_platform("Evicted", "condition DisruptionTarget, or a node that was drained or shut down")
NOT_ADMITTED: Final = _of_platform(
    "NotAdmitted", "the kubelet refuses the pod: OutOf..., UnexpectedAdmissionError, TopologyAffinityError", avoid=True
)
START_ERROR: Final = _of_platform(
    "StartError", "the node cannot start the trainer's container: StartError, ContainerCannotRun", avoid=True
)
INIT_FAILED: Final = _of_platform("InitContainerFailed", "an init container that someone put into the pod fails")
CONTAINER_LOST: Final = _of_platform(
    "ContainerLost", "ContainerStatusUnknown: the node rebooted, or lost the container", avoid=True
)
POD_DELETED: Final = _of_platform("PodDeleted", "someone deletes a pod before any pod has failed")
JOB_DELETED: Final = _of_platform("JobDeleted", "someone deletes the Job")
LOST_RESULT: Final = _of_platform("LostResult", "prepare ends well, its pod is gone before its result is read")
OWN_LIMIT: Final = _of_job("LimitExceeded", "the kubelet evicts a pod that passed its own limit of disk or volume")
OUT_OF_MEMORY: Final = _of_job("OOMKilled", "the kernel ends the trainer, which passed its memory limit")
FAILURE: Final = _of_job("Failure", "any other exit code; the trainer's own reason where it gives one")
SIDECAR_FAILED: Final = _of_platform("SidecarFailed", "the trainer ends well, a container beside it does not")
STOPPED: Final = _of_platform("Stopped", "the trainer ends with exit code 75, and nobody is known to have asked")

FAULTS: Final = (
    WRONG_INPUT, WORLD_SIZE, GUARD, SUSPENDED, SIBLING, DEADLINE, PENDING, STUCK, EVICTED, NOT_ADMITTED, START_ERROR,
    INIT_FAILED, CONTAINER_LOST, POD_DELETED, JOB_DELETED, LOST_RESULT, OWN_LIMIT, OUT_OF_MEMORY, FAILURE,
    SIDECAR_FAILED, STOPPED,
)  # fmt: skip
"""In the order in which they are looked for: the first that holds of an attempt's pods decides."""
AVOID: Final = frozenset(fault.reason for fault in FAULTS if fault.avoid)
"""Reasons of attempts whose node the next attempt avoids."""


_PAGE = """# Whose fault an ending is
<!-- Generated from crds/rlhf_api/faults.py by `python -m rlhf_api.faults`; do not edit. -->
An attempt is the gang of pods that computes a stage once. When it ends otherwise than well, the operator decides from its
pods whose fault that was. What the job did counts against `runPolicy.maxRestarts`; what the platform did does not. The
first row that holds decides. `status.stages[].attempts[]` has the reason, the pod, its node and the words of whoever ended it.

{table}
- Attempts that the platform ended are bounded as well: after 8 in a row without a step (the operator's `maxDisruptions`)
  the stage fails with `DisruptedTooOften`.
- Restarts are counted anew after an attempt that ran for at least {steady:.0f} s and came further than all before it: one crash
  in days ends no long run.
- The next attempt begins 10 s after the last one, then after 20 s, up to 6 minutes, from the last checkpoint.
- Order and durations are the control plane's: conditions of the Job, and deletion timestamps. A node whose clock is wrong
  changes nothing.
- **Containers beside the trainer.** The end of the container `trainer` is the end of its pod. A sidecar that runs on is
  ended with the Job; one that fails does not fail a stage that is complete. Who failed first is decided when all trainers
  of a gang have ended, or had a grace period to. The right way to put a container there is a native
  sidecar (an init container with `restartPolicy: Always`): Kubernetes ends it by itself.
- **Time.** `activeDeadlineSeconds` counts what attempts ran: not the queue, not the wait before a restart, not the time
  that the operator was away.
- `LimitExceeded` and `OOMKilled` name the field that raises the limit. `runPolicy.overrides` change it for attempts to come.
"""


def table() -> str:
    """The table in Markdown."""
    lines = ["| reason | known by | whose | counts | next attempt |", "|---|---|---|---|---|"]
    for fault in FAULTS:
        counts = "yes" if fault.then == "Failed" and not fault.final else "no"
        lines.append(f"| `{fault.reason}` | {fault.sign} | {fault.whose} | {counts} | {_next(fault)} |")
    return "\n".join(lines) + "\n"


def _next(fault: Fault) -> str:
    if fault.final or fault is SIBLING:
        return "none"
    if fault is SUSPENDED:
        return "when the job is resumed"
    return "yes, rather on another node" if fault.avoid else "yes"


def render() -> str:
    """The page of the docs."""
    return _PAGE.format(table=table(), steady=STEADY_SECONDS)


if __name__ == "__main__":
    sys.stdout.write(render())
