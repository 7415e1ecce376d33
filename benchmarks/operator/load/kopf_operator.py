"""A minimal operator in kopf: makes the first stage's children when an RLHFJob comes, the next one's when a Job is
complete. Writes no status and tells no events. Runs in an environment of its own (requirements/peer-kopf.in).
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import kopf

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.template import complete, filled, path_of

STAGES = json.loads(Path(os.environ["LOAD_TEMPLATE"]).read_text())
PLACES = {stage["stage"]: index for index, stage in enumerate(STAGES)}
CREATED, EXISTS = 201, 409
_sessions: list[aiohttp.ClientSession] = []


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """No limits, and none of what it does beside: no Kubernetes events of its own."""
    settings.posting.enabled = False
    settings.batching.worker_limit = None
    trust = ssl.create_default_context(cafile=os.environ["LOAD_AUTHORITY"])
    headers = {"Authorization": f"Bearer {os.environ['LOAD_TOKEN']}", "User-Agent": "kopf/children"}
    _sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, limit=32), headers=headers))


@kopf.on.cleanup()
async def close(**_: Any) -> None:
    """Close the connections."""
    for session in _sessions:
        await session.close()


@kopf.on.create("rlhf.dev", "v1alpha1", "rlhfjobs")
async def created(name: str, uid: str, **_: Any) -> None:
    """A job is there."""
    await make(name, uid, 0)


@kopf.on.event("batch", "v1", "jobs", labels={"rlhf.dev/stage": kopf.PRESENT})
async def changed(event: dict[str, Any], **_: Any) -> None:
    """Its Job may be complete. What is there already is as good: this is called again for any change of it."""
    job = event["object"]
    if event["type"] == "DELETED" or not complete(job):
        return
    labels = job["metadata"]["labels"]
    after = PLACES[labels["rlhf.dev/stage"]] + 1
    if after < len(STAGES):
        await make(labels["rlhf.dev/job"], labels["rlhf.dev/uid"], after)


async def make(name: str, uid: str, index: int) -> None:
    """The children of one stage."""
    for body in filled(STAGES[index], name, uid):
        async with _sessions[0].post(os.environ["LOAD_SERVER"] + path_of(body), json=body) as response:
            if response.status not in (CREATED, EXISTS):
                raise kopf.TemporaryError(await response.text(), delay=1)
