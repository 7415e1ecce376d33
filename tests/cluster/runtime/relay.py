"""A TCP relay before an API server, that can fail as networks do; TLS passes through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Connections to `port` go to a port of the loopback interface."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        self.connections = 0
        """How many were accepted."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def blackhole(self) -> None:
        """Take everything and pass on nothing: no reset, no end."""
        self._open.clear()

    def restore(self) -> None:
        """Pass on again, also what was held back."""
        self._open.set()

    async def refuse(self) -> None:
        """Break every connection and take no new one; `start` takes them again, on the same port."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def stop(self) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            target_reader, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # as the target refused
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (target_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        except OSError:  # the other end is gone: this one goes too
            pass
        finally:
            sink.close()
            self._writers.discard(sink)


@contextlib.asynccontextmanager
async def relayed(target: int) -> AsyncIterator[Relay]:
    """A relay that is gone at the end."""
    relay = Relay(target)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()
