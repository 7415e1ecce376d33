"""`/metrics`, `/healthz` and `/readyz` over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

Check = Callable[[], str | None]
"""Says what is wrong; None: nothing is."""


class Probes:
    """Serves from the running event loop: one that is stuck answers no probe, and that is the point.

    Args:
        alive, ready: checks by name.
        before: called before the metrics are read.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        alive: Mapping[str, Check],
        ready: Mapping[str, Check],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._before = before
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._checked(alive))
        app.router.add_get("/readyz", self._checked(ready))
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Serve; gives the port, which for 0 is a free one."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        self._before()
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    @staticmethod
    def _checked(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(_: web.Request) -> web.StreamResponse:
            problems = {name: check() for name, check in checks.items()}
            text = "".join(f"{name}: {'ok' if wrong is None else wrong}\n" for name, wrong in problems.items())
            return web.Response(text=text, status=503 if any(problems.values()) else 200)

        return answer
