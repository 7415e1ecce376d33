"""A Safe RLHF job as pods: to its end undisturbed, and to the same end with everything killed that can be."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.chart.helm import NAMESPACE
from cluster.control_plane import ControlPlane
from cluster.node import Node, plane_folder
from cluster.trainers.jobs import safe_rlhf, sft_only
from cluster.trainers.site import OPERATOR, Namespace, Object, Site, images_given

LONG = {"steps": 60, "sft_steps": 300}
"""Long enough to be disturbed under way."""
WEIGHTS = ("sft", "rewardModel", "costModel", "ppo")


def weights(folder: Path) -> dict[str, str]:
    """Digest of every weight file of the products, by product and file."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "products").rglob("*.safetensors"))
    }


def step(team: Namespace, path: str, stage: str) -> int:
    """The last step in a stage's metrics on the claim, where it is told at once; in status it is twice a minute."""
    lines = [
        line
        for file in (team.models / path / "work").glob(f"*/{stage}/metrics.jsonl")
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def running(team: Namespace, stage: str, index: int = 0) -> str:
    """Name of a stage's running pod; empty when there is none."""
    labels = f"rlhf.dev/stage={stage},batch.kubernetes.io/job-completion-index={index}"
    pods = team.kubectl("get", "pods", "-l", labels, "--field-selector=status.phase=Running", "-o", "name").split()
    return pods[0] if pods else ""


@pytest.fixture(scope="module")
def calm(site: Site) -> Iterator[Namespace]:
    """Where the job `calm` ended undisturbed."""
    team = site.namespace()
    team.apply(safe_rlhf("calm", path="calm", **LONG))
    assert team.ended("calm")["phase"] == "Complete", team.diagnosis()
    yield team
    site.forget(team.name)


def test_a_job_ends_as_people_see_it(calm: Namespace) -> None:
    status = calm.ended("calm")
    calm.kubectl("wait", "--for=condition=Complete", "rlhfjob/calm", "--timeout=300s")
    printed = calm.kubectl("get", "rlhfjobs")
    assert printed.split()[:2] == ["NAME", "STAGE"], printed
    assert "Complete" in printed
    states = {stage["name"]: stage["state"] for stage in status["stages"]}
    assert states == dict.fromkeys(("prepare", "sft", "reward", "cost", "ppo", "evaluate", "report"), "Complete")
    ranks = {stage["name"]: stage["attempts"][-1]["ranks"] for stage in status["stages"]}
    assert (ranks["sft"], ranks["ppo"], ranks["reward"]) == (2, 2, 1)
    (report,) = (calm.models / "calm" / "products").glob("report-*/report.html")
    assert report.read_text().startswith("<!doctype html>")
    trained = {file.partition("/")[2].partition("-")[0] for file in weights(calm.models / "calm")}
    assert trained == set(WEIGHTS)
    events = calm.kubectl("get", "events", "--field-selector=involvedObject.name=calm", "-o", "name").split()
    assert events, "the job has no events"


def test_whatever_is_killed_the_weights_are_the_same(site: Site, calm: Namespace, team: Namespace) -> None:
    team.apply(safe_rlhf("storm", path="storm", **LONG))
    dice = random.Random(0)

    site.until(lambda: step(team, "storm", "sft") >= 3, "SFT is under way")
    rank = running(team, "sft", 1)
    site.kubectl("-n", team.name, "exec", rank, "--", "python", "-c", KILL_RANKS)  # a crash: counts
    kill_operators(site)
    team.until("storm", lambda status: restarts(status, "sft") == 1, "the crash is counted, once")
    # The Job controller deletes a pod that has ended after its peer: before an operator leads again, and it is unseen.
    pods = team.kubectl("get", "pods", "-o", "name")

    def harass(stage: str) -> None:
        for _ in range(3):
            kill_operators(site)
            time.sleep(dice.uniform(0, 4))  # any moment will do
        site.until(lambda: step(team, "storm", stage) >= 3, f"{stage} is under way")

    harass("reward")
    site.until(lambda: step(team, "storm", "ppo") >= 3, "PPO is under way")
    team.kubectl("delete", running(team, "ppo", 0), "--wait=false")  # a disruption: does not
    team.until("storm", lambda status: attempts(status, "ppo") == 2, "it is tried again")
    before = step(team, "storm", "ppo")
    site.until(lambda: step(team, "storm", "ppo") > before, "PPO goes on")
    team.kubectl("patch", "rlhfjob", "storm", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    team.until("storm", lambda status: status.get("phase") == "Suspended", "suspended")
    site.until(lambda: not running(team, "ppo"), "its pods are gone")
    team.kubectl("patch", "rlhfjob", "storm", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    status = team.ended("storm")
    assert status["phase"] == "Complete", f"{status}\n{team.diagnosis()}"
    assert restarts(status, "sft") == 1
    first = team.stage("storm", "sft")["attempts"][0]
    assert first["reason"] == "Killed" or rank not in pods, f"not what its peer raised: {first}"
    assert restarts(status, "ppo") == 0
    assert weights(team.models / "storm") == weights(calm.models / "calm")


KILL_RANKS = """\
import os, signal
from pathlib import Path
ranks = []
for entry in Path("/proc").glob("[0-9]*"):
    try:
        command = (entry / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        continue
    if b"rlhf_trainer.runtime.worker" in command and int(entry.name) != os.getpid():
        ranks.append(int(entry.name))
assert ranks
for rank in ranks:
    os.kill(rank, signal.SIGKILL)
"""


def kill_operators(site: Site) -> None:
    """At once, without a word."""
    site.kubectl("delete", "pods", "-n", NAMESPACE, "-l", OPERATOR, "--grace-period=0", "--force", "--wait=false")


def restarts(status: Object, stage: str) -> int:
    """Counted ones."""
    return next((int(entry.get("restarts") or 0) for entry in status.get("stages", []) if entry["name"] == stage), 0)


def attempts(status: Object, stage: str) -> int:
    """How many there were."""
    return next((len(entry.get("attempts", [])) for entry in status.get("stages", []) if entry["name"] == stage), 0)


def test_an_oom_kill_is_named_with_its_limit(team: Namespace) -> None:
    small = {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}}
    job = sft_only("small", runPolicy={"maxRestarts": 0})
    job["spec"]["stages"][0] |= small
    team.apply(job)
    status = team.ended("small")
    assert status["phase"] == "Failed"
    stage = team.stage("small", "sft")
    assert "OOMKilled" in str(stage) and "64Mi" in str(stage), stage


def test_a_job_whose_input_is_not_there_says_so(team: Namespace) -> None:
    job = sft_only("lost")
    job["spec"]["inputs"][0]["source"] = "pvc://data/nothing"
    team.apply(job)
    status = team.ended("lost")
    assert status["phase"] == "Failed"
    prepare = team.stage("lost", "prepare")
    assert prepare["attempts"][-1]["exitCode"] == 2
    assert "nothing" in prepare["message"]
    assert len(prepare["attempts"]) == 1  # exit 2 is not tried again


def test_containerd_restarts_and_the_job_goes_on(site: Site, team: Namespace) -> None:
    if images_given() is not None:
        pytest.skip("this cluster's containerd is not ours to restart")
    containerd = Node(ControlPlane(plane_folder(), controllers=True)).containerd
    team.apply(sft_only("through", steps=400, nodes=2))
    site.until(lambda: step(team, "all", "sft") >= 2, "SFT is under way")
    containerd.kill()
    time.sleep(5)  # long enough for the kubelet to miss it
    containerd.start()
    status = team.ended("through")
    assert status["phase"] == "Complete", team.diagnosis()
    assert restarts(status, "sft") == 0
