"""What the chart renders, without a cluster."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from cluster.chart.helm import CASES, CHART, find, helm, objects, parse, refusal, template, values
from rlhf_api.base import ApiModel
from rlhf_api.pods import Pod
from rlhf_operator.config import Config, load
from rlhf_operator.reconcile import naming
from rlhf_operator.reconcile.settings import Profile, Settings, Tenancy, Timings

GOLDEN = Path(__file__).parent / "golden"
CRD = CHART.parents[1] / "crds" / "rlhf.dev_rlhfjobs.yaml"


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(case: str) -> None:
    ended = helm("lint", "--strict", str(CHART), "--values", str(values(case)))
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_is_what_was_reviewed(case: str) -> None:
    """RLHF_WRITE_GOLDEN=1 writes the files anew; their difference is then reviewed like code."""
    rendered = template(case, "--set", "crds.enabled=false")
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("RLHF_WRITE_GOLDEN"):
        file.write_text(rendered)
    assert rendered == file.read_text()


def test_the_crd_is_the_generated_one() -> None:
    assert (CHART / "files" / CRD.name).read_bytes() == CRD.read_bytes(), "run: make generate"
    crd = find(objects(template("default")), "CustomResourceDefinition", "rlhfjobs.rlhf.dev")
    assert crd["spec"] == parse(CRD.read_text())["spec"]


@pytest.mark.parametrize(("keep", "annotations"), [("true", {"helm.sh/resource-policy": "keep"}), ("false", None)])
def test_the_crd_is_kept_unless_told_otherwise(keep: str, annotations: dict[str, str] | None) -> None:
    rendered = objects(template("default", "--set", f"crds.keep={keep}"))
    crd = find(rendered, "CustomResourceDefinition", "rlhfjobs.rlhf.dev")
    assert crd["metadata"].get("annotations") == annotations


def test_without_the_crd_none_is_rendered() -> None:
    assert not [o for o in objects(template("minimal")) if o["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize("case", CASES)
def test_the_operator_can_read_its_configuration(case: str, tmp_path: Path) -> None:
    settings = configuration(case, tmp_path).settings
    assert "cpu" in settings.profiles
    assert settings.default_profile in settings.profiles


def test_limits_of_a_namespace_reach_the_operator(tmp_path: Path) -> None:
    config = configuration("full", tmp_path)
    assert config.watch == ["team-a", "team-b"]
    assert config.settings.tenancy_of("team-a") == Tenancy.model_validate(
        {"claims": ["models*"], "serviceAccounts": ["default"]}
    )
    assert config.settings.tenancy_of("team-b") == Tenancy(profiles=["cpu"], secrets=[])


@pytest.mark.parametrize(("name", "default"), [("fsGroup", 10001), ("pendingTimeout", 21600)])
def test_what_can_be_left_out_reaches_the_operator_as_none(name: str, default: int, tmp_path: Path) -> None:
    field = next(key for key, info in Settings.model_fields.items() if info.alias == name)
    assert getattr(configuration("default", tmp_path).settings, field) == default
    assert getattr(configuration("default", tmp_path, "--set", f"jobs.{name}=null").settings, field) is None


def configuration(case: str, folder: Path, *arguments: str) -> Config:
    """The operator's configuration, as it reads it."""
    file = folder / "config.yaml"
    file.write_text(find(objects(template(case, *arguments)), "ConfigMap")["data"]["config.yaml"])
    return load(file)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (Profile, ("$defs", "profile")),
        (Tenancy, ("$defs", "tenancy")),
        (Pod, ("$defs", "profile", "properties", "pod")),
        (Timings, ("properties", "jobs", "properties", "timings")),
    ],
)
def test_the_schema_of_values_knows_the_fields_that_the_operator_reads(
    model: type[ApiModel], path: tuple[str, ...]
) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for part in path:
        schema = schema[part]
    read = {field.alias or name for name, field in model.model_fields.items()}
    properties = set(schema["properties"])
    assert properties <= read
    assert read - properties <= {"explainAfter"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("replicas=3", "replicas"),
        ("profiles.cpu.gpus=1", "gpus"),
        ("image.digest=latest", "digest"),
        ("tenancy.namespaces.team-a.profile=cpu", "profile"),
        ("jobs.metricsPort=80", "metricsPort"),
        ("operator.logLevel=loud", "logLevel"),
        ("defaultProfile=nonesuch", "defaultProfile: found nonesuch; expected one of the profiles: cpu"),
        ("jobs.fsGroup=0", "fsGroup"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, message: str) -> None:
    assert message in refusal("default", "--set", setting)


def test_policies_of_trainers_need_their_namespaces() -> None:
    assert "needs `namespaces`" in refusal("default", "--set", "networkPolicy.jobs.enabled=true")


def test_an_operator_of_all_namespaces_can_give_its_policies_to_one() -> None:
    """As the chart's README says."""
    where = ("--set", "namespaces={team-a}", "--set", "networkPolicy.jobs.enabled=true")
    rendered = objects(template("default", "--show-only", "templates/networkpolicy.yaml", *where))
    assert [(o["kind"], o["metadata"]["namespace"]) for o in rendered] == [("NetworkPolicy", "team-a")] * 2


def test_an_image_goes_by_its_digest(tmp_path: Path) -> None:
    rendered = objects(template("full"))
    container = find(rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert re.fullmatch(r"rlhf-operator@sha256:1{64}", container["image"])
    assert configuration("full", tmp_path).settings.image == f"images/rlhf-trainer@sha256:{'2' * 64}"


def test_with_namespaces_there_are_roles_there_and_no_cluster_role_for_the_operator() -> None:
    rendered = objects(template("full"))
    assert {o["metadata"]["namespace"] for o in rendered if o["kind"] == "Role"} == {"team-a", "team-b", "rlhf-system"}
    names = {o["metadata"]["name"] for o in rendered if o["kind"] == "ClusterRole"}
    assert names == {"rlhf-system-rlhf-operator-view", "rlhf-system-rlhf-operator-edit"}
    assert not [o for o in rendered if o["kind"] == "ClusterRoleBinding"]


def test_the_operator_may_do_the_same_in_a_namespace_as_everywhere() -> None:
    everywhere = find(
        objects(template("default", "--set", "kueue.enabled=true")), "ClusterRole", "rlhf-system-rlhf-operator"
    )["rules"]
    roles = [o for o in objects(template("full")) if o["kind"] == "Role" and o["metadata"]["name"] == "rlhf-operator"]
    assert [role["rules"] for role in roles] == [everywhere, everywhere]


def test_the_operator_reads_no_secret_no_log_and_runs_nothing_in_pods() -> None:
    rules = find(objects(template("default")), "ClusterRole", "rlhf-system-rlhf-operator")["rules"]
    resources = {resource for rule in rules for resource in rule["resources"]}
    assert not resources & {"secrets", "pods/log", "pods/exec", "*"}
    assert not any(
        "*" in rule["verbs"] or "update" in rule["verbs"] for rule in rules if "/" not in rule["resources"][0]
    )


def test_another_configuration_makes_other_pods() -> None:
    def digest(*arguments: str) -> str:
        pods = find(objects(template("default", *arguments)), "Deployment")["spec"]["template"]
        return str(pods["metadata"]["annotations"]["rlhf.dev/config-digest"])

    assert digest() == digest()
    assert digest() != digest("--set", "jobs.maxDisruptions=2")


def matches(selector: dict[str, object], labels: dict[str, str]) -> bool:
    """Whether a label selector means an object with these labels."""
    match_labels = selector.get("matchLabels") or {}
    assert isinstance(match_labels, dict)
    if any(labels.get(key) != value for key, value in match_labels.items()):
        return False
    expressions = selector.get("matchExpressions") or []
    assert isinstance(expressions, list)
    return all(
        (e["key"] in labels) if e["operator"] == "Exists" else labels.get(e["key"]) not in e["values"]
        for e in expressions
    )


def test_network_policies_mean_the_pods_they_are_for() -> None:
    rendered = objects(template("full"))
    operator = find(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    sft, prepare = (naming.labels("beaver", "uid", stage, 0) for stage in ("sft", "prepare"))
    by_name = {o["metadata"]["name"]: o["spec"]["podSelector"] for o in rendered if o["kind"] == "NetworkPolicy"}
    means = {name: [matches(s, labels) for labels in (operator, sft, prepare)] for name, s in by_name.items()}
    assert means == {
        "rlhf-operator": [True, False, False],
        "rlhf-operator-trainers": [False, True, True],
        "rlhf-operator-offline": [False, True, False],
    }


def test_the_budget_and_the_services_select_the_operators_pods_and_no_trainers() -> None:
    rendered = objects(template("full"))
    operator = find(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    trainer = naming.labels("beaver", "uid", "sft", 0)
    for selector in (
        find(rendered, "Deployment")["spec"]["selector"],
        find(rendered, "PodDisruptionBudget")["spec"]["selector"],
        {"matchLabels": find(rendered, "Service", "rlhf-operator-metrics")["spec"]["selector"]},
    ):
        assert matches(selector, operator)
        assert not matches(selector, trainer)


def test_monitors_find_what_they_scrape() -> None:
    rendered = objects(template("full"))
    service = find(rendered, "Service", "rlhf-operator-metrics")
    monitor = find(rendered, "ServiceMonitor")
    assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    pods = find(rendered, "PodMonitor", "rlhf-operator-trainers")["spec"]
    assert matches(pods["selector"], naming.labels("beaver", "uid", "sft", 0))
    assert pods["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}
