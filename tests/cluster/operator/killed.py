"""An operator in a process of its own, which SIGKILL ends when it is about to write more often than it may."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys

from cluster.operator.ground import operating
from rlhf_operator.runtime.transport import from_kubeconfig


async def main(kubeconfig: str, namespace: str, writes: str) -> None:
    """Work until killed."""
    counter = itertools.count(1)

    def may_write() -> bool:
        if next(counter) > int(writes):
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    async with operating(await from_kubeconfig(kubeconfig), namespace, may_write=may_write):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
