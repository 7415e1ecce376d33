"""The pods of a stage: `restricted`, whatever the job asks for; credentials in prepare alone."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient

from fakes.cluster_model import SETTINGS, Cluster, Raw, job, stage_file
from rlhf_api.stage_file import StageFile
from rlhf_operator.reconcile import naming

STAGES = ("prepare", "sft", "reward", "cost", "report")


def finished_jobs(**spec: Any) -> dict[str, Raw]:
    """All Jobs of a job, by stage."""
    cluster = Cluster(job(**spec))
    cluster.settle()
    return {job_object["metadata"]["labels"]["rlhf.dev/stage"]: job_object for job_object in cluster.all("Job")}


def pod(job_object: Raw) -> Raw:
    spec: Raw = job_object["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("stage", STAGES)
def test_every_pod_keeps_to_the_restricted_standard(stage: str) -> None:
    """Field by field, as the Pod Security Standard lists them."""
    spec = pod(finished_jobs()[stage])
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {"downwardAPI", "emptyDir", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert not {"privileged", "procMount", "runAsUser"} & set(context)
    assert all("hostPort" not in port for port in container["ports"])
    assert spec["automountServiceAccountToken"] is False


def test_credentials_and_claims_of_inputs_reach_prepare_alone() -> None:
    jobs = finished_jobs(credentials={"secretName": "hf-token"})
    for stage, job_object in jobs.items():
        text = json.dumps(pod(job_object))
        assert ("hf-token" in text) == (stage == "prepare")
        assert ('"claimName": "data"' in text) == (stage == "prepare")
        environment = {variable["name"]: variable["value"] for variable in pod(job_object)["containers"][0]["env"]}
        assert environment.get("HF_HUB_OFFLINE") == (None if stage == "prepare" else "1")
        assert ("RLHF_CLAIMS" in environment) == (stage == "prepare")


def test_a_judge_s_token_reaches_its_own_stage_alone() -> None:
    url = {"base": "https://judge.example.com/v1", "model": "judge", "tokenKey": "JUDGE_API_KEY"}
    judge = {"name": "far", "asks": "pairs", "url": url}
    stages = [
        {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "rows"}]}},
        {
            "name": "evaluate",
            "evaluate": {
                "candidates": [{"stage": "sft"}],
                "baseline": {"input": "base"},
                "prompts": [{"input": "rows"}],
                "judges": [judge],
            },
        },
    ]
    inputs = [{"name": name, "source": f"pvc://data/{name}"} for name in ("base", "rows")]
    jobs = finished_jobs(credentials={"secretName": "tokens"}, inputs=inputs, stages=stages, runPolicy={})
    variable = {
        "name": "JUDGE_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "JUDGE_API_KEY"}},
    }
    for stage in ("sft", "evaluate"):
        (container,) = pod(jobs[stage])["containers"]
        assert (variable in container["env"]) == (stage == "evaluate") and "envFrom" not in container
        assert ("tokens" in json.dumps(container)) == (stage == "evaluate")


def test_a_stage_that_is_done_frees_its_checkpoints_unless_all_is_kept() -> None:
    for keep, expected in (("products", "1"), ("finished", "1"), ("everything", None)):
        (container,) = pod(finished_jobs(runPolicy={"keep": keep})["sft"])["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert environment.get("RLHF_FREE_WORK") == expected


def test_the_grace_period_is_longer_than_what_the_ranks_are_given() -> None:
    spec = pod(finished_jobs()["sft"])
    environment = {variable["name"]: variable["value"] for variable in spec["containers"][0]["env"]}
    assert spec["terminationGracePeriodSeconds"] > int(environment["RLHF_GRACE_SECONDS"])


def test_what_the_trainer_writes_to_exists_though_the_root_is_read_only() -> None:
    mounts = {
        mount["mountPath"]: mount["name"] for mount in pod(finished_jobs()["sft"])["containers"][0]["volumeMounts"]
    }
    volumes = {volume["name"]: volume for volume in pod(finished_jobs()["sft"])["volumes"]}
    assert volumes[mounts["/tmp"]]["emptyDir"] == {}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_the_stage_file_is_one_the_trainer_reads() -> None:
    cluster = Cluster(job(nodes=2))
    cluster.settle()
    for job_object in cluster.all("Job"):
        file = StageFile.model_validate(stage_file(job_object))
        name = job_object["metadata"]["name"]
        gang = file.stage in ("sft", "reward", "cost")
        assert file.nodes == (2 if gang else 1)
        assert file.master == (f"{name}-0.{name}:29500" if gang else None)
        assert file.directories.work == f"/rlhf/storage/work/uid-1/{file.stage}"
    assert len(cluster.all("Service")) == 3


def test_a_gang_finds_its_first_pod_by_a_name_before_it_is_ready() -> None:
    cluster = Cluster(job(nodes=2))
    cluster.settle()
    service = cluster.all("Service")[0]
    template = cluster.objects["Job", service["metadata"]["name"]]["spec"]["template"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert template["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()


def test_the_job_controller_never_replaces_a_pod_and_75_ends_nothing_by_policy() -> None:
    spec = finished_jobs()["sft"]["spec"]
    assert (spec["backoffLimit"], spec["completionMode"]) == (0, "Indexed")
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])


def test_labels_are_the_operators_own_and_never_what_gitops_tools_track_by() -> None:
    sft = finished_jobs()["sft"]
    labels = sft["spec"]["template"]["metadata"]["labels"]
    assert labels["rlhf.dev/job"] == "beaver"
    assert (labels["rlhf.dev/stage"], labels["rlhf.dev/attempt"]) == ("sft", "0")
    assert "app.kubernetes.io/instance" not in labels


def test_job_and_stage_refine_the_profiles_pods() -> None:
    pods = {"nodeSelector": {"pool": "gpu"}, "env": [{"name": "A", "value": "job"}, {"name": "B", "value": "job"}]}
    value = job(pod=pods)
    value["spec"]["stages"][0]["pod"] = {"env": [{"name": "A", "value": "stage"}], "tolerations": [{"key": "gpu"}]}
    cluster = Cluster(value)
    cluster.settle()
    spec = pod(
        next(
            job_object
            for job_object in cluster.all("Job")
            if job_object["metadata"]["labels"]["rlhf.dev/stage"] == "sft"
        )
    )
    environment = {variable["name"]: variable["value"] for variable in spec["containers"][0]["env"]}
    assert (environment["A"], environment["B"]) == ("stage", "job")
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"pool": "gpu"}, [{"key": "gpu"}])
    prepare = pod(next(job_object for job_object in cluster.all("Job") if "prepare" in job_object["metadata"]["name"]))
    assert "nodeSelector" not in prepare


def test_pods_that_share_a_read_write_once_claim_share_a_node() -> None:
    cluster = Cluster(job(nodes=2))
    cluster.objects["PersistentVolumeClaim", "models"] = {"spec": {"accessModes": ["ReadWriteOnce"]}}
    cluster.settle()
    spec = pod(next(job_object for job_object in cluster.all("Job") if "-sft-" in job_object["metadata"]["name"]))
    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"


def test_every_object_is_made_of_fields_that_kubernetes_has() -> None:
    """Read into the Kubernetes client's models and written again, nothing is lost."""
    pods = {
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "imagePullSecrets": ["p"],
        "serviceAccountName": "s",
        "runtimeClassName": "r",
        "priorityClassName": "q",
        "fsGroup": 5,
        "annotations": {"a": "b"},
        "env": [{"name": "A", "value": "B"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    template = {"accessModes": ["ReadWriteOnce"], "size": "1Gi", "storageClassName": "s", "deleteWithJob": True}
    value = job(nodes=2, credentials={"secretName": "x"}, storage={"claimTemplate": template}, pod=pods)
    cluster = Cluster(value)
    cluster.settle()
    assert {obj["kind"] for obj in cluster.asked} == {"Job", "Service", "PersistentVolumeClaim"}

    async def same() -> None:
        async with ApiClient() as client:
            for obj in cluster.asked:
                read = client.deserialize(json.dumps(obj), f"V1{obj['kind']}", "application/json")
                assert client.sanitize_for_serialization(read) == obj

    asyncio.run(same())


@pytest.mark.parametrize("name", ["7b.v2", "beaver", "a" * 253, "x.y-" + "z" * 60, "0"])
@pytest.mark.parametrize("stage", ["s", "stage-" + "x" * 34, "a-" * 9 + "ab-cd"])
def test_names_of_children_are_dns_1035_labels_whose_pods_hostnames_fit(name: str, stage: str) -> None:
    made_name = naming.child(name, "0c1d", stage, 1234)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made_name)
    assert len(f"{made_name}-1023") <= 63
    assert made_name != naming.child(name, "0c1e", stage, 1234)
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", naming.label(name))


def test_settings_of_the_tests_are_what_the_chart_would_write() -> None:
    assert SETTINGS.model_validate_json(SETTINGS.model_dump_json()) == SETTINGS
