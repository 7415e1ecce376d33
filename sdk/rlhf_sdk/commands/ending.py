"""How a command ends that has changed a job on a cluster: it waits if asked to, tells, and exits as the job did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rlhf_sdk.output import Format, emit

if TYPE_CHECKING:
    from rlhf_sdk.cluster.jobs import ClusterJob
    from rlhf_sdk.cluster.kubectl import Kubectl


def finish_command(kubectl: Kubectl, job: ClusterJob, *, wait: bool, output: Format, **fields: Any) -> None:
    """Tell how it goes until it has ended, with `wait`; print JSON, with the `fields` added, where that is the format.

    Raises:
        typer.Exit: with `wait`, the job's exit code.
    """
    code = None
    if wait:
        from rlhf_sdk.cluster.watch import wait_for_end

        job, code = wait_for_end(kubectl, job)
    if output is Format.JSON:
        from rlhf_sdk.cluster.render import brief

        emit({**brief(job), **fields})
    if code is not None:
        raise typer.Exit(int(code))
