"""The job's claim: what its access modes allow."""

from __future__ import annotations

import pytest

from fakes.cluster_model import Cluster, Raw, job

TEMPLATE = {"claimTemplate": {"accessModes": ["ReadWriteMany"], "size": "1Gi"}}


def ends(pod: Raw) -> int | None:
    return None if pod["metadata"]["labels"]["rlhf.dev/stage"] in ("reward", "cost") else 0


@pytest.mark.parametrize("where", ["spec", "status"])
def test_the_modes_of_a_claim_that_is_there_count_not_those_of_the_template(where: str) -> None:
    """A job made again, with other modes, finds its claim as it was made."""
    cluster = Cluster(job(storage=TEMPLATE))
    claim = {"spec": {"accessModes": ["ReadWriteMany"]}, where: {"accessModes": ["ReadWriteOnce"]}}
    cluster.objects["PersistentVolumeClaim", "beaver-storage"] = claim
    cluster.settle(ends)
    assert (cluster.stage("reward")["state"], cluster.stage("cost")["reason"]) == ("Running", "StorageTaken")
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_stages_run_side_by_side_on_a_claim_that_is_made_for_it() -> None:
    cluster = Cluster(job(storage=TEMPLATE))
    cluster.settle(ends)
    assert cluster.stage("reward")["state"] == cluster.stage("cost")["state"] == "Running"
