"""What trainer, operator and command agree on: exit codes, states, reasons, environment variables and container paths.

| exit code | meaning | another attempt |
|---|---|---|
| 0 | done: the product is in place | |
| 2 | input or configuration wrong | no |
| 3 | a guard tripped; the checkpoint stays | no |
| 75 | stopped on request, with a checkpoint | goes on from it |
| other | failure | yes, up to maxRestarts |
"""

from __future__ import annotations

from typing import Final, Literal

DONE: Final = 0
FAILURE: Final = 1
WRONG_INPUT: Final = 2
GUARD: Final = 3
STOPPED: Final = 75
FINAL_CODES: Final = (WRONG_INPUT, GUARD)
"""Ends of which another attempt would make nothing better."""

StageState = Literal["Waiting", "Queued", "Pending", "Running", "Suspended", "Complete", "Reused", "Failed", "Skipped"]
COMPLETE: Final[frozenset[StageState]] = frozenset({"Complete", "Reused"})
"""The stage's product is in place."""
BUSY: Final[frozenset[StageState]] = frozenset({"Queued", "Pending", "Running"})
"""An attempt of the stage has begun and has not ended."""
STARTABLE: Final[frozenset[StageState]] = frozenset({"Waiting", "Suspended"})
"""A next attempt may begin when all that the stage takes is there."""

# Reasons: of the trainer's summary, of attempts and stages, in reports. One word each.
REUSED: Final = "Reused"
INVALID_INPUT: Final = "InvalidInput"
GUARD_TRIPPED: Final = "Guard"
GATE_FAILED: Final = "GateFailed"
WORLD_SIZE_CHANGED: Final = "WorldSizeChanged"
"""A checkpoint is of another number of ranks: exit code 2, but an override may put it right."""
GRACE_EXCEEDED: Final = "GraceExceeded"
"""Ranks were killed because they did not stop in time."""
STOPPED_ON_REQUEST: Final = "Stopped"
UNEXPLAINED: Final = "Failure"
NO_PRODUCT: Final = "NoProduct"
SUSPENDED: Final = "Suspended"
SIBLING_FAILED: Final = "SiblingFailed"
DEADLINE: Final = "DeadlineExceeded"
BLOCKED: Final = "Blocked"
DISRUPTED_TOO_OFTEN: Final = "DisruptedTooOften"

GRACE_SECONDS: Final = "RLHF_GRACE_SECONDS"
"""Environment variable: seconds between SIGTERM and SIGKILL of the ranks."""
FREE_WORK: Final = "RLHF_FREE_WORK"
"""Environment variable, set on a cluster unless runPolicy.keep says otherwise: a stage that is done frees its
checkpoints. The local runner does so itself."""
IMAGE: Final = "RLHF_IMAGE"
"""Environment variable: the image by digest, for the manifest."""
CLAIMS: Final = "RLHF_CLAIMS"
"""Environment variable: the folder that holds the claims which inputs name, each under its name."""
OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Environment of every stage but prepare: nothing is downloaded."""

STORAGE_PATH: Final = "/rlhf/storage"
CLAIMS_PATH: Final = "/rlhf/claims"
JOB_PATH: Final = "/rlhf/job"
"""Where a job that brings functions of its own mounts them."""
STAGE_FILE_PATH: Final = "/etc/rlhf"
"""Folder of stage.json in a pod."""
TERMINATION_PATH: Final = "/dev/termination-log"
