"""A process that competes for a Lease and says every 20 ms whether it leads: for a test that stops it.

    python -m cluster.runtime.candidate KUBECONFIG NAMESPACE IDENTITY

Lines: monotonic seconds (the same clock in all processes), 1 or 0, how often leading was lost.
"""

from __future__ import annotations

import sys
import time

from cluster.runtime.ground import QUICK
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.lease import Elector
from rlhf_operator.runtime.transport import from_kubeconfig


def main(kubeconfig: str, namespace: str, identity: str) -> None:
    lost: list[float] = []

    async def connect() -> Client:
        return Client(await from_kubeconfig(kubeconfig), field_manager=identity)

    elector = Elector(
        connect,
        namespace=namespace,
        name="operator",
        identity=identity,
        timing=QUICK,
        on_started=lambda: None,
        on_lost=lambda: lost.append(time.monotonic()),
    )
    elector.start()
    while True:
        print(time.monotonic(), int(elector.leads()), len(lost), flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
