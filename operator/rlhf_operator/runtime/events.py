"""Events: each of (object, reason, note, occasion) told once, in the background, and never at the cost of the work itself.

The Event's name is made from what it tells, so that a restarted process that tells it again finds it there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime

from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import AlreadyExists, ApiError, RequestFailed, Unreachable
from rlhf_operator.runtime.kinds import EVENTS, Object
from rlhf_operator.runtime.metrics import Metrics

log = logging.getLogger(__name__)

MOST_NOTE = 1024
"""Bytes of a note, by the API server's rule."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries of one event that the API server could not take; others are told meanwhile."""
MOST_WAITING = 1000
MOST_REMEMBERED = 10_000


class Recorder:
    """Tells events as `controller`, from this `instance`."""

    def __init__(self, client: Client, controller: str, instance: str, metrics: Metrics | None = None) -> None:
        self._client = client
        self._controller, self._instance = controller, instance
        self._metrics = metrics or Metrics()
        self._waiting: asyncio.Queue[tuple[Object, int]] = asyncio.Queue(MOST_WAITING)
        self._told: OrderedDict[str, None] = OrderedDict()

    def tell(
        self, about: Object, type_: str, reason: str, note: str, action: str = "Reconcile", *, occasion: str = ""
    ) -> None:
        """Tell that `reason` came to an object; `type_` is Normal or Warning. What was told before is not told again.

        `occasion` tells apart what comes again in the same words: the resourceVersion of the state that it came to.
        """
        event = self._event(about, type_, reason, note, action, occasion)
        name = event["metadata"]["name"]
        if name in self._told:
            self._told.move_to_end(name)
            return
        try:
            self._waiting.put_nowait((event, 0))
        except asyncio.QueueFull:
            log.warning("event %s %s: too many wait; not told", name, reason)
            self._metrics.event("failed")
            return
        self._told[name] = None
        if len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)

    async def run(self) -> None:
        """Send what is told until cancelled."""
        while True:
            event, tries = await self._waiting.get()
            try:
                sent = await self._sent(event, last=tries == len(PAUSES))
            except Exception as error:  # about one event: others are told all the same
                log.exception("event %s", event["metadata"]["name"])
                self._lost(event, f"{type(error).__name__}: {error}")
                sent = True
            if not sent:
                asyncio.get_running_loop().call_later(PAUSES[tries], self._again, event, tries + 1)
                continue
            self._waiting.task_done()

    async def flush(self) -> None:
        """Return when everything told was sent."""
        await self._waiting.join()

    async def _sent(self, event: Object, *, last: bool) -> bool:
        """Send it; false: it is worth another try, and this was not the last."""
        metadata = event["metadata"]
        try:
            await self._client.create(EVENTS, metadata["namespace"], event)
        except AlreadyExists:
            self._metrics.event("known")
        except RequestFailed as error:
            if not last and (isinstance(error, Unreachable) or (isinstance(error, ApiError) and error.status >= 500)):
                return False
            self._lost(event, str(error))
        else:
            self._metrics.event("created")
        return True

    def _again(self, event: Object, tries: int) -> None:
        try:
            self._waiting.put_nowait((event, tries))
        except asyncio.QueueFull:
            self._lost(event, "too many wait")
        self._waiting.task_done()  # of the try before

    def _lost(self, event: Object, why: str) -> None:
        log.warning("event %s %s: %s", event["metadata"]["name"], event["reason"], why)
        self._told.pop(event["metadata"]["name"], None)  # it may be told again: it was not
        self._metrics.event("failed")

    def _event(self, about: Object, type_: str, reason: str, note: str, action: str, occasion: str) -> Object:
        metadata = about["metadata"]
        namespace = metadata.get("namespace") or "default"
        note = cut(note, MOST_NOTE)
        content = "\0".join((metadata.get("uid") or "", type_, reason, note, occasion))
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        regarding = {"apiVersion": about["apiVersion"], "kind": about["kind"], "namespace": namespace}
        regarding |= {"name": metadata["name"], "uid": metadata.get("uid") or ""}
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{metadata['name'][:230].rstrip('.-')}.{digest}", "namespace": namespace},
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "action": action,
            "reason": reason,
            "type": type_,
            "note": note,
            "regarding": regarding,
        }


def cut(text: str, most: int) -> str:
    """At most so many bytes of a text, no character broken."""
    if len(text.encode()) <= most:
        return text
    return text.encode()[: most - 3].decode(errors="ignore") + "..."
