"""`rlhf` on a node whose pods run: logs and products while there are pods, and when they are gone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from cluster.binaries import program
from cluster.cli.ground import PATIENCE, Command, until, written
from cluster.trainers.jobs import sft_only
from cluster.trainers.site import ROOT, Namespace, Object
from rlhf_api.store import MANIFEST
from rlhf_sdk.cluster import reader_pod
from rlhf_sdk.cluster.jobs import ClusterJob

SPACE = re.compile(
    r"^## Space on the claim\n.*?^```yaml\n(?P<pod>.*?)^```\n.*?^```sh\n(?P<commands>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILLING = re.compile(r"^## Fill a claim with data\n(.*?)^## ", re.MULTILINE | re.DOTALL)
READERS = ("get", "pods", "--selector=app.kubernetes.io/name=rlhf-reader", "-o", "name")


@pytest.fixture
def rlhf(team: Namespace, tmp_path: Path) -> Command:
    return Command(team.site.kubeconfig, team.name, tmp_path)


def forget_pods(team: Namespace) -> None:
    """Delete what the TTL deletes."""
    team.kubectl("delete", "jobs", "--selector=app.kubernetes.io/managed-by=rlhf-operator", "--cascade=foreground")
    until(lambda: not team.kubectl("get", "pods", "-o", "name"), "the pods are gone")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_job_is_looked_after_from_submit_to_pull(team: Namespace, rlhf: Command, tmp_path: Path) -> None:
    file = written(tmp_path, sft_only("beaver", nodes=2))
    following = rlhf.start("submit", file, "--wait")
    until(lambda: rlhf.run("logs", "beaver", "sft", "--output", "json").code == 0, "SFT has begun")
    live = rlhf.start("logs", "beaver", "sft", "--follow")
    out, err = live.communicate(timeout=900)
    assert live.returncode == 0, err
    _, progress = following.communicate(timeout=900)
    assert following.returncode == 0, progress + team.diagnosis()

    from_pod = rlhf.run("logs", "beaver", "sft", "--output", "json").json
    assert (from_pod["attempt"], from_pod["file"].startswith("pod/beaver-sft-")) == (0, True)
    assert out.splitlines()[-1] == from_pod["lines"][-1], "followed to its end"
    forget_pods(team)
    stored = rlhf.run("logs", "beaver", "sft", "--output", "json").json
    assert stored["file"].endswith("/sft/logs/a0/rank0.log")
    assert stored["lines"] and set(stored["lines"]) <= set(from_pod["lines"]), (
        "the pod showed the same, and its launcher"
    )
    assert rlhf.run("logs", "beaver", "sft", "--rank", "1").code == 0
    launcher = rlhf.run("logs", "beaver", "sft", "--rank", "launcher1")
    assert launcher.code == 0, launcher
    result = rlhf.run("logs", "beaver", "sft", "--rank", "7")
    assert (result.code, "there are: a0 launcher, a0 launcher1, a0 rank 0, a0 rank 1" in result.err) == (2, True), (
        result
    )

    result = rlhf.run("pull", "beaver")
    assert result.code == 0, result
    (report,) = (tmp_path / "beaver").glob("report/report.html")
    assert str(report) in result.out
    pulled = rlhf.run("pull", file, "--all", "--output", "json").json
    assert {stage: product["copied"] for stage, product in pulled["products"].items()} == {"sft": True, "report": False}
    for stage, product in pulled["products"].items():
        assert digests(tmp_path / "beaver" / stage) == digests(team.models / "all" / "products" / product["product"])
    assert (tmp_path / "beaver" / "_logs" / "sft" / "logs" / "a0" / "rank1.log").is_file()
    assert (tmp_path / "beaver" / "_logs" / "sft" / "metrics.jsonl").is_file()
    until(lambda: not team.kubectl(*READERS), "no reader is left")
    frees_space_as_documented(team, tmp_path)


def frees_space_as_documented(team: Namespace, folder: Path) -> None:
    """docs/clusters.md, "Space on the claim": of a job that is done its work goes, its products stay."""
    section = SPACE.search((ROOT / "docs" / "clusters.md").read_text())
    assert section is not None
    pod = section["pod"].replace("IMAGE  ", f"{team.site.images['trainerImage']}  ")
    (folder / "rlhf-gc.yaml").write_text(pod)
    for name in ("crds", "sdk"):
        (folder / name).symlink_to(ROOT / name)
    config = folder / "kubeconfig"
    config.write_text(team.site.kubeconfig.read_text())
    kubectl = str(program("kubectl"))
    switch = ("config", "set-context", "--current", f"--namespace={team.name}")
    subprocess.run([kubectl, f"--kubeconfig={config}", *switch], check=True, capture_output=True)
    storage = team.models / "all"
    for path in storage.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)  # its last minutes are long ago
    ended = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", section["commands"].replace("/rlhf/storage ", "/rlhf/storage/all ")],
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(kubectl).parent), os.environ["PATH"]]),
            "KUBECONFIG": str(config),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "run again with --yes" in ended.stdout and "freed 1 thing" in ended.stdout, ended.stdout
    assert list((storage / "work").glob("*-*")) == []
    assert {path.name.partition("-")[0] for path in (storage / "products").iterdir()} >= {"sft", "report"}


def test_a_claim_is_filled_as_documented(team: Namespace, tmp_path: Path) -> None:
    section = FILLING.search((ROOT / "docs" / "clusters.md").read_text())
    assert section is not None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    shutil.rmtree(team.data / "model")
    trainer, _, digest = team.site.images["trainerImage"].partition("@")
    ended = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "".join(re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S))],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(program("kubectl").parent), os.environ["PATH"]]),
            "KUBECONFIG": str(team.site.kubeconfig),
            "NAMESPACE": team.name,
            "HF_TOKEN": "a token",
            "TRAINER": trainer,
            "TRAINER_DIGEST": digest,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "/data/prompts.jsonl" in ended.stdout and "/data/model/config.json" in ended.stdout
    assert (team.data / "prompts.jsonl").stat().st_uid == 10001, "the user of our images"
    assert (team.data / "model" / "config.json").read_text() == "{}"
    assert team.kubectl("get", "secret", "hub", "-o", "jsonpath={.data.HF_TOKEN}") == "YSB0b2tlbg=="


def test_the_claim_is_read_while_the_job_holds_it_for_its_node(team: Namespace, rlhf: Command, tmp_path: Path) -> None:
    rlhf.run("submit", written(tmp_path, sft_only("long", steps=100_000)))
    team.until("long", lambda status: _step(status) > 0, "SFT is under way")
    result = rlhf.run("logs", "long", "sft", "--stored", "--tail", "1")
    assert (result.code, len(result.out.splitlines())) == (0, 1), result
    result = rlhf.run("pull", "long", "sft")
    assert (result.code, "sft: has no product yet (Running)" in result.err) == (1, True)
    following = rlhf.start("logs", "long", "sft", "--stored", "--follow")
    assert following.stdout is not None and following.stdout.readline()
    result = rlhf.run("suspend", "long", "--wait")
    assert (result.code, "sft saves a checkpoint and ends" in result.out) == (0, True), result
    rest, err = following.communicate(timeout=PATIENCE)
    assert following.returncode == 0, err
    assert "Stopped" in rest, "it is followed to its last line"
    assert team.status("long")["phase"] == "Suspended"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_broken_off_it_leaves_no_pod_and_nothing_half(
    team: Namespace, rlhf: Command, tmp_path: Path, number: int
) -> None:
    job = sft_only("beaver")
    assert rlhf.run("submit", written(tmp_path, job), "--wait").code == 0
    (product,) = (team.models / "all" / "products").glob("sft-*")
    process = rlhf.start("pull", "beaver", "sft")
    until(lambda: any((tmp_path / "beaver").glob(".pull-*")) or process.poll() is not None, "it copies")
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    until(lambda: not team.kubectl(*READERS), "no reader is left")
    remaining = [entry.name for entry in (tmp_path / "beaver").iterdir()]
    assert remaining in ([], ["sft"]), "whole, where the signal came too late, or not at all"
    assert not remaining or (tmp_path / "beaver" / "sft" / MANIFEST).read_bytes() == (product / MANIFEST).read_bytes()


def test_a_damaged_product_is_not_taken(team: Namespace, rlhf: Command, tmp_path: Path) -> None:
    assert rlhf.run("submit", written(tmp_path, sft_only("beaver")), "--wait").code == 0
    (weights,) = (team.models / "all" / "products").glob("sft-*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = rlhf.run("pull", "beaver", "sft")
    assert (result.code, "model.safetensors was changed" in result.err) == (1, True)
    assert list((tmp_path / "beaver").iterdir()) == []


def test_a_reader_that_nobody_reads_ends_by_itself(team: Namespace, rlhf: Command, tmp_path: Path) -> None:
    assert rlhf.run("submit", written(tmp_path, sft_only("beaver")), "--wait").code == 0
    job = ClusterJob.of(team.site.get("rlhfjob", "beaver", team.name))
    pod = reader_pod.manifest(job, "idle", None)
    (container,) = pod["spec"]["containers"]
    for was, now in ((f"< {reader_pod.IDLE_SECONDS}", "< 10"), ("monotonic()\nwhile", "monotonic() + 600\nwhile")):
        assert was in container["command"][-1]  # the first reader may be slow to come
        container["command"][-1] = container["command"][-1].replace(was, now)
    team.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    team.kubectl("wait", "--for=condition=Ready", "pod/idle", "--timeout=300s")
    team.kubectl("exec", "idle", "--", "python", "-c", "import time; time.sleep(20)")  # read, it goes on
    until(lambda: _phase(team) == "Succeeded", "it ends")
    (container_status,) = team.site.get("pod", "idle", team.name)["status"]["containerStatuses"]
    began, ended = (
        datetime.fromisoformat(container_status["state"]["terminated"][when]) for when in ("startedAt", "finishedAt")
    )
    assert 20 <= (ended - began).total_seconds() < 600, "ten seconds after it was read"


def _phase(team: Namespace) -> str:
    return str(team.site.get("pod", "idle", team.name)["status"]["phase"])


def _step(status: Object) -> int:
    sft = next((stage for stage in status.get("stages", []) if stage["name"] == "sft"), {})
    return int((sft.get("progress") or {}).get("step") or 0)
