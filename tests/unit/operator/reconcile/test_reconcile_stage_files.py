"""What stage.json says of a stage: all that the job says, and nothing that an older trainer would not know."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError, create_model

from corpus.cases import BASE
from fakes.cluster_model import Cluster, Raw, job, stage_file
from rlhf_api.base import ApiModel
from rlhf_api.job import RLHFJob
from rlhf_api.stage_file import StageFile
from rlhf_api.stages import SINGLE_PROCESS_STAGES, STAGE_TYPES
from rlhf_api.stages.sft import Sft
from rlhf_api.yaml import load_yaml
from rlhf_operator.reconcile import Settings
from rlhf_operator.reconcile.plans import parse, resolve


def of_the_corpus() -> Raw:
    value: Raw = load_yaml(BASE.encode()).value
    return value | {"metadata": {"name": "beaver", "namespace": "team", "uid": "uid-1", "generation": 1}}


def kind_of(file: Raw) -> type[ApiModel]:
    return RLHFJob if file["type"] in SINGLE_PROCESS_STAGES else STAGE_TYPES[file["type"]].spec


def written(value: Raw) -> tuple[Cluster, list[Raw]]:
    """The cluster at the job's end, and every stage.json."""
    cluster = Cluster(
        value,
        Settings.model_validate(
            {"image": "t:1", "profiles": {"default": {}, "h100x8": {}}, "defaultProfile": "default"}
        ),
    )
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    return cluster, [stage_file(obj) for obj in cluster.asked if obj["kind"] == "Job"]


@pytest.mark.parametrize("value", [job(nodes=2), of_the_corpus()], ids=["small", "corpus"])
def test_it_says_what_the_plan_says_and_no_default(value: Raw) -> None:
    cluster, files = written(value)
    plan, _ = resolve(parse(cluster.job), cluster.status["resolved"])
    assert [file["stage"] for file in files] == [stage.name for stage in plan.stages]
    for file, stage in zip(files, plan.stages, strict=True):
        assert file == StageFile.model_validate(file).model_dump(mode="json", exclude_defaults=True)
        spec = kind_of(file).model_validate_json(json.dumps(file["spec"]))
        assert file["spec"] == spec.model_dump(mode="json", exclude_defaults=True)
        written_out = json.loads(json.dumps(stage.spec))
        if kind_of(file) is RLHFJob:
            written_out["spec"].pop("runPolicy")  # no trainer reads it, and it may grow while the job runs
        planned = kind_of(file).model_validate_json(json.dumps(written_out))
        assert spec == planned
        assert (file["digest"], file["seed"]) == (stage.digest or file["digest"], stage.seed)


def test_a_trainer_that_lacks_a_field_reads_what_is_written_where_the_job_does_not_set_it() -> None:
    """As the trainer of a job does that began before the operator was upgraded to know the field."""
    _, files = written(job())
    (spec,) = [file["spec"] for file in files if file["stage"] == "sft"]
    optional = [name for name, field in Sft.model_fields.items() if not field.is_required()]
    assert len(optional) > 5
    for lacking in optional:
        fields = {name: (field.annotation, field) for name, field in Sft.model_fields.items() if name != lacking}
        older = create_model("Older", __base__=ApiModel, **fields)  # type: ignore[call-overload]  # pydantic's own idiom
        older.model_validate_json(json.dumps(spec))
        with pytest.raises(ValidationError, match="Extra inputs"):
            older.model_validate_json(Sft.model_validate_json(json.dumps(spec)).model_dump_json())


def test_what_a_running_jobs_policy_grows_to_is_in_no_stage_file() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if pod["metadata"]["labels"]["rlhf.dev/stage"] == "sft" else 0)
    annotations = {f"team.example/{number}": "x" * 1000 for number in range(60)}
    cluster.edit(runPolicy={"overrides": [{"stage": "cost", "pod": {"annotations": annotations}}]})
    cluster.settle()
    (report,) = [child for child in cluster.asked if child["kind"] == "Job" and "-report-" in child["metadata"]["name"]]
    assert len(json.dumps(stage_file(report))) < 8192


def test_a_job_that_is_too_large_for_its_stages_is_refused_in_words() -> None:
    policy = {"model": {"input": "base"}, "data": [{"input": "rows"}]}
    annotations = {f"team.example/{number}": "x" * 1000 for number in range(4)}
    stages = [{"name": f"s{number}", "sft": policy, "pod": {"annotations": annotations}} for number in range(20)]
    cluster = Cluster(job(stages=stages))
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidSpec"
    (message,) = [stalled["message"] for stalled in cluster.status["conditions"] if stalled["type"] == "Stalled"]
    assert "expected at most 65536" in message
    assert not cluster.ever
