"""Progress is asked of real sockets, and shown at a bounded rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from rlhf_operator.progress_poller import SHOW_SECONDS, Poller
from rlhf_operator.reconcile import Poll
from rlhf_operator.runtime.kinds import Key

KEY = Key("team", "beaver")
PATIENCE = 30.0


class Stage:
    """What a stage serves on /progress."""

    def __init__(self) -> None:
        self.told: object = {"attempt": 0, "step": 1, "total": 10}
        self.status = 200
        self.asked = asyncio.Event()

    async def answer(self, _: web.Request) -> web.Response:
        self.asked.set()
        return web.json_response(self.told, status=self.status)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Poll]:
        app = web.Application()
        app.router.add_get("/progress", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield Poll("sft", 0, "127.0.0.1", int(runner.addresses[0][1]))
        finally:
            await runner.cleanup()


@asynccontextmanager
async def polling(woken: asyncio.Event, every: float = 0.0) -> AsyncIterator[Poller]:
    """A poller that runs, and sets `woken` when something may be shown."""
    poller = Poller(lambda _: woken.set(), rate=1000.0, every=every)
    task = asyncio.create_task(poller.run())
    try:
        yield poller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_a_stage_tells_is_shown_once_in_thirty_seconds() -> None:
    async def main() -> None:
        woken = asyncio.Event()
        async with Stage().served() as poll, polling(woken) as poller:
            assert poller.samples(KEY) == {}
            poller.follow(KEY, [poll])
            await asyncio.wait_for(woken.wait(), PATIENCE)
            first, second = poller.samples(KEY)["sft"], poller.samples(KEY)["sft"]
            assert (first.step, first.total, first.show) == (1, 10, True)
            assert not second.show, f"shown twice within {SHOW_SECONDS} s"

    asyncio.run(main())


def test_a_stage_that_fails_to_answer_changes_nothing() -> None:
    async def main() -> None:
        stage, woken = Stage(), asyncio.Event()
        stage.status = 500
        async with stage.served() as poll, polling(woken) as poller:
            gone = Poll("reward", 0, "127.0.0.1", 1)
            poller.follow(KEY, [poll, gone])
            await asyncio.wait_for(stage.asked.wait(), PATIENCE)
            assert poller.samples(KEY) == {}
            assert not woken.is_set()

    asyncio.run(main())


def test_a_stage_that_ended_is_forgotten() -> None:
    async def main() -> None:
        woken = asyncio.Event()
        async with Stage().served() as poll, polling(woken) as poller:
            poller.follow(KEY, [poll])
            await asyncio.wait_for(woken.wait(), PATIENCE)
            poller.follow(KEY, [])
            assert poller.samples(KEY) == {}

    asyncio.run(main())
