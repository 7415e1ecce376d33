"""Which is meant, a run on this machine or a job on a cluster: told by how the command is called, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_sdk.cluster import PLUGIN
from rlhf_sdk.cluster.kubectl import Target
from rlhf_sdk.exits import CommandError, Exit

if TYPE_CHECKING:
    import typer


def target(
    ctx: typer.Context, namespace: str | None, context: str | None = None, kubeconfig: Path | None = None
) -> Target:
    """The cluster and namespace that the flags name."""
    program = PLUGIN if ctx.find_root().obj == PLUGIN else "rlhf"
    return Target(namespace, context, kubeconfig, program)


def chosen(
    ctx: typer.Context,
    namespace: str | None,
    context: str | None,
    kubeconfig: Path | None,
    *,
    cluster: bool,
    storage: Path | None,
) -> Target | None:
    """The cluster that is meant; None: this machine.

    Raises:
        CommandError: the flags say both.
    """
    cluster_target = target(ctx, namespace, context, kubeconfig)
    flags = {"--namespace": namespace, "--context": context, "--kubeconfig": kubeconfig, "--cluster": cluster or None}
    used_flags = [name for name, value in flags.items() if value is not None]
    if not used_flags and cluster_target.program != PLUGIN:
        return None
    if storage is not None:
        why = used_flags[0] if used_flags else f"`{PLUGIN}`"
        raise CommandError(
            f"--storage: it is of runs on this machine, but {why} means a cluster; `rlhf ... --storage` shows the run",
            Exit.INVALID,
        )
    return cluster_target
