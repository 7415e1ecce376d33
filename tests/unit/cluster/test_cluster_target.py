"""A run on this machine or a job on a cluster: told by the call, never guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes.command import rlhf
from rlhf_sdk.cli import app
from rlhf_sdk.cluster.jobs import named
from rlhf_sdk.cluster.kubectl import Away, Kubectl, NotFound, Refused, Target, refusal
from rlhf_sdk.exits import CommandError

NO_KUBECTL = "kubectl is not on the PATH"


@pytest.fixture(autouse=True)
def without_kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("flags", [("--cluster",), ("-n", "team-a"), ("--context", "prod"), ("--kubeconfig", "file")])
@pytest.mark.parametrize("command", [("status", "beaver"), ("status",), ("logs", "beaver", "sft")])
def test_flags_of_a_cluster_mean_a_cluster(command: tuple[str, ...], flags: tuple[str, ...]) -> None:
    result = rlhf(*command, *flags)
    assert (result.code, NO_KUBECTL in result.err) == (1, True)


@pytest.mark.parametrize("command", [("status", "beaver"), ("status",), ("logs", "beaver", "sft")])
def test_kubectls_plugin_means_a_cluster(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, command, obj="kubectl rlhf")
    assert (result.exit_code, NO_KUBECTL in result.stderr) == (1, True)


@pytest.mark.parametrize("command", ["submit", "suspend", "resume", "retry", "pull"])
def test_some_commands_are_of_clusters_alone(command: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "apiVersion: rlhf.dev/v1alpha1\nkind: RLHFJob\nmetadata: {name: beaver}\nspec:\n"
        "  storage: {claimName: models}\n  inputs: [{name: a, source: 'hf://o/a@1'}, {name: d, source: 'hf://datasets/o/d@1'}]\n"
        "  stages: [{name: sft, sft: {model: {input: a}, data: [{input: d}]}}]\n"
    )
    assert NO_KUBECTL in rlhf(command, job).err


def test_otherwise_this_machine_is_meant_and_the_error_says_how_to_mean_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = rlhf("status", "beaver")
    assert result.code == 2
    assert "a job on a cluster is meant with -n NAMESPACE, --context or --cluster, or as `kubectl rlhf`" in result.err


def test_both_at_once_is_refused(tmp_path: Path) -> None:
    result = rlhf("status", "beaver", "-n", "team-a", "--storage", tmp_path)
    assert result.code == 2
    assert result.err.startswith("--storage: it is of runs on this machine, but --namespace means a cluster")
    assert rlhf("logs", "beaver", "sft", "--stored").code == 2


def test_a_job_is_a_name_or_a_file_that_has_it(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("metadata: {name: beaver, namespace: team-b}")
    assert named("otter", Target()) == ("otter", Target())
    assert named("beaver.v2", Target()) == ("beaver.v2", Target()), "dots are fine in a name"
    assert named(str(path), Target()) == ("beaver", Target("team-b"))
    assert named(str(path), Target("team-a")) == ("beaver", Target("team-a"))
    with pytest.raises(CommandError, match="cannot be read"):
        named(str(tmp_path / "gone.yaml"), Target())


def test_the_next_command_is_about_the_same_place() -> None:
    target = Target(None, "prod", Path("/k"), "kubectl rlhf").within("team-a")
    assert target.command("status", "beaver") == "kubectl rlhf status beaver -n team-a --context prod --kubeconfig /k"
    assert target.flags == ["--kubeconfig=/k", "--context=prod", "--namespace=team-a"]


def test_kubectl_calls_it_by_its_own_name(tmp_path: Path) -> None:
    plugin = tmp_path / "kubectl-rlhf"
    plugin.write_text(f"#!{sys.executable}\nfrom rlhf_sdk.cli import main\nmain()\n")
    plugin.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([plugin, "status"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, NO_KUBECTL in done.stderr) == (1, True)
    done = subprocess.run([plugin, "status", "-h"], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.startswith("Usage: kubectl rlhf status ")


@pytest.mark.parametrize(
    ("stderr", "kind", "code"),
    [
        ('Error from server (NotFound): rlhfjobs.rlhf.dev "x" not found', NotFound, 2),
        ("Unable to connect to the server: dial tcp: connection refused", Away, 1),
        ("Error from server (InternalError): an error on the server", Away, 1),
        ('Error from server (Forbidden): rlhfjobs.rlhf.dev "x" is forbidden', Refused, 1),
        ('The RLHFJob "x" is invalid: spec.seed: Invalid value', Refused, 2),
    ],
)
def test_what_kubectl_says_is_sorted_by_what_can_be_done(stderr: str, kind: type[Refused], code: int) -> None:
    error = refusal(stderr)
    assert (type(error), int(error.code), str(error)) == (kind, code, stderr)


def test_what_kubectls_library_logs_is_left_out() -> None:
    logged = 'E1122 10:12:39.222494   26095 memcache.go:265] "Unhandled Error" err="connection refused"'
    words = "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?"
    assert str(refusal(f"{logged}\n{logged}\n{words}\n")) == words
    assert str(refusal(logged)) == logged, "better than nothing"


@pytest.mark.parametrize(
    "stderr",
    [
        'error: the server doesn\'t have a resource type "rlhfjobs"',
        "Error from server (NotFound): the server could not find the requested resource",
        'error: resource mapping not found for name: "x": no matches for kind "RLHFJob" in version "rlhf.dev/v1alpha1"',
    ],
)
def test_a_cluster_without_the_operator_is_said(stderr: str) -> None:
    assert str(refusal(stderr)).startswith("this cluster has no RLHFJobs: the operator is not installed there")


def test_kubectl_is_a_process_never_a_shell(tmp_path: Path) -> None:
    (tmp_path / "kubectl").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "kubectl").chmod(0o755)
    arguments = Kubectl(Target("a; b")).json("get", "$(x)")
    assert arguments == ["--namespace=a; b", "get", "$(x)", "--output=json", "--request-timeout=30s"]


@pytest.mark.parametrize("output", ["<html>sign in</html>", '{"a": ', "[" * 200_000])
def test_what_kubectl_prints_instead_of_json_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "output").write_text(output)
    (tmp_path / "kubectl").write_text(f"#!{sys.executable}\nprint(open({str(tmp_path / 'output')!r}).read())\n")
    (tmp_path / "kubectl").chmod(0o755)
    with pytest.raises(Refused, match=r"kubectl get x: found output that cannot be read .*; expected JSON"):
        Kubectl(Target()).json("get", "x")


def test_a_login_that_waits_for_the_user_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = tmp_path / "answered"
    (tmp_path / "kubectl").write_text(
        f"#!{sys.executable}\nimport os, sys, time\n"
        "sys.stderr.write('open the browser and enter ABC\\n')\nsys.stderr.flush()\n"
        f"while not os.path.exists({str(answered)!r}): time.sleep(0.05)\n"
        "print(sys.stdin.read())\n"
    )
    (tmp_path / "kubectl").chmod(0o755)
    lines: list[str] = []

    def user(text: str) -> None:
        lines.append(text)
        answered.touch()

    monkeypatch.setattr("rlhf_sdk.cluster.kubectl.LOGIN_SECONDS", 0.2)
    monkeypatch.setattr("rlhf_sdk.cluster.kubectl.complain", user)
    assert Kubectl(Target()).json("get", "x", stdin=b'{"a": 1}') == {"a": 1}
    assert lines == ["open the browser and enter ABC"]
