"""An HTTP proxy before a real API server, that answers some requests itself, badly."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

_HOP = {"transfer-encoding", "connection", "content-length", "host"}


@dataclass(frozen=True)
class Answer:
    """What is answered instead of the API server's answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"kind": "Status", "reason": "Injected", "message": "by the test"}'


Plan = Callable[[str, str], Answer | None]
"""By method (WATCH for watches) and path: what to answer; None: what the API server says."""


class Faults:
    """Plain HTTP to whoever asks, TLS to the API server. `requests` has (method, path, status) of every request."""

    def __init__(self, upstream: Configuration) -> None:
        self._upstream = upstream
        self.plan: Plan = lambda _method, _path: None
        self.requests: list[tuple[str, str, int]] = []
        self.port = 0

    def configuration(self) -> Configuration:
        """How to reach the API server through the proxy."""
        configuration = Configuration(host=f"http://127.0.0.1:{self.port}")
        configuration.api_key = dict(self._upstream.api_key)
        return configuration

    async def handle(self, request: web.Request) -> web.StreamResponse:
        method = "WATCH" if request.query.get("watch") else request.method
        answer = self.plan(method, request.path)
        if answer is not None:
            self.requests.append((method, request.path, answer.status))
            return web.Response(status=answer.status, headers=answer.headers, text=answer.body)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = self._upstream.host + request.path_qs
        limit = aiohttp.ClientTimeout(total=None)
        async with self.session.request(
            request.method, url, headers=headers, data=await request.read(), timeout=limit
        ) as upstream:
            self.requests.append((method, request.path, upstream.status))
            response = web.StreamResponse(
                status=upstream.status,
                headers={name: value for name, value in upstream.headers.items() if name.lower() not in _HOP},
            )
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Faults]:
        context = ssl.create_default_context(
            cafile=self._upstream.ssl_ca_cert, cadata=self._upstream.ca_cert_data or None
        )
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0)) as self.session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            try:
                yield self
            finally:
                await runner.cleanup()
