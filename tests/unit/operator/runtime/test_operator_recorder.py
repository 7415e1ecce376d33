"""The recorder goes on, whatever becomes of one event."""

from __future__ import annotations

import asyncio
from typing import Any

from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.kinds import Kind, Object

ABOUT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "uid": "u"}}


class Api(Client):
    """Takes every event but those of one reason, about which it fails as nobody expects."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        if body["reason"] == "Odd":
            raise TypeError("Type is not JSON serializable")
        self.reasons.append(body["reason"])
        return body


def test_a_fault_about_one_event_is_not_the_end_of_the_others() -> None:
    async def main() -> None:
        api = Api()
        recorder = Recorder(api, "operator", "pod")
        running: asyncio.Task[Any] = asyncio.create_task(recorder.run())
        for reason in ("Odd", "Failed", "Odd", "Complete"):
            recorder.tell(ABOUT, "Warning", reason, "words", occasion=reason)
        await recorder.flush()
        assert api.reasons == ["Failed", "Complete"]
        assert not running.done()
        running.cancel()

    asyncio.run(main())
