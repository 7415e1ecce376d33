"""The corpus of specs at the API server, and what passes it there at the operator: the same verdict, with the same path."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from cluster.control_plane import ControlPlane
from cluster.operator.ground import fresh, ground
from corpus.cases import FOLDER, BadSpec, bad_specs, good_specs
from rlhf_api.yaml import load_yaml
from rlhf_operator.runtime.kinds import JOBS, Object

LATE = {
    "late-sft": {"ppo.policy", "evaluate.baseline", "rules.grader", "simulate.rlaif.judge", "evaluate.candidates"},
    "late-reward": {"rules.reward", "ppo.rewards", "ppo.guards.gold", "ppo.critics.model"},
    "late-cost": {"ppo.costs", "evaluate.costs", "simulate.redTeam.costs"},
    "late-pairs": {"sft.data", "rewardModel.test", "evaluate.prompts"},
    "late-completions": {"rules.completions", "rules.gold"},
    "late-rules": {"ppo.rules", "evaluate.rules"},
}
"""Stages at the end of references.yaml, with some fields that they would fit."""
DROPPED = {"null-seed", "null-run-policy", "affinity-null"}
"""A null that the command refuses: an API server drops it, and takes what is left."""


def value(text: str) -> Any:
    """What a text says, as a client would send it; None: its YAML is refused before anything is sent."""
    document = load_yaml(text.encode())
    return None if document.problems else document.value


def sent(text: str, name: str) -> Object | None:
    """The job under a name of its own, in no namespace yet; None: it is not sent, or its metadata is what is wrong."""
    loaded = value(text)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("spec"), dict):
        return None
    return {"apiVersion": loaded.get("apiVersion"), "kind": loaded.get("kind"), "metadata": {"name": name}} | {
        "spec": loaded["spec"]
    }


def of_the_spec(case: BadSpec) -> Object | None:
    """A case that is wrong within its spec."""
    return sent(case.text, case.id) if case.path.startswith("spec.") else None


def refusal(plane: ControlPlane, namespace: str, job: Object) -> str:
    """What the API server says of a job, asked as kubectl asks (unknown fields are wrong); empty: it would take it."""
    where = f"/apis/rlhf.dev/v1alpha1/namespaces/{namespace}/rlhfjobs?dryRun=All&fieldValidation=Strict"
    headers = {"Authorization": f"Bearer {plane.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(plane.url + where, json.dumps(job).encode(), headers)
    context = ssl.create_default_context(cafile=str(plane.pki / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=60, context=context):
            return ""
    except urllib.error.HTTPError as error:
        assert error.code in (400, 422), error
        return str(json.loads(error.read())["message"])


def test_the_api_server_refuses_what_its_schema_and_rules_reach(shared_plane: ControlPlane) -> None:
    namespace = asyncio.run(fresh(shared_plane))
    refusals = {
        case: refusal(shared_plane, namespace, body) for case in bad_specs() if (body := of_the_spec(case)) is not None
    }
    assert len(refusals) > 200
    unseen = {case.id for case in refusals if case.unseen}
    assert {case.id for case, message in refusals.items() if not message} == unseen | DROPPED


def test_the_api_server_names_the_reference_that_does_not_fit(shared_plane: ControlPlane) -> None:
    """All references are one rule; what it says is of the one that is broken."""
    namespace = asyncio.run(fresh(shared_plane))
    body = sent((FOLDER / "references.yaml").read_text(), "references")
    assert body is not None
    assert refusal(shared_plane, namespace, body) == ""
    fields = [name for name, _ in references(body)]
    assert len(fields) == len(set(fields)) > 30
    for name, reference in references(body):
        before = dict(reference)
        for key in ("input", "stage"):
            reference.pop(key, None)
        for broken, words in faults(name):
            reference.update(broken)
            assert f"{name}: {words}" in refusal(shared_plane, namespace, body), (name, broken)
            for key in broken:
                del reference[key]
        reference.update(before)
    assert refusal(shared_plane, namespace, body) == ""


def references(body: Object) -> list[tuple[str, Object]]:
    """Every reference of a job of which no field stands twice, by the field's name."""

    def below(node: Any, path: str) -> Iterator[tuple[str, Object]]:
        if isinstance(node, list):
            node = {"": node[0]} if node and isinstance(node[0], dict) else {}
        if not isinstance(node, dict):
            return
        if "input" in node or "stage" in node:
            yield path, node
        for key, inner in node.items():
            yield from below(inner, f"{path}.{key}" if key else path)

    early = [stage for stage in body["spec"]["stages"] if not stage["name"].startswith("late-")]
    return list(dict(entry for stage in early for kind in stage for entry in below(stage[kind], kind)).items())


def faults(name: str) -> list[tuple[Object, str]]:
    """What a reference of a field may be, and the words of what is wrong with it."""
    data = name.endswith((".data", ".test", ".prompts", ".completions", ".gold")) and name != "ppo.guards.gold"
    misfit = "names no stage of this job that fits"
    cases: list[tuple[Object, str]] = [
        ({"stage": "nobody"}, f"{misfit} (simulate)" if data else misfit),
        ({"stage": "evaluate"}, misfit),
        ({"input": "nothing"}, "names no input of this job"),
    ]
    late = [stage for stage, fields in LATE.items() if name in fields]
    cases += [({"stage": stage}, "stages refer to earlier stages only") for stage in late]
    if data:
        cases.append(({"input": "rows", "split": "heldout"}, "split heldout of an input that holds no rows out"))
    if name in ("sft.data", "ppo.prompts", "evaluate.prompts"):
        cases.append(({"stage": "rlaif", "split": "heldout"}, "split heldout of a stage, which holds no rows out"))
    return cases


def largest_job() -> Object:
    """As many stages and references as there may be, each as dear to look up as any."""
    most, inputs = 32, [{"input": "model"}]
    makers: list[Object] = [
        {"name": f"policy-{'p' * 30}", "sft": {"model": inputs[0], "data": inputs}},
        {"name": f"reward-{'r' * 30}", "rewardModel": {"model": inputs[0], "data": inputs}},
        {"name": f"cost-{'c' * 30}", "costModel": {"model": inputs[0], "data": inputs}},
        {"name": f"rows-{'d' * 30}", "simulate": {"model": inputs[0], "prompts": inputs, "rlaif": {}}},
    ]
    policy, reward, cost, rows = ({"stage": maker["name"]} for maker in makers)
    ppo = {
        "policy": policy,
        "reference": policy,
        "rewards": [{**reward, "name": f"reward-{index}"} for index in range(most)],
        "costs": [{**cost, "limit": 0}] * most,
        "prompts": [rows] * most,
        "ptx": {"data": [rows] * most},
    }
    trained = [{"name": f"ppo-{index}-{'t' * 30}", "ppo": dict(ppo)} for index in range(most - len(makers))]
    spec = {"inputs": [{"name": "model", "source": "hf://org/model@1"}], "stages": makers + trained}
    return {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "largest"}, "spec": spec}


def test_the_largest_job_is_within_what_rules_and_messages_may_cost(shared_plane: ControlPlane) -> None:
    namespace = asyncio.run(fresh(shared_plane))
    body = largest_job()
    assert refusal(shared_plane, namespace, body) == ""
    body["spec"]["stages"][-1]["ppo"]["prompts"] = [{"input": "nothing"}]
    assert "ppo.prompts: names no input of this job" in refusal(shared_plane, namespace, body)


def test_the_api_server_takes_every_good_spec(shared_plane: ControlPlane) -> None:
    namespace = asyncio.run(fresh(shared_plane))
    for name, text in good_specs().items():
        body = sent(text, name)
        assert body is not None, name
        assert refusal(shared_plane, namespace, body) == "", name


def test_what_passes_the_api_server_is_refused_by_the_operator_with_the_same_path(
    controlled_plane: ControlPlane,
) -> None:
    async def main() -> None:
        async with ground(controlled_plane) as cluster, cluster.operator():
            unseen = {case.id: case for case in bad_specs() if case.unseen and of_the_spec(case) is not None}
            assert len(unseen) > 5
            for case in unseen.values():
                body = of_the_spec(case)
                assert body is not None
                await cluster.make(body)
            for case in unseen.values():
                status = await cluster.until(lambda current: "Stalled" in str(current.get("conditions")), case.id)
                assert status["phase"] == "Invalid", case.id
                (message,) = [item["message"] for item in status["conditions"] if item["type"] == "Stalled"]
                assert case.path in message, case.id
            assert [item async for page in cluster.api.pages(JOBS, cluster.namespace) for item in page.items] == []

    asyncio.run(main())
