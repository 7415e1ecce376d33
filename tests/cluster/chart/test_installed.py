"""The chart on a real API server: every object is taken, rights are what is needed, the CRD outlives the release."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.chart.helm import CHART, NAMESPACE, helm, objects, parse, template, values
from cluster.chart.monitoring import monitoring_crds
from cluster.control_plane import ControlPlane
from cluster.processes import wait
from cluster.sessions import new_folder

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:rlhf-operator"


def prepared(plane: ControlPlane) -> ControlPlane:
    """Give it the namespaces that cases name, and the Prometheus operator's CRDs."""
    plane.start()
    for namespace in (NAMESPACE, "team-a", "team-b"):
        plane.kubectl("create", "namespace", namespace)
    plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    for crd in monitoring_crds():
        plane.kubectl("apply", "--server-side", "-f", str(crd))
    plane.serve_all()
    return plane


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server of this module's own: its tests take the CRD away."""
    plane = ControlPlane(new_folder())
    yield prepared(plane)
    plane.remove()


@pytest.fixture(scope="module")
def controlled() -> Iterator[ControlPlane]:
    """The same with controllers, and with a release."""
    plane = ControlPlane(new_folder(), controllers=True)
    install(prepared(plane))
    yield plane
    plane.remove()


def answered(ended: subprocess.CompletedProcess[str]) -> str:
    """What helm printed; fails with its words."""
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def install(plane: ControlPlane, *arguments: str, case: str = "default") -> str:
    """Install or upgrade the release, not waiting for pods that no node here runs."""
    command = ["upgrade", "--install", "rlhf-operator", str(CHART), "--namespace", NAMESPACE]
    return answered(helm(*command, "--values", str(values(case)), *arguments, kubeconfig=plane.kubeconfig))


@pytest.fixture
def release(plane: ControlPlane) -> Iterator[ControlPlane]:
    """Gone after the test, with the CRD."""
    yield plane
    helm("uninstall", "rlhf-operator", "--namespace", NAMESPACE, "--ignore-not-found", kubeconfig=plane.kubeconfig)
    plane.kubectl("delete", "crd", "rlhfjobs.rlhf.dev", "--ignore-not-found")


@pytest.mark.parametrize("case", ["default", "full", "minimal"])
def test_the_api_server_takes_every_object(plane: ControlPlane, tmp_path: Path, case: str) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(template(case))
    applied = plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-o", "name", "-f", str(file))
    )
    assert len(applied.splitlines()) == len(objects(file.read_text()))


def can(plane: ControlPlane, *what: str, account: str = ACCOUNT) -> bool:
    """Whether an account may do something; `pods:log` is the subresource, `pods/log` would be a pod of that name."""
    words = [part for word in what for part in _parts(word)]
    command = ["auth", "can-i", *words, f"--as={account}"]
    try:
        return plane.kubectl(*command).strip() == "yes"
    except subprocess.CalledProcessError as refused:
        assert refused.stdout.strip().startswith("no"), refused.stderr
        return False


def soon_can(plane: ControlPlane, *what: str) -> bool:
    """Whether the operator may: the API server's authorizer hears of a new role a moment later."""
    return wait(lambda: can(plane, *what), 60)


def _parts(word: str) -> list[str]:
    resource, colon, part = word.partition(":")
    return [resource, f"--subresource={part}"] if colon else [word]


def test_its_pods_are_let_in_where_restricted_is_enforced(controlled: ControlPlane) -> None:
    def pods() -> int:
        return len(controlled.kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").splitlines())

    assert wait(lambda: pods() == 2, 60), controlled.kubectl("get", "replicasets", "-n", NAMESPACE, "-o", "yaml")


def test_it_may_do_what_it_does_and_no_more(release: ControlPlane) -> None:
    install(release)
    for verb, resource in (
        *((verb, "rlhfjobs.rlhf.dev") for verb in ("list", "watch", "delete")),
        *((verb, "jobs.batch") for verb in ("list", "watch", "create", "delete")),
        *((verb, "services") for verb in ("create", "delete")),
        ("patch", "rlhfjobs.rlhf.dev:status"),
        ("watch", "pods"),
        *((verb, "events.events.k8s.io") for verb in ("create", "list")),
    ):
        assert soon_can(release, verb, resource, "--all-namespaces"), f"{verb} {resource}"
    for verb, resource in (
        *((verb, "secrets") for verb in ("get", "list")),
        *((verb, "rlhfjobs.rlhf.dev") for verb in ("create", "update", "patch")),
        ("get", "pods:log"),
        ("create", "pods:exec"),
        ("create", "pods"),
        *((verb, "configmaps") for verb in ("get", "create")),
        ("patch", "jobs.batch"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
    ):
        assert not can(release, verb, resource, "-n", "team-a"), f"{verb} {resource}"
    assert can(release, "patch", "leases.coordination.k8s.io/rlhf-operator", "-n", NAMESPACE)
    assert not can(release, "patch", "leases.coordination.k8s.io/another", "-n", NAMESPACE)


def test_with_namespaces_it_sees_no_other(release: ControlPlane) -> None:
    install(release, "--set", "namespaces={team-a}")
    assert soon_can(release, "list", "rlhfjobs.rlhf.dev", "-n", "team-a")
    assert not can(release, "list", "rlhfjobs.rlhf.dev", "-n", "team-b")
    assert not can(release, "list", "rlhfjobs.rlhf.dev", "--all-namespaces")


def test_a_deleted_namespace_fails_no_upgrade(controlled: ControlPlane) -> None:
    plane = controlled
    options = ("--namespace", "team-b", "--values", str(values("default")), "--set", "namespaces={team-b,soon-gone}")
    more = ("--set", "crds.enabled=false", "--set", "networkPolicy.jobs.enabled=true")
    plane.kubectl("create", "namespace", "soon-gone")
    answered(helm("install", "rlhf-operator", str(CHART), *options, *more, kubeconfig=plane.kubeconfig))
    plane.kubectl("delete", "namespace", "soon-gone")
    answered(helm("upgrade", "rlhf-operator", str(CHART), *options, *more, kubeconfig=plane.kubeconfig))
    roles = plane.kubectl("get", "roles", "-n", "team-b", "-o", "name").split()
    assert "role.rbac.authorization.k8s.io/rlhf-operator" in roles  # where it is left, it may do what it did


def test_people_get_rights_with_the_roles_they_have(controlled: ControlPlane) -> None:
    plane = controlled
    plane.kubectl("create", "rolebinding", "reader", "-n", "team-a", "--clusterrole=view", "--user=reader")
    plane.kubectl("create", "rolebinding", "writer", "-n", "team-a", "--clusterrole=edit", "--user=writer")
    assert wait(lambda: can(plane, "create", "rlhfjobs.rlhf.dev", "-n", "team-a", account="writer"), 60)
    assert wait(lambda: can(plane, "get", "rlhfjobs.rlhf.dev", "-n", "team-a", account="reader"), 60)
    assert not can(plane, "create", "rlhfjobs.rlhf.dev", "-n", "team-a", account="reader")
    assert not can(plane, "patch", "rlhfjobs.rlhf.dev:status", "-n", "team-a", account="writer")


def test_an_upgrade_upgrades_the_crd_and_uninstall_leaves_it_and_the_jobs(release: ControlPlane) -> None:
    install(release)
    release.serve_all()
    release.kubectl("apply", "-n", "team-a", "-f", "-", stdin=JOB)
    columns = ("patch", "crd", "rlhfjobs.rlhf.dev", "--type=json", "-p")
    release.kubectl(*columns, '[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}]')
    install(release, "--set", "replicaCount=1", "--force-conflicts")
    assert wait(lambda: "STAGE" in release.kubectl("get", "rlhfjobs", "-n", "team-a"), 60)
    answered(helm("uninstall", "rlhf-operator", "--namespace", NAMESPACE, kubeconfig=release.kubeconfig))
    assert release.kubectl("get", "rlhfjobs", "-n", "team-a", "-o", "name").strip() == "rlhfjob.rlhf.dev/first"
    install(release)  # finds the CRD that it left, and takes it on again


JOB = """\
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {name: first}
spec:
  storage: {claimName: models}
  inputs:
  - {name: base, source: "pvc://models/base"}
  - {name: chat, source: "pvc://models/chat.jsonl"}
  stages:
  - {name: sft, sft: {model: {input: base}, data: [{input: chat}]}}
"""


def test_the_notes_tell_the_next_command(release: ControlPlane) -> None:
    notes = install(release)
    assert "rollout status deployment/rlhf-operator" in notes
    assert "kubectl get rlhfjobs" in notes
    assert "trainerImage.digest is not set" in notes
    assert "docs/gitops.md" in notes
    assert "argocd-cm" not in notes
    assert "healthCheckExprs" not in notes


def test_the_notes_tell_the_health_checks_to_whoever_has_argo_cd_and_flux(release: ControlPlane) -> None:
    owners = (("argoproj.io", "v1alpha1", "Application"), ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization"))
    names = [f"{kind.lower()}s.{group}" for group, _, kind in owners]
    for group, version, kind in owners:
        words = {"group": group, "version": version, "kind": kind, "plural": f"{kind.lower()}s"}
        release.kubectl("apply", "-f", "-", stdin=CRD_OF_OTHERS % words)
    release.serve_all()
    assert wait(lambda: all(name in release.kubectl("api-resources", "-o", "name").split() for name in names), 60)
    notes = install(release)
    release.kubectl("delete", "crd", *names)
    assert textwrap.indent((CHART / "files" / "health" / "argocd.lua").read_text().strip(), " " * 6) in notes
    checks = parse((CHART / "files" / "health" / "flux.yaml").read_text())["spec"]["healthCheckExprs"]
    excerpt = notes[notes.index("  spec:\n    healthCheckExprs:") :]
    assert parse(textwrap.dedent(excerpt))["spec"]["healthCheckExprs"] == checks


CRD_OF_OTHERS = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %(plural)s.%(group)s
spec:
  group: %(group)s
  scope: Namespaced
  names: {kind: %(kind)s, plural: %(plural)s}
  versions:
  - name: %(version)s
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
