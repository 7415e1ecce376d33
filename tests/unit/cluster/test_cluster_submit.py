"""What is right on this machine alone is said before a job is sent to a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fakes.command import rlhf
from rlhf_sdk.cluster import submit
from rlhf_sdk.exits import CommandError

JOB = """\
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata:
  name: beaver
  {metadata}
spec:
  {storage}
  inputs:
  - {{name: base, source: "hf://org/base@1"}}
  - {{name: chat, source: {source}}}
  stages:
  - name: sft
    sft: {{model: {{input: base}}, data: [{{input: chat}}]}}
  - name: evaluate
    {pod}
    evaluate:
      candidates: [{{stage: sft}}]
      baseline: {{input: base}}
      prompts: [{{input: chat}}]
      rewards: [{{function: "judges:kind"}}]
      costs: [{{function: "pkg.judges:harm"}}]
"""
CLAIM = "storage: {claimName: models}"


def written(
    folder: Path, *, metadata: str = "", storage: str = CLAIM, source: str = "hf://datasets/org/chat@1", pod: str = ""
) -> Path:
    path = folder / "job.yaml"
    path.write_text(JOB.format(metadata=metadata, storage=storage, source=source, pod=pod))
    return path


def refused(path: Path, namespace: str | None = None) -> list[str]:
    with pytest.raises(CommandError) as caught:
        submit.read(path, namespace)
    assert caught.value.code == 2
    return str(caught.value).splitlines()


@pytest.mark.parametrize("source", ["data/chat.jsonl", "/data/chat.jsonl"])
def test_a_path_on_this_machine_is_refused_with_what_to_write_instead(tmp_path: Path, source: str) -> None:
    path = written(tmp_path, source=source)
    (line,) = refused(path)
    assert line.startswith(
        f"{path}:10:26: spec.inputs[1].source: found {source}, a path on this machine, which no pod sees"
    )
    assert all(scheme in line for scheme in ("pvc://CLAIM/PATH", "hf://", "s3://"))


def test_a_job_without_storage_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, storage="seed: 0")
    (line,) = refused(path)
    assert line.startswith(f"{path}:6:1: spec.storage: is missing")


def test_two_namespaces_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, metadata="namespace: team-b")
    (line,) = refused(path, "team-a")
    assert line.startswith(f"{path}:5:14: metadata.namespace: found team-b, but --namespace team-a")
    assert submit.read(path, "team-b")[0].metadata.name == "beaver"


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    assert len(refused(written(tmp_path, storage="seed: 0", source="a.jsonl", metadata="namespace: x"), "y")) == 3


def test_a_broken_file_is_refused_as_validate_refuses_it(tmp_path: Path) -> None:
    path = written(tmp_path, metadata="nmae: x", source="ftp://x/y")
    assert refused(path) == rlhf("validate", path).err.splitlines()
    result = rlhf("submit", path)
    assert (result.code, result.err.splitlines()) == (2, refused(path))


def test_functions_beside_the_job_are_not_forgotten_in_silence(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert _notes(path) == []
    (tmp_path / "judges.py").touch()
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "judges.py").touch()
    first, second = _notes(path)
    assert first.startswith(
        f"{path}:20:28: spec.stages[1].evaluate.rewards[0].function: judges.py beside the job is not"
    )
    assert "pkg/judges.py beside the job" in second
    pod = "pod: {volumes: [{name: f, configMap: {name: f}}], volumeMounts: [{name: f, mountPath: /rlhf/job}]}"
    assert _notes(written(tmp_path, pod=pod)) == []


def _notes(path: Path) -> list[str]:
    return list(submit.notes(*submit.read(path, None), path.parent))


def test_the_file_is_sent_as_it_was_written(tmp_path: Path) -> None:
    _, document = submit.read(written(tmp_path, storage=f"{CLAIM}\n  seed: 0"), None)
    assert submit.manifest(document, None) == document.value
    sent = submit.manifest(document, "team-a")
    assert sent["metadata"] == {"name": "beaver", "namespace": "team-a"}
    assert sent["spec"]["seed"] == 0, "what is the default but was written is sent: kubectl apply sends it too"


def test_the_readmes_job_at_scale_may_be_submitted_word_for_word(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (text,) = re.findall(r"```yaml\n(apiVersion: rlhf\.dev.*?)```", readme, re.DOTALL)
    path = tmp_path / "job.yaml"
    path.write_text(text)
    job, _ = submit.read(path, None)
    assert job.metadata.name == "beaver" and job.spec.storage is not None
    assert refused_fields(path, text.replace("storage:", "stores:")) == ["spec.stores"]


def refused_fields(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [line.split(": ")[1] for line in refused(path)][:1]
