"""The corpus of specs at the API server, and what passes it there at the operator: the same verdict, with the same path."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from cluster.control_plane import ControlPlane
from cluster.operator.ground import fresh, ground
from corpus.cases import BadSpec, bad_specs, good_specs
from rlhf_api.yaml import load_yaml
from rlhf_operator.runtime.kinds import JOBS, Object

DROPPED = {"null-seed", "null-run-policy", "affinity-null"}
"""A null that the command refuses: an API server drops it, and takes what is left."""


def value(text: str) -> Any:
    """What a text says, as a client would send it; None: its YAML is refused before anything is sent."""
    document = load_yaml(text.encode())
    return None if document.problems else document.value


def sent(text: str, name: str) -> Object | None:
    """The job under a name of its own, in no namespace yet; None: it is not sent, or its metadata is what is wrong."""
    found = value(text)
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
        return None
    return {"apiVersion": found.get("apiVersion"), "kind": found.get("kind"), "metadata": {"name": name}} | {
        "spec": found["spec"]
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
    found = {
        case: refusal(shared_plane, namespace, body) for case in bad_specs() if (body := of_the_spec(case)) is not None
    }
    assert len(found) > 200
    unseen = {case.id for case in found if case.unseen}
    assert {case.id for case, said in found.items() if not said} == unseen | DROPPED


def test_the_api_server_names_the_reference_that_does_not_fit(shared_plane: ControlPlane) -> None:
    """Many claims are one rule; what it says is of the one that is broken."""
    namespace = asyncio.run(fresh(shared_plane))
    body = sent(good_specs()["base"], "unknown")
    assert body is not None
    (ppo,) = [stage["ppo"] for stage in body["spec"]["stages"] if "ppo" in stage]
    for field, wrong, words in (
        ("policy", {"stage": "nobody"}, "ppo.policy: names no stage of this job that fits (sft or ppo)"),
        ("prompts", [{"input": "nothing"}], "ppo.prompts: names no input of this job"),
    ):
        right, ppo[field] = ppo[field], wrong
        assert words in refusal(shared_plane, namespace, body)
        ppo[field] = right
    assert refusal(shared_plane, namespace, body) == ""


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
        async with ground(controlled_plane) as here, here.operator():
            unseen = {case.id: case for case in bad_specs() if case.unseen and of_the_spec(case) is not None}
            assert len(unseen) > 5
            for case in unseen.values():
                body = of_the_spec(case)
                assert body is not None
                await here.make(body)
            for case in unseen.values():
                status = await here.until(lambda found: "Stalled" in str(found.get("conditions")), case.id)
                assert status["phase"] == "Invalid", case.id
                (message,) = [one["message"] for one in status["conditions"] if one["type"] == "Stalled"]
                assert case.path in message, case.id
            assert [one async for page in here.api.pages(JOBS, here.namespace) for one in page.items] == []

    asyncio.run(main())
