"""A model of what lies around a reconcile: the API server's store, the Job controller, the garbage collector, kubelets.

As small as Kubernetes' contracts allow, and no smaller: resourceVersions and preconditions, deterministic names, a Job
controller that never replaces a pod (backoffLimit 0) and deletes the siblings of a failed one, foreground deletion,
caches that lag. A test drives it event by event; nothing happens by itself.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf_api.load import parse_job
from rlhf_api.plan import Resolved, ResolvedInput
from rlhf_api.termination_codec import compact, function_names
from rlhf_operator.reconcile import LiveRead, Observed, ReconcileResult, Sample, Settings, reconcile
from rlhf_operator.reconcile.times import write

Raw = dict[str, Any]
Key = tuple[str, str]
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST = "ab" * 20

JOB: Raw = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "beaver", "namespace": "team", "uid": "uid-1", "generation": 1},
    "spec": {
        "storage": {"claimName": "models"},
        "inputs": [
            {"name": "base", "source": "hf://org/base@1"},
            {"name": "rows", "source": "pvc://data/rows.jsonl"},
        ],
        "stages": [
            {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "rows"}]}},
            {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "rows"}]}},
            {"name": "cost", "costModel": {"model": {"stage": "sft"}, "data": [{"input": "rows"}]}},
        ],
    },
}
SETTINGS = Settings.model_validate(
    {
        "image": "trainer@sha256:1",
        "profiles": {"default": {"resources": {"limits": {"memory": "2Gi", "cpu": "2"}}}, "pair": {"nodes": 2}},
        "defaultProfile": "default",
        "kueue": True,
    }
)


def stage_file(job: Raw) -> Raw:
    """The stage.json that the pods of a Job read."""
    text = job["spec"]["template"]["metadata"]["annotations"]["rlhf.dev/stage-file"]
    content: Raw = json.loads(text)
    return content


class Killed(Exception):
    """The operator died here."""


class Conflict(Exception):
    """A precondition did not hold."""


def job(**spec: Any) -> Raw:
    """The job of the tests, its spec's fields replaced."""
    value = copy.deepcopy(JOB)
    value["spec"] |= spec
    return value


class Cluster:
    """The store and its controllers."""

    def __init__(self, rlhfjob: Raw, settings: Settings = SETTINGS) -> None:
        self.now = START
        self.settings = settings
        self.objects: dict[Key, Raw] = {}
        self.caches: dict[str, dict[Key, Raw]] = {}
        self.writes: list[str] = []
        self.events: list[str] = []
        self.ever: set[str] = set()
        """Names of all Jobs ever made."""
        self.asked: list[Raw] = []
        """Everything that was asked to be made, as it was asked."""
        self.kill_after: int | None = None
        self.lost: set[str] = set()
        """Pods whose node is gone."""
        self.samples: dict[str, Sample] = {}
        self.explanations: dict[LiveRead, str] = {}
        self.refuses: str | None = None
        """Words of an admission policy that lets no Job be made."""
        self.refusal: str | None = None
        """What the operator last heard of it."""
        self.requeue: float | None = None
        self._numbers = itertools.count(1)
        self.name = rlhfjob["metadata"]["name"]
        self.objects["RLHFJob", self.name] = copy.deepcopy(rlhfjob)
        self._touch(self.job)
        self.sync()

    # The API server

    @property
    def job(self) -> Raw:
        """The RLHFJob."""
        return self.objects["RLHFJob", self.name]

    @property
    def status(self) -> Raw:
        """Its status."""
        status: Raw = self.job.get("status") or {}
        return status

    def stage(self, name: str) -> Raw:
        """A stage's entry in status."""
        return next(stage for stage in self.status["stages"] if stage["name"] == name)

    def condition(self, kind: str) -> str:
        """`True:Reason` of a condition."""
        condition = next(condition for condition in self.status["conditions"] if condition["type"] == kind)
        return f"{condition['status']}:{condition['reason']}"

    def edit(self, **spec: Any) -> None:
        """A user edits the spec."""
        self.job["spec"] |= spec
        self.job["metadata"]["generation"] += 1
        self._touch(self.job)

    def all(self, kind: str) -> list[Raw]:
        """Objects of a kind."""
        return [obj for (of, _), obj in sorted(self.objects.items()) if of == kind]

    def _touch(self, raw: Raw) -> None:
        raw["metadata"]["resourceVersion"] = str(next(self._numbers))

    def create(self, raw: Raw) -> bool:
        """POST; whether it was made, not found to be there already."""
        key = raw["kind"], raw["metadata"]["name"]
        if key in self.objects:
            return False
        created = copy.deepcopy(raw)
        created["metadata"] |= {"uid": f"uid-{next(self._numbers)}x", "creationTimestamp": write(self.now)}
        self._touch(created)
        self.objects[key] = created
        if raw["kind"] == "Job":
            self.ever.add(raw["metadata"]["name"])
        return True

    def delete(self, kind: str, name: str, uid: str | None = None) -> None:
        """DELETE with foreground propagation, preconditioned on the UID."""
        obj = self.objects.get((kind, name))
        if obj is None or "deletionTimestamp" in obj["metadata"] or uid not in (None, obj["metadata"]["uid"]):
            return
        if kind in ("Job", "Pod"):
            grace = 150 if kind == "Pod" else 0
            obj["metadata"]["deletionTimestamp"] = write(self.now + timedelta(seconds=grace))
            if kind == "Pod":
                obj["metadata"]["deletionGracePeriodSeconds"] = grace
            self._touch(obj)
        else:
            del self.objects[kind, name]

    # The operator

    def sync(self, *kinds: str) -> None:
        """Caches catch up: of these kinds, or all."""
        for kind in kinds or ("RLHFJob", "Job", "Pod", "Service"):
            self.caches[kind] = {key: copy.deepcopy(obj) for key, obj in self.objects.items() if key[0] == kind}

    def reconcile(self) -> ReconcileResult:
        """One reconcile from the caches, its outcome applied write by write; look-ups read the store."""
        raw, children = self._seen(self.caches)
        if raw is None:
            return ReconcileResult()
        out = reconcile(raw, children, self.settings, self.now)
        if out.look or (out.create and out.status == (raw.get("status") or {})):
            if ("RLHFJob", self.name) not in self.objects:  # only the cache did not know
                return ReconcileResult()
            raw, children = self._live(out.look)
            out = reconcile(raw, children, self.settings, self.now)
            if out.look:
                raw, children = self._live([*children.live_reads, *out.look])
                out = reconcile(raw, children, self.settings, self.now)
            assert not out.look, "asked again for what was answered"
        self.requeue = out.requeue
        assert out.requeue is None or out.requeue > 0, "it would be called again without pause"
        try:
            self._apply(raw, out)
        except Conflict:
            self.writes.append("conflict")
        return out

    def _seen(self, objects: dict[str, dict[Key, Raw]]) -> tuple[Raw | None, Observed]:
        raw = objects["RLHFJob"].get(("RLHFJob", self.name))
        kinds = {kind: tuple(obj for _, obj in sorted(objects[kind].items())) for kind in objects}
        children = Observed(
            kinds["Job"],
            kinds["Pod"],
            kinds["Service"],
            self.samples,
            explanations=self.explanations,
            refusal=self.refusal,
        )
        return copy.deepcopy(raw), copy.deepcopy(children)

    def _live(self, looks: list[LiveRead] | tuple[LiveRead, ...]) -> tuple[Raw, Observed]:
        kinds = ("RLHFJob", "Job", "Pod", "Service")
        raw, children = self._seen(
            {kind: {key: obj for key, obj in self.objects.items() if key[0] == kind} for kind in kinds}
        )
        assert raw is not None
        claims = {look.name: self.objects.get(("PersistentVolumeClaim", look.name)) for look in looks}
        looked = {look: self.objects.get(("Job", look.name)) for look in looks}
        return raw, Observed(
            *(children.jobs, children.pods, children.services),
            *(self.samples, looked, claims, self.explanations, self.refusal),
        )

    def _write(self, what: str) -> None:
        if self.kill_after is not None:
            if self.kill_after == 0:
                raise Killed(what)
            self.kill_after -= 1
        self.writes.append(what)

    def _apply(self, raw: Raw, out: ReconcileResult) -> None:
        if out.status != (raw.get("status") or {}):
            self._write("status")
            stored = self.objects.get(("RLHFJob", self.name))
            if stored is None or stored["metadata"]["resourceVersion"] != raw["metadata"]["resourceVersion"]:
                raise Conflict
            self.job["status"] = copy.deepcopy(out.status)
            self._touch(self.job)
        refused: set[str] = set()
        for obj in out.create:
            if obj["metadata"]["name"] in refused:
                continue
            self._write(f"create {obj['kind']} {obj['metadata']['name']}")
            if obj["kind"] == "Job" and self.refuses is not None:
                self.refusal = self.refuses
                refused.add(obj["metadata"]["name"])
                continue
            self.asked.append(obj)
            self.create(obj)
        if out.create and not refused:
            self.refusal = None
        for gone in out.delete:
            self._write(f"delete {gone.kind} {gone.name}")
            self.delete(gone.kind, gone.name, gone.uid)
        self.events += [event.reason for event in out.events]

    # The Job controller and the garbage collector

    def control(self, name: str) -> None:
        """The Job controller and the garbage collector look at a Job."""
        job = self.objects.get(("Job", name))
        if job is None:
            return
        pods = self.pods(name)
        for pod in pods:  # what was deleted and has ended is counted, then let go
            if "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] in ("Succeeded", "Failed"):
                self._count(job, pod)
                del self.objects["Pod", pod["metadata"]["name"]]
        pods = self.pods(name)
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                if pod["status"]["phase"] in ("Succeeded", "Failed"):
                    del self.objects["Pod", pod["metadata"]["name"]]
                else:
                    self.delete("Pod", pod["metadata"]["name"])
            if not self.pods(name):
                del self.objects["Job", name]
            return
        if not self._ended(job):
            self._run(job, pods)

    def collect(self) -> None:
        """The garbage collector looks: what has an owner that is gone goes."""
        uids = {obj["metadata"]["uid"] for obj in self.objects.values()}
        for (kind, name), obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences")
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.delete(kind, name)
        for pod in self.pods():
            if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] not in [
                job["metadata"]["name"] for job in self.all("Job")
            ] and pod["status"]["phase"] in ("Succeeded", "Failed"):
                del self.objects["Pod", pod["metadata"]["name"]]

    def _run(self, job: Raw, pods: list[Raw]) -> None:
        status, size = job.setdefault("status", {}), job["spec"]["completions"]
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        if job["spec"].get("suspend"):
            for pod in pods:
                self.delete("Pod", pod["metadata"]["name"])
            status.pop("startTime", None)
            status["lost"] = 0
            self._condition(job, "Suspended", "JobSuspended")
            return
        status["conditions"] = [
            condition for condition in status.get("conditions", []) if condition["type"] != "Suspended"
        ]
        status.setdefault("startTime", write(self.now))
        if failed or status.get("lost"):
            codes = {_code(pod) for pod in failed}
            reason = "PodFailurePolicy" if codes & {2, 3} else "BackoffLimitExceeded"
            self._condition(job, "FailureTarget", reason)
            for pod in pods:
                if pod["status"]["phase"] in ("Pending", "Running"):
                    self.delete("Pod", pod["metadata"]["name"])
            if not [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]:
                self._condition(job, "Failed", reason)
            return
        if len([pod for pod in pods if pod["status"]["phase"] == "Succeeded"]) == size:
            self._condition(job, "Complete", "CompletionsReached")
            return
        indexes = {pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in pods}
        for index in range(size):
            if str(index) not in indexes:
                self._pod(job, index)
                self._touch(job)

    def _count(self, job: Raw, pod: Raw) -> None:
        if pod["status"]["phase"] == "Failed" and not job["spec"].get("suspend"):
            status = job.setdefault("status", {})
            status["lost"] = status.get("lost", 0) + 1

    def _ended(self, job: Raw) -> bool:
        conditions = (job.get("status") or {}).get("conditions", [])
        return any(condition["type"] in ("Complete", "Failed") for condition in conditions)

    def _condition(self, job: Raw, kind: str, reason: str) -> None:
        conditions = job["status"].setdefault("conditions", [])
        if all(condition["type"] != kind for condition in conditions):
            message = "Container trainer failed with exit code 2 matching FailJob rule" if "Policy" in reason else ""
            conditions.append(
                {
                    "type": kind,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": write(self.now),
                }
            )
            self._touch(job)

    def _pod(self, job: Raw, index: int) -> None:
        name = f"{job['metadata']['name']}-{index}-{next(self._numbers)}"
        template = copy.deepcopy(job["spec"]["template"])
        metadata = {
            **template["metadata"],
            "name": name,
            "uid": f"uid-{name}",
            "annotations": {
                **(template["metadata"].get("annotations") or {}),
                "batch.kubernetes.io/job-completion-index": str(index),
            },
            "creationTimestamp": write(self.now),
            "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
        }
        metadata["labels"]["batch.kubernetes.io/job-name"] = job["metadata"]["name"]
        pod = {"kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
        self._touch(pod)
        self.objects["Pod", name] = pod

    # Kubelets

    def pods(self, job_name: str | None = None) -> list[Raw]:
        """All pods, or those of a Job."""
        return [
            pod
            for pod in self.all("Pod")
            if job_name is None or pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == job_name
        ]

    def run_pod(self, name: str) -> None:
        """A kubelet starts a pod."""
        pod = self.objects["Pod", name]
        if pod["status"]["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]:
            pod["spec"]["nodeName"] = "node-1"
            state = {"running": {"startedAt": write(self.now)}}
            pod["status"] |= {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "containerStatuses": [{"name": "trainer", "state": state}],
            }
            self._touch(pod)

    def end_pod(self, name: str, code: int, *, reason: str = "", message: str | None = None) -> None:
        """Its container ends, as far as anyone hears."""
        pod = self.objects["Pod", name]
        if name in self.lost or pod["status"]["phase"] not in ("Pending", "Running"):
            return
        ended: Raw = {"exitCode": code, "finishedAt": write(self.now), "reason": reason or ("Error" if code else "")}
        ended["message"] = self.summary(pod, code) if message is None else message
        pod["status"] |= {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
        }
        self._touch(pod)

    def summary(self, pod: Raw, code: int) -> str:
        """What the launcher would write."""
        stage = pod["metadata"]["labels"]["rlhf.dev/stage"]
        words = {0: "Done", 2: "InvalidInput", 3: "KL", 75: "Stopped"}.get(code, "Crashed")
        summary: Raw = {"code": code, "reason": words, "stage": stage, "step": 7, "message": f"ended with {code}"}
        if stage == "prepare" and code == 0:
            summary["result"] = self.result()
        return json.dumps(summary)

    def result(self, hits: tuple[str, ...] = ()) -> Raw:
        """What prepare finds."""
        document = {name: self.job[name] for name in ("apiVersion", "kind", "spec")}
        parsed = parse_job({**document, "metadata": {"name": self.name}})
        inputs = {entry.name: ResolvedInput(DIGEST, "") for entry in parsed.spec.inputs}
        functions = dict.fromkeys(function_names(parsed), DIGEST)
        return dict(compact(parsed, Resolved(inputs, functions, hits)))

    def lose(self, name: str) -> None:
        """Its node loses power: in time the pod is deleted, and stays, because no kubelet says that it has ended."""
        pod = self.objects["Pod", name]
        if pod["status"]["phase"] == "Running":
            self.lost.add(name)
            pod["status"]["conditions"] = [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByTaintManager",
                    "message": "not ready",
                }
            ]
            self.delete("Pod", name)

    def evict(self, name: str) -> None:
        """A node is drained."""
        pod = self.objects["Pod", name]
        if pod["status"]["phase"] in ("Pending", "Running"):
            pod["status"]["conditions"] = [
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
            ]
            self.delete("Pod", name)

    # Everything in turn

    def settle(self, ends: Callable[[Raw], int | None] = lambda _: 0, rounds: int = 200) -> None:
        """Let everything run until nothing changes: pods end as `ends` says of them, None: not yet.

        Where only time is waited for, it passes.
        """
        for _ in range(rounds):
            before = self._state()
            self.step(ends)
            if self._state() == before:
                if self.requeue is None:
                    return
                self.now += timedelta(seconds=self.requeue)
        raise AssertionError(f"did not settle: {json.dumps(self.status, indent=1)}")

    def step(self, ends: Callable[[Raw], int | None] = lambda _: 0) -> None:
        """Everyone looks once: the operator, the Job controller, the kubelets; a second passes."""
        self.sync()
        self.reconcile()
        for job in self.all("Job"):
            self.control(job["metadata"]["name"])
        for pod in self.pods():
            self._kubelet(pod, ends)
        self.now += timedelta(seconds=1)

    def _kubelet(self, pod: Raw, ends: Callable[[Raw], int | None]) -> None:
        name = pod["metadata"]["name"]
        if "deletionTimestamp" in pod["metadata"]:
            self.end_pod(name, 75)
        elif pod["status"]["phase"] == "Pending":
            self.run_pod(name)
        elif pod["status"]["phase"] == "Running":
            code = ends(pod)
            if code is not None:
                self.end_pod(name, code)

    def _state(self) -> str:
        return json.dumps([[*key, obj] for key, obj in sorted(self.objects.items())], sort_keys=True)


def _code(pod: Raw) -> int:
    statuses = pod["status"].get("containerStatuses") or [{}]
    return int(((statuses[0].get("state") or {}).get("terminated") or {}).get("exitCode", 0))
