"""What is always true, whatever happens in whatever order: stale caches, an operator killed between two writes, pods
that die in every way, users who suspend, resume, retry and delete."""

from __future__ import annotations

import functools
import json
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fakes.cluster_model import SETTINGS, Cluster, Killed, Raw, job
from rlhf_api.load import parse_job
from rlhf_api.plan import plan
from rlhf_api.status import JobStatus
from rlhf_operator.reconcile import Sample, Settings
from rlhf_operator.reconcile.policy.retry import requested

DONE = ("Complete", "Reused")
LOST = timedelta(seconds=300)
UPGRADED = Settings.model_validate(
    SETTINGS.model_dump(mode="json", exclude_defaults=True)
    | {"image": "trainer@sha256:2", "profiles": {"default": {"resources": {"limits": {"memory": "3Gi"}}}}}
)
KINDS = ("RLHFJob", "Job", "Pod", "Service")


def labels(raw: Raw) -> tuple[str, int]:
    values = raw["metadata"]["labels"]
    return str(values["rlhf.dev/stage"]), int(values["rlhf.dev/attempt"])


def active(raw: Raw) -> bool:
    """Whether a Job may still start pods."""
    conditions = {condition["type"] for condition in (raw.get("status") or {}).get("conditions", [])}
    return "deletionTimestamp" not in raw["metadata"] and not conditions & {"Complete", "Failed", "FailureTarget"}


def dead(pod: Raw, now: datetime) -> bool:
    """Whether a pod has ended, or is given up as one on a lost node."""
    gone = pod["metadata"].get("deletionTimestamp")
    return pod["status"]["phase"] in ("Succeeded", "Failed") or (
        gone is not None and datetime.fromisoformat(gone) + LOST <= now
    )


@functools.cache
def undisturbed() -> dict[str, str | None]:
    """The product of each stage, where nothing goes wrong."""
    cluster = Cluster(job())
    cluster.settle()
    return {stage["name"]: stage.get("product") for stage in cluster.status["stages"]}


class AlwaysTrue(RuleBasedStateMachine):
    """Everything that can happen to a job."""

    cluster: Cluster

    @initialize(
        nodes=st.sampled_from([1, 2]),
        restarts=st.integers(0, 3),
        queued=st.booleans(),
        stuck=st.sampled_from([{}, {"stuckTimeout": 600}]),
    )
    def create_job(self, nodes: int, restarts: int, queued: bool, stuck: Raw) -> None:
        value = job(nodes=nodes, runPolicy={"maxRestarts": restarts, **stuck})
        if queued:
            value["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "q"}
        self.cluster = Cluster(value, SETTINGS)
        self.needs = {stage.name: stage.needs for stage in plan(parse_job(value)).stages}
        self.highest: dict[str, int] = {}
        self.known: set[str] = set()
        self.pinned: Raw | None = None
        self.restarts = restarts
        self.retries = 0

    # The operator

    @rule(kinds=st.sets(st.sampled_from(KINDS), min_size=1))
    def caches_catch_up(self, kinds: set[str]) -> None:
        self.cluster.sync(*kinds)

    @rule()
    def what_a_look_wrote_itself_gives_the_next_nothing_to_do(self) -> None:
        """Where it made and deleted nothing, and no retry waits: by this the shell need not look again when the watch tells it of its write."""
        self.cluster.sync()
        out = self.cluster.reconcile()
        if out.create or out.delete or requested(self.cluster.job):
            return
        self.cluster.sync()
        self.cluster.writes.clear()
        again = self.cluster.reconcile()
        assert self.cluster.writes == []
        assert (again.requeue is None, again.poll, again.explain) == (out.requeue is None, out.poll, out.explain)

    @rule(sync=st.booleans(), kill=st.none() | st.integers(0, 6))
    def reconcile(self, sync: bool, kill: int | None) -> None:
        if sync:
            self.cluster.sync()
        self.cluster.kill_after = kill
        try:
            self.cluster.reconcile()
        except Killed:
            self.cluster.sync()  # the next process lists everything before it does anything
        finally:
            self.cluster.kill_after = None

    @rule(to=st.sampled_from([SETTINGS, UPGRADED]))
    def the_operator_is_upgraded(self, to: Settings) -> None:
        self.cluster.settings = to

    # The cluster

    @rule(data=st.data())
    def a_controller_looks(self, data: st.DataObject) -> None:
        self._with("Job", data, lambda obj: self.cluster.control(obj["metadata"]["name"]))

    @rule()
    def all_controllers_look(self) -> None:
        for raw in self.cluster.all("Job"):
            self.cluster.control(raw["metadata"]["name"])

    @rule()
    def kubelets_start_pods(self) -> None:
        for pod in self.cluster.pods():
            self.cluster.run_pod(pod["metadata"]["name"])

    @rule(data=st.data(), code=st.sampled_from([0, 0, 0, 1, 2, 3, 75, 137]))
    def a_pod_ends(self, data: st.DataObject, code: int) -> None:
        self._with("Pod", data, lambda obj: self.cluster.end_pod(obj["metadata"]["name"], code))

    @rule()
    def all_pods_end_well(self) -> None:
        for pod in self.cluster.pods():
            deleted = "deletionTimestamp" in pod["metadata"]
            self.cluster.end_pod(pod["metadata"]["name"], 75 if deleted else 0)

    @rule(data=st.data())
    def a_pod_is_evicted(self, data: st.DataObject) -> None:
        self._with("Pod", data, lambda obj: self.cluster.evict(obj["metadata"]["name"]))

    @rule(data=st.data())
    def a_node_is_lost(self, data: st.DataObject) -> None:
        self._with("Pod", data, lambda obj: self.cluster.lose(obj["metadata"]["name"]))

    @rule(data=st.data(), kind=st.sampled_from(["Pod", "Job", "Service"]))
    def someone_deletes(self, data: st.DataObject, kind: str) -> None:
        self._with(kind, data, lambda obj: self.cluster.delete(kind, obj["metadata"]["name"]))

    @rule(data=st.data(), suspend=st.booleans())
    def kueue_admits_or_preempts(self, data: st.DataObject, suspend: bool) -> None:
        def turn(obj: Raw) -> None:
            if "suspend" in obj["spec"]:
                obj["spec"]["suspend"] = suspend

        self._with("Job", data, turn)

    @rule(seconds=st.sampled_from([1, 15, 200, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += timedelta(seconds=seconds)

    @rule(
        stage=st.sampled_from(["prepare", "sft", "reward"]),
        attempt=st.integers(0, 2),
        step=st.integers(0, 100),
        still=st.sampled_from([0.0, 599.0, 601.0]),
        show=st.booleans(),
    )
    def a_stage_tells_how_far_it_is(self, stage: str, attempt: int, step: int, still: float, show: bool) -> None:
        self.cluster.samples[stage] = Sample(stage, attempt, step, 100, begun=step or None, still=still, show=show)

    # The user

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.cluster.edit(suspend=suspend)

    @precondition(lambda self: self.retries < 3)
    @rule()
    def the_user_retries(self) -> None:
        self.retries += 1
        self.cluster.job["metadata"]["annotations"] = {"rlhf.dev/retry": str(self.retries)}

    def _with(self, kind: str, data: st.DataObject, act: Any) -> None:
        objects = self.cluster.all(kind)
        if objects:
            act(data.draw(st.sampled_from(objects)))

    # What is always true

    @invariant()
    def at_most_one_active_job_a_stage(self) -> None:
        stages = [labels(raw)[0] for raw in self.cluster.all("Job") if active(raw)]
        assert len(stages) == len(set(stages)), stages

    @invariant()
    def no_two_attempts_run_at_once(self) -> None:
        running: dict[str, set[int]] = {}
        for pod in self.cluster.pods():
            if not dead(pod, self.cluster.now):
                stage, attempt = labels(pod)
                running.setdefault(stage, set()).add(attempt)
        assert all(len(attempts) == 1 for attempts in running.values()), running

    @invariant()
    def attempts_only_grow(self) -> None:
        for stage in self.cluster.status.get("stages", []):
            numbers = [attempt["number"] for attempt in stage["attempts"]]
            assert numbers == sorted(set(numbers))
            last = max(numbers, default=-1)
            assert last >= self.highest.get(stage["name"], -1)
            self.highest[stage["name"]] = last
            assert stage["restarts"] <= self.restarts

    @invariant()
    def a_stage_starts_only_after_all_it_takes_from_and_on_record(self) -> None:
        for name in self.cluster.ever - self.known:
            raw = self.cluster.objects.get(("Job", name))
            if raw is None:
                continue
            stage, attempt = labels(raw)
            states = {entry["name"]: entry["state"] for entry in self.cluster.status["stages"]}
            if stage != "report" or "Failed" not in states.values():
                assert all(states[need] in DONE for need in self.needs[stage]), (stage, states)
            on_record = next(entry for entry in self.cluster.status["stages"] if entry["name"] == stage)["attempts"]
            assert attempt in [entry["number"] for entry in on_record], "made before it was on record"
        self.known |= self.cluster.ever

    @invariant()
    def everything_runs_with_what_the_job_began_with(self) -> None:
        pinned = {name: self.cluster.status.get(name) for name in ("image", "planVersion", "profiles")}
        if pinned["image"] is None:
            return
        assert self.pinned in (None, pinned)
        self.pinned = pinned
        resources = json.loads(pinned["profiles"]["default"])["resources"]
        for raw in self.cluster.all("Job"):
            (container,) = raw["spec"]["template"]["spec"]["containers"]
            assert container["image"] == pinned["image"]
            assert container["resources"] == (resources if labels(raw)[0] not in ("prepare", "report") else {})

    @invariant()
    def status_keeps_its_schema(self) -> None:
        JobStatus.model_validate(self.cluster.status)

    def teardown(self) -> None:
        """From wherever it is, it comes to an end when the world is kind, and then is quiet."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.samples = {}
        cluster.edit(suspend=False)
        for _ in range(400):
            for raw in cluster.all("Job"):
                if raw["spec"].get("suspend"):
                    raw["spec"]["suspend"] = False
            cluster.step(lambda _: 0)
            self.at_most_one_active_job_a_stage()
            self.no_two_attempts_run_at_once()
            if cluster.status["phase"] in ("Complete", "Failed") and not any(map(active, cluster.all("Job"))):
                break
            cluster.now += timedelta(seconds=min(60.0, cluster.requeue or 0))
        assert cluster.status["phase"] in ("Complete", "Failed"), cluster.status
        if cluster.status["phase"] == "Complete":  # by whatever way it came here
            assert {stage["name"]: stage.get("product") for stage in cluster.status["stages"]} == undisturbed()
        cluster.settle()
        cluster.writes.clear()
        cluster.sync()
        cluster.reconcile()
        assert cluster.writes == []


AlwaysTrue.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAlwaysTrue = AlwaysTrue.TestCase


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    steps=st.integers(0, 30),
    fresh=st.lists(st.sets(st.sampled_from(KINDS)), max_size=4),
    kill=st.none() | st.integers(0, 3),
)
def test_no_orphan_outlives_its_owner(steps: int, fresh: list[set[str]], kill: int | None) -> None:
    """Deleted at any moment, and the operator hears of it late and piece by piece."""
    cluster = Cluster(job(nodes=2))
    for _ in range(steps):
        cluster.step()
    children = [obj for obj in cluster.asked if obj["kind"] != "PersistentVolumeClaim"]
    assert all(obj["metadata"]["ownerReferences"][0]["uid"] == "uid-1" for obj in children)
    del cluster.objects["RLHFJob", cluster.name]
    for kinds in [*fresh, set(KINDS)]:
        if kinds:
            cluster.sync(*kinds)
        cluster.kill_after = kill
        try:
            cluster.reconcile()
        except Killed:
            cluster.sync()
        cluster.kill_after = None
        cluster.collect()
    for _ in range(3):
        for raw in cluster.all("Job"):
            cluster.control(raw["metadata"]["name"])
        for pod in cluster.pods():
            cluster.end_pod(pod["metadata"]["name"], 75)
        cluster.collect()
    assert [key for key in cluster.objects if key[0] in KINDS] == []
