"""Jobs that are large: few bytes of them stay in memory, and they are looked at as others are."""

from __future__ import annotations

import copy

import orjson
import pytest

from fakes.cluster_model import Cluster, job
from rlhf_api.errors import SpecError
from rlhf_api.load import parse_job
from rlhf_api.yaml import MAX_BYTES
from rlhf_api.yaml_nodes import MAX_VALUES
from rlhf_operator import projections
from rlhf_operator.informers import ClusterState
from rlhf_operator.reconcile.memo import Memo
from rlhf_operator.runtime.kinds import Key, Object
from rlhf_operator.runtime.metrics import Metrics


def large(size: int = projections.MOST_PACKED, name: str = "beaver") -> Object:
    """A job of at least that many bytes of status, in one version."""
    raw = copy.deepcopy(Cluster(job()).job)
    raw["metadata"] |= {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
    raw["status"] = {"phase": "Running", "resolved": "x" * size}
    return raw


def view() -> ClusterState:
    return ClusterState(None, None, lambda key, lane: None, Metrics())  # type: ignore[arg-type] - it asks nobody


def test_of_a_large_job_only_its_metadata_and_phase_are_kept() -> None:
    projection = projections.rlhfjob(large())
    assert projections.is_large(projection)
    assert len(orjson.dumps(projection)) < 1000
    assert projection["phase"] == "Running"
    assert projections.unpacked(projection)["metadata"] == projections.trimmed(large())["metadata"]
    assert not projections.is_large(projections.rlhfjob(large(1000)))


def test_all_jobs_together_are_kept_within_a_bound_and_room_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "MOST_PACKED_OF_ALL", 100_000)
    state = view()
    jobs = state.jobs.of(None)
    for name in ("a", "b", "c"):
        jobs._put(large(40_000, name))
    has_content = {name: not projections.is_large(state.jobs.get(Key("team", name)) or {}) for name in ("a", "b", "c")}
    assert has_content == {"a": True, "b": True, "c": False}
    jobs._apply("DELETED", large(40_000, "a"))
    changed = large(40_000, "c")
    changed["metadata"]["resourceVersion"] = "2"
    jobs._put(changed)
    assert not projections.is_large(state.jobs.get(Key("team", "c")) or {})


def test_labels_and_annotations_that_nobody_reads_are_not_kept() -> None:
    raw = large(10)
    raw["metadata"]["labels"] = {f"k{number}": "" for number in range(20_000)} | {"kueue.x-k8s.io/queue-name": "q"}
    raw["metadata"]["annotations"] = {"a": "x" * 200_000, "rlhf.dev/retry": "y" * 50_000}
    raw["metadata"]["ownerReferences"] = [{"uid": str(number)} for number in range(20_000)]
    metadata = projections.rlhfjob(raw)["metadata"]
    assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    assert metadata["annotations"] == {"rlhf.dev/retry": "y" * 253}
    assert "ownerReferences" not in metadata


def test_of_a_pod_little_is_kept_however_many_containers_and_ports_it_has() -> None:
    ports = [{"containerPort": number} for number in range(1, 10_000)]
    containers = [{"name": f"c{number}"} for number in range(1000)]
    waiting = [{"name": f"c{number}", "state": {"waiting": {"reason": "X"}}} for number in range(1000)]
    trainer = {"name": "trainer", "ports": [*ports, {"name": "metrics", "containerPort": 8080}]}
    pod = {
        "metadata": {"name": "a", "uid": "u", "labels": {f"k{number}": "" for number in range(1000)}},
        "spec": {"containers": [trainer, *containers], "nodeName": "n"},
        "status": {"phase": "Pending", "containerStatuses": waiting, "initContainerStatuses": waiting},
    }
    projection = projections.pod(pod)
    assert projection["spec"]["containers"][0]["ports"] == [{"name": "metrics", "containerPort": 8080}]
    assert len(orjson.dumps(projection)) < 1000


def test_what_was_parsed_is_kept_within_a_bound_of_bytes() -> None:
    computed: list[int] = []

    def compute() -> int:
        computed.append(0)
        return len(computed)

    memo: Memo[list[bytes]] = Memo(lambda text: [text], most_bytes=80, most_results=2)
    first = memo.value(b"a" * 10)
    assert memo.value(b"a" * 10) is first
    assert [memo.result(first, name, compute) for name in ("x", "x", "y", "x")] == [1, 1, 2, 1]
    assert memo.result(first, "z", compute) == 3  # the others made room
    assert memo.result(first, "x", compute) == 4
    for number in range(8):
        memo.value(b"%d" % number * 10)
    assert memo.value(b"a" * 10) is not first
    assert len(memo._values) == len(memo._results) == 8
    long = memo.value(b"b" * 11)
    assert memo.value(b"b" * 11) is not long
    assert [memo.result(long, "x", compute) for _ in range(2)] == [5, 6]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ([{"name": f"V{number}", "value": "v"} for number in range(3000)], f"more than {MAX_VALUES} keys and values"),
        ([{"name": f"V{number}", "value": "v" * 4096} for number in range(130)], f"more than {MAX_BYTES} characters"),
    ],
)
def test_a_spec_beyond_the_bounds_of_a_jobs_file_is_refused_unread(env: list[Object], words: str) -> None:
    """Objects of the API server may have 1.5 MB, of which a look would take seconds."""
    with pytest.raises(SpecError) as caught:
        parse_job(job(pod={"env": env}))
    (problem,) = caught.value.problems
    assert (problem.path, words in problem.message) == ("spec", True)
