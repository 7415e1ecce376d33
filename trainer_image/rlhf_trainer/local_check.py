"""Prepare's checks of what lies on this machine, where it lies: nothing is fetched and nothing is kept.

python -m rlhf_trainer.local_check JOB_FOLDER WORK_FOLDER

Reads `job.json` in the work folder, and leaves `checked.json` there: {"problems": [as prepare words them], "warnings", "unopened":
[what was not looked at, and why]}. `rlhf validate` runs it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import orjson

from rlhf_api.job import Input, RLHFJob
from rlhf_api.load import parse_job
from rlhf_trainer.inspection.uses import DataUse, uses
from rlhf_trainer.sources.fetch import Fetched, in_place
from rlhf_trainer.stages.examine import Findings, examine

MAX_DATA = 64 << 20
"""Bytes of an input's rows up to which they are read: a few seconds."""
TEMPLATED = 5000
"""Rows of an input's use that are written by chat templates, as many seconds; `prepare` writes all."""


def main(folder: Path, work: Path) -> None:
    """Check the job in the work folder; `folder` is the job file's."""
    findings, unopened = check(parse_job(orjson.loads((work / "job.json").read_bytes())), folder, work)
    checked = {"problems": findings.problems, "warnings": findings.warnings, "unopened": unopened}
    (work / "checked.json").write_bytes(orjson.dumps(checked))


def check(job: RLHFJob, folder: Path, work: Path) -> tuple[Findings, list[str]]:
    """(what prepare would find, what was not looked at and why)."""
    unopened: list[str] = []
    read = {use.input for use in uses(job) if isinstance(use, DataUse)}

    def get(entry: Input) -> Fetched | None:
        opened = in_place(entry, folder, work / "inputs")
        if opened is None:
            unopened.append(f"{entry.name} is not on this machine")
            return None
        path, size = opened
        if entry.name in read and size > MAX_DATA:
            unopened.append(f"{entry.name} has more than {MAX_DATA >> 20} MiB")
            return None
        return Fetched(path, digest="", bytes=size, source=entry.source)

    findings = examine(job, get, folder, work / "cache", lambda _: None, TEMPLATED)
    return findings, [*unopened, *dict.fromkeys(findings.partial)]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
