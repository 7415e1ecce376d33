"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_sdk.output import Format

JobFile = Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.YAML", show_default=False)]
Storage = Annotated[
    Path | None,
    typer.Option(
        "--storage",
        metavar="DIR",
        help="Where work, products and fetched inputs live; by default .rlhf beside the job file.",
        show_default=False,
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="For people, or one JSON document for scripts.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=PATH",
        help="Take this input of the job from another path or URL; may be given several times.",
        show_default=False,
    ),
]

ON_CLUSTER = """\
A job is meant on a cluster with --namespace, --context, --kubeconfig or --cluster, and always as `kubectl rlhf`;
otherwise a run on this machine. On a cluster JOB is a name, or a job file that has the name."""
"""For the help of commands that do both."""

ClusterJobName = Annotated[
    str, typer.Argument(help="A job's name on the cluster, or its job file.", metavar="JOB", show_default=False)
]
OnCluster = Annotated[
    bool, typer.Option("--cluster", help="The job on the cluster that kubeconfig names, not a run on this machine.")
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NS",
        help="Namespace of the job on a cluster; by default the job file's, or the context's.",
        show_default=False,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Context of kubeconfig; by default the current one.", show_default=False),
]
Kubeconfig = Annotated[
    Path | None, typer.Option(metavar="FILE", help="By default kubectl's own: $KUBECONFIG.", show_default=False)
]
