"""The API server: objects in and out as they are in JSON, at a bounded rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import urlencode

from kubernetes.aio.client.configuration import Configuration

from rlhf_operator.runtime import errors
from rlhf_operator.runtime.answers import Page, WatchEvent, decoded_object, watch_event
from rlhf_operator.runtime.errors import ApiError, Fenced, NotFound, TooLong
from rlhf_operator.runtime.kinds import Kind, Object, version_of
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.pace import TokenBucket
from rlhf_operator.runtime.transport import Response, Stream, Timeouts, Transport

MERGE_PATCH = "application/merge-patch+json"
RETRIES = 5
"""How often a request is sent again that the server asked to be sent again."""
PAGE = 50
"""Objects of a page, at most."""
PAGE_BYTES = 2**21
"""Of a page of more than one object: it is decoded whole, to as much as 25 times its bytes."""


def always() -> bool:
    """Who leads nothing may always write."""
    return True


class Client:
    """One API server, used in one event loop.

    Args:
        configuration: where it is and who asks (`transport.configuration()`).
        field_manager: the name under which fields are written.
        rate: requests a second; `burst` at once.
        may_write: asked right before a write is sent; False: it is not (`Fenced`).
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        field_manager: str,
        rate: float = 50.0,
        burst: int = 100,
        timeouts: Timeouts | None = None,
        metrics: Metrics | None = None,
        may_write: Callable[[], bool] = always,
    ) -> None:
        self._transport = Transport(configuration, timeouts or Timeouts(), field_manager)
        self._manager = field_manager
        self._bucket = TokenBucket(rate, burst)
        self._metrics = metrics or Metrics()
        self._may_write = may_write

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """An object, as the API server has it now.

        Raises:
            NotFound: there is none.
        """
        return await self._ask("GET", kind.path(namespace, name))

    async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        """Make an object; gives it as the server keeps it.

        Raises:
            AlreadyExists: there is one of that name.
            Invalid, Forbidden: it may not be.
        """
        return await self._write("POST", kind.path(namespace), body)

    async def patch(
        self, kind: Kind, namespace: str | None, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        """Merge a patch into an object; `metadata.uid` and `metadata.resourceVersion` in it are preconditions.

        Raises:
            Conflict: a precondition does not hold.
            NotFound: there is no such object.
        """
        return await self._write("PATCH", kind.path(namespace, name, subresource), patch, MERGE_PATCH)

    async def patch_status(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """Merge a patch into an object's status; else like `patch`."""
        return await self.patch(kind, namespace, name, patch, subresource="status")

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = "Background",
        grace_seconds: int | None = None,
    ) -> None:
        """Ask for an object's deletion.

        Raises:
            NotFound: it is gone.
            Conflict: it is another (`uid`), or was changed (`resource_version`).
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "preconditions": {key: value for key, value in preconditions.items() if value is not None} or None,
            "propagationPolicy": propagation,
            "gracePeriodSeconds": grace_seconds,
        }
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body |= {key: value for key, value in options.items() if value is not None}
        await self._write("DELETE", kind.path(namespace, name), body)

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
    ) -> AsyncIterator[Page]:
        """All objects of a kind, in pages of `limit` (of fewer, where objects are large), as of one moment.

        Raises:
            Gone: it took so long that the moment is forgotten.
        """
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        count = limit
        while True:
            query["limit"] = str(count)
            try:
                answer = await self._ask(
                    "GET", kind.path(namespace), query, most_bytes=PAGE_BYTES if count > 1 else None
                )
            except TooLong:
                count = max(1, count // 4)
                continue
            count = min(limit, 2 * count)
            items, metadata = answer.get("items") or [], answer.get("metadata")
            if not isinstance(metadata, dict):
                raise ApiError(200, "NoList", f"found a {answer.get('kind')}; expected a list of {kind.plural}")
            for item in items:  # of the built-in kinds they come without
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
            yield Page(items, version_of(answer))
            query["continue"] = metadata.get("continue") or ""
            if not query["continue"]:
                return

    @contextlib.asynccontextmanager
    async def watch(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        seconds: int = 300,
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """What happens to objects of a kind after `resource_version`, bookmarks among it; ends by itself in `seconds`.

        The block begins when the server has accepted.

        Raises:
            Gone: the server has forgotten what happened since.
            Silent: nothing was heard of it for too long.
            Unreachable: it broke off.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "timeoutSeconds": str(seconds),
        }
        await self._bucket.wait()
        async with self._stream(_with_query(kind.path(namespace), query)) as stream:
            yield (watch_event(line) async for line in stream.lines())

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows a kind."""
        try:
            document = await self._ask("GET", kind.root)
        except NotFound:
            return False
        return any(resource["name"] == kind.plural for resource in document.get("resources") or ())

    async def _write(self, method: str, path: str, body: Object, content_type: str = "application/json") -> Object:
        query = {} if method == "DELETE" else {"fieldManager": self._manager}
        return await self._ask(method, path, query, body, content_type)

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        most_bytes: int | None = None,
    ) -> Object:
        """Send a request, and again as often as the server asks for it."""
        for attempt in range(RETRIES + 1):
            await self._bucket.wait()
            if method != "GET" and not self._may_write():
                raise Fenced(f"{method} {path} was not sent: this process does not lead")
            response = await self._send(method, _with_query(path, query or {}), body, content_type, most_bytes)
            if response.status < 400:
                return decoded_object(response)
            error = errors.of_response(response.status, response.headers, response.content)
            if error.retry_after is None or attempt == RETRIES:
                raise error
            self._bucket.hold(asyncio.get_running_loop().time(), error.retry_after)
        raise AssertionError("the last attempt returns or raises")

    async def _send(
        self, method: str, path: str, body: Object | None, content_type: str, most_bytes: int | None
    ) -> Response:
        code = "<error>"
        try:
            response = await self._transport.ask(method, path, body, content_type, most_bytes)
            code = str(response.status)
        finally:
            self._metrics.request(code, method, self._transport.host)
        return response

    @contextlib.asynccontextmanager
    async def _stream(self, path: str) -> AsyncIterator[Stream]:
        async with contextlib.AsyncExitStack() as stack:
            code = "<error>"
            try:
                stream = await stack.enter_async_context(self._transport.stream(path))
                code = str(stream.status)
            finally:
                self._metrics.request(code, "WATCH", self._transport.host)
            if stream.status >= 400:
                raise errors.of_response(stream.status, stream.headers, await stream.read())
            yield stream


def _with_query(path: str, query: Mapping[str, str]) -> str:
    parameters = {key: value for key, value in query.items() if value}
    return f"{path}?{urlencode(parameters)}" if parameters else path
