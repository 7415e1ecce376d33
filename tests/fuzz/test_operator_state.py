"""Any status and any children that an API server could store: the operator decides, and never raises.

The states are recorded ones, of jobs that went well and not, changed within the CRD's schema and Kubernetes' types.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import orjson
import pytest

from fakes.cluster_model import SETTINGS, START, Cluster, job
from fuzz.damage import bounded
from rlhf_api.crd import schema
from rlhf_operator import projections
from rlhf_operator.informers import KEEP
from rlhf_operator.reconcile import Observed, reconcile
from rlhf_operator.runtime.kinds import JOBS, PODS, SERVICES

Raw = dict[str, Any]
CHUNKS, OF_A_CHUNK = 8, 250
STATUS = schema()["properties"]["status"]
TIMES = (
    *("2026-03-01T12:00:00Z", "2026-03-01T12:00:00.123456789Z", "2026-03-01T12:00:00+14:00", "2026-03-01t12:00:00z"),
    *("0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-03-01T12:00:00"),
)
K8S_TIMES = ("2026-03-01T12:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z")
TEXTS = ("", "a", "é" * 90, "\x1b[31m", "‮", "{", "[" * 1900, "null", "-1", "²", "9" * 40, '{"step": 1e300}', "%s {x}")
INTEGERS = (0, 1, 2, 3, 75, 137, 255, 2**31 - 1)
RESULTS = (
    *(
        '{"result": []}',
        '{"reason": 5, "message": {}}',
        '{"raised": 1e308, "step": -1}',
        '{"raised": true, "step": 1.5}',
    ),
    *(
        '{"result": {"inputs": "", "functions": "", "hits": "-1"}}',
        '{"result": {"inputs": "=", "functions": "x", "hits": "z"}}',
    ),
    '{"result": {"inputs": "", "functions": "", "hits": "0", "recipes": "1.x"}}',
)


@cache
def recorded() -> tuple[tuple[Raw, dict[str, list[Raw]]], ...]:
    """Jobs with their children, after each step of some histories."""
    endings: tuple[Callable[[Raw], int | None], ...] = (
        lambda _: 0,
        lambda pod: 1 if "sft" in pod["metadata"]["name"] else 0,
        lambda pod: 3 if "cost" in pod["metadata"]["name"] else 0,
        lambda pod: None if "reward" in pod["metadata"]["name"] else 0,
    )
    states = []
    for number, ends in enumerate(endings):
        spec: Raw = {"profile": "pair"} if number % 2 else {"activeDeadlineSeconds": 1000}
        cluster = Cluster(job(**spec, runPolicy={"stuckTimeout": 60, "pendingTimeout": 600, "maxRestarts": 1}))
        for step in range(24):
            cluster.step(ends)
            if step == 15 and number == 0:
                cluster.edit(suspend=True)
            if step == 9 and cluster.pods():
                (cluster.evict if number % 2 else cluster.lose)(cluster.pods()[0]["metadata"]["name"])
            kinds = {kind: cluster.all(kind) for kind in ("Job", "Pod", "Service")}
            states.append(copy.deepcopy((cluster.job, kinds)))
            cluster.now += timedelta(seconds=20)
    return tuple(states)


def in_schema(node: Raw, value: Any, draw: random.Random) -> Any:
    """Another value of the same schema: of a part one that was drawn, of the whole one with parts changed."""
    kind = node["type"]
    if kind == "object":
        return _object(node, dict(value) if isinstance(value, dict) else {}, draw)
    if kind == "array":
        entries = [in_schema(node["items"], entry, draw) for entry in value or ()]
        change = draw.random()
        if change < 0.04:
            return []
        if change < 0.1 and entries and node.get("x-kubernetes-list-type") == "atomic":
            return [*entries, copy.deepcopy(draw.choice(entries))][: node["maxItems"]]
        if change < 0.14 and len(entries) > 1:
            del entries[draw.randrange(len(entries))]
        return entries
    return _scalar(node, draw) if value is None or draw.random() < 0.04 else value


def _object(node: Raw, value: Raw, draw: random.Random) -> Raw:
    if "additionalProperties" in node:
        result = {key: in_schema(node["additionalProperties"], inner, draw) for key, inner in value.items()}
        if draw.random() < 0.05 and len(result) < node["maxProperties"]:
            result[draw.choice(("default", "pair", "x"))] = _scalar(node["additionalProperties"], draw)
        return result
    result = {}
    for name, inner in node["properties"].items():
        needed = name in node.get("required", ())
        if name in value:
            if needed or draw.random() > 0.02:
                result[name] = in_schema(inner, value[name], draw)
        elif needed or (inner["type"] not in ("object", "array") and draw.random() < 0.02):
            result[name] = in_schema(inner, None, draw)
    return result


def _scalar(node: Raw, draw: random.Random) -> Any:
    if "enum" in node:
        return draw.choice(node["enum"])
    if node.get("format") == "date-time":
        return draw.choice(TIMES)
    if node["type"] == "boolean":
        return draw.random() < 0.5
    if node["type"] in ("integer", "number"):
        choices = [*INTEGERS, 2**63 - 1, *((0.5, 1e300) if node["type"] == "number" else ())]
        return draw.choice(
            [choice for choice in choices if node.get("minimum", 0) <= choice <= node.get("maximum", 2**63)]
        )
    if "pattern" in node:
        return draw.choice(("prepare", "sft", "report", "cost", "x"))
    return draw.choice((*TEXTS, *RESULTS, '{"pod": {"hostUsers": false}}', "{}"))[: node["maxLength"]]


def of_kubernetes(value: Any, draw: random.Random, at: tuple[str, ...] = ()) -> Any:
    """Another object of the same type: texts, numbers and times of any value; what is optional may be missing."""
    if isinstance(value, dict):
        return {
            key: of_kubernetes(inner, draw, (*at, key))
            for key, inner in value.items()
            if draw.random() > 0.02
            or key in ("name", "namespace", "metadata", "uid", "resourceVersion", "type", "status", "containerPort")
        }
    if isinstance(value, list):
        entries = [of_kubernetes(entry, draw, at) for entry in value]
        return entries if draw.random() > 0.02 else []
    if draw.random() > 0.05 or at[-1:] in (("name",), ("namespace",), ("uid",)):
        return value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice(INTEGERS)
    if at[-1].endswith(("At", "Timestamp", "Time")):
        return draw.choice(K8S_TIMES)
    return (
        draw.choice(TEXTS + RESULTS)
        if at[-1] == "message" or "annotations" in at
        else draw.choice(("", "a", "True", "7"))
    )


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_stored_state_makes_a_decision_raise(chunk: int) -> None:
    draw = random.Random(1000 + chunk)
    for _ in range(OF_A_CHUNK):
        raw, kinds = copy.deepcopy(draw.choice(recorded()))
        if draw.random() < 0.7:
            raw["status"] = in_schema(STATUS, raw.get("status"), draw)
        if draw.random() < 0.7:
            kinds = {kind: [of_kubernetes(stored, draw) for stored in objects] for kind, objects in kinds.items()}
        with bounded():
            projected = {kind.kind: tuple(keep(stored) for stored in kinds[kind.kind]) for kind, keep in KEEP.items()}
            children = Observed(*(projected[kind.kind] for kind in (JOBS, PODS, SERVICES)))
            stored_job = projections.unpacked(projections.rlhfjob(raw))
            out = reconcile(stored_job, children, SETTINGS, START + timedelta(seconds=draw.randrange(10**6)))
            if out.look:
                looked = dict.fromkeys(out.look)
                claims = {look.name: None for look in out.look if look.what == "Claim"}
                answered = Observed(
                    *(projected[kind.kind] for kind in (JOBS, PODS, SERVICES)), live_reads=looked, claims=claims
                )
                out = reconcile(stored_job, answered, SETTINGS, START)
            orjson.dumps(out.status)
        assert out.requeue is None or out.requeue >= 0
