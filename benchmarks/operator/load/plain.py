"""The plain script: makes the children of every RLHFJob there is, stage after stage, and writes nothing else.

    python -m load.plain KUBECONFIG TEMPLATE [first]

`first`: only those of the first stage. The last line says how many seconds it took from the first request on.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from load.ground import AT_ONCE, UNBOUND
from load.jobs import NAMESPACE
from load.template import complete, filled
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.kinds import JOBS, Object
from rlhf_operator.runtime.reflector import Reflector
from rlhf_operator.runtime.store import Change
from rlhf_operator.runtime.transport import from_kubeconfig

KINDS = {kind.kind: kind for kind in (JOBS,)}


class Script:
    """Owners, and which of their stages comes next."""

    def __init__(self, api: Client, stages: list[dict[str, str]], owners: list[tuple[str, str]]) -> None:
        self._api = api
        self._stages = stages
        self._uids = dict(owners)
        self._places = {stage["stage"]: index for index, stage in enumerate(stages)}
        self._next: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self._left = len(owners)
        self.done = asyncio.Event()

    async def run(self, *, first: bool) -> None:
        """Make all there is to make."""
        for name in self._uids:
            self._next.put_nowait((name, 0))
        workers = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]
        await (self._next.join() if first else self.done.wait())
        for worker in workers:
            if worker.done():
                worker.result()
            worker.cancel()

    def changed(self, change: Change) -> None:
        """A Job has changed: was it its end?"""
        if change.new is None or not change.new["complete"] or (change.old is not None and change.old["complete"]):
            return
        after = self._places[change.new["stage"]] + 1
        if after < len(self._stages):
            self._next.put_nowait((change.new["owner"], after))
            return
        self._left -= 1
        if self._left == 0:
            self.done.set()

    async def _work(self) -> None:
        while True:
            name, index = await self._next.get()
            for body in filled(self._stages[index], name, self._uids[name]):
                await self._api.create(KINDS[body["kind"]], NAMESPACE, body)
            self._next.task_done()


def kept_job(job: Object) -> Object:
    """Of a Job: whose it is and whether it is complete."""
    labels = job["metadata"]["labels"]
    names = {name: job["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    facts = {"owner": labels["rlhf.dev/job"], "stage": labels["rlhf.dev/stage"], "complete": complete(job)}
    return {"metadata": names, **facts}


async def main(kubeconfig: str, template: str, *, first: bool) -> None:
    """Do it, and tell how long it took."""
    stages = json.loads(Path(template).read_text())
    async with Client(await from_kubeconfig(kubeconfig), field_manager="plain", **UNBOUND) as api:  # type: ignore[arg-type]
        pages = api.pages(RLHFJOBS, NAMESPACE)
        owners = [(job["metadata"]["name"], job["metadata"]["uid"]) async for page in pages for job in page.items]
        script = Script(api, stages, owners)
        label = "rlhf.dev/job"
        watch = Reflector(api, JOBS, NAMESPACE, label_selector=label, on_change=script.changed, keep=kept_job)
        watching = asyncio.create_task(watch.run())
        await watch.wait_synced()
        begun = time.monotonic()
        await script.run(first=first)
        print(json.dumps({"seconds": time.monotonic() - begun}), flush=True)
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], first="first" in sys.argv[3:]))
