"""What earlier attempts left: their objects go when the next attempt is on record, unless all is to be kept."""

from __future__ import annotations

from rlhf_operator.reconcile.observe import Gang, attempts_of
from rlhf_operator.reconcile.outcome import Delete, Raw
from rlhf_operator.reconcile.run import Run


def superseded(run: Run) -> None:
    """Delete the ended Jobs of earlier attempts, with their ConfigMaps and Services."""
    if run.job.spec.run_policy.keep == "everything":
        return
    for stage in run.stages.values():
        last = stage.attempts[-1].number if stage.attempts else -1
        for kind, objects in (
            ("Job", run.children.jobs),
            ("Service", run.children.services),
            ("ConfigMap", run.children.config_maps),
        ):
            for number, raw in attempts_of(stage.name, objects):
                if number < last and _over(kind, raw, stage.name, number):
                    metadata = raw["metadata"]
                    run.out.delete.append(Delete(kind, metadata["name"], metadata["uid"]))  # type: ignore[arg-type]


def _over(kind: str, raw: Raw, stage: str, number: int) -> bool:
    if "deletionTimestamp" in raw["metadata"]:
        return False
    return kind != "Job" or Gang.of(raw["metadata"]["name"], stage, number, [raw], []).finished
