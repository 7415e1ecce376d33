"""`python -m rlhf_operator.main --config FILE`: competes for the Lease, and reconciles while it holds it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_operator.config import Config, load
from rlhf_operator.controller import Controller
from rlhf_operator.job_metrics import JobMetrics
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.lease import Elector
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.probes import Probes
from rlhf_operator.runtime.transport import configuration

log = logging.getLogger(__name__)

MANAGER = "rlhf-operator"
"""Field manager, and the controller that events name."""


class Operator:
    """One replica: probes and metrics always, a controller while it leads.

    Args:
        config: its configuration.
        kubeconfig: how to reach the cluster; None: as the pod, or as the user's own.
    """

    def __init__(self, config: Config, kubeconfig: str | None = None) -> None:
        self._config = config
        self._kubeconfig = kubeconfig
        self._metrics = Metrics()
        self._led, self._lost = asyncio.Event(), asyncio.Event()
        self._lost.set()
        self._controller: Controller | None = None
        self._loop, election = asyncio.get_running_loop(), config.leader_election
        self.identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"
        self.elector = Elector(
            self._connect_for_lease,
            namespace=election.namespace,
            name=election.name,
            identity=self.identity,
            timing=election.timing,
            on_started=lambda: self._turn(leads=True),
            on_lost=lambda: self._turn(leads=False),
            metrics=self._metrics,
        )
        self._metrics.registry.register(JobMetrics(self._known))

    async def run(self) -> None:
        """Run until cancelled; then the Lease is given up, so that another replica goes on at once."""
        async with contextlib.AsyncExitStack() as stack:
            for probes, port in self._probes():
                bound_port = await probes.start("", port)
                stack.push_async_callback(probes.stop)
                log.info("serving on port %d", bound_port)
            self.elector.start()
            stack.push_async_callback(asyncio.to_thread, self.elector.stop)
            while True:
                await self._led.wait()
                await self._lead()

    async def _lead(self) -> None:
        """Reconcile until the Lease is lost. Every cache begins anew: a former leader may have written until just now."""
        work = self._config.operator
        client = Client(
            await configuration(self._kubeconfig),
            field_manager=MANAGER,
            rate=work.qps,
            burst=work.burst,
            metrics=self._metrics,
            may_write=self.elector.leads,
        )
        async with client:
            recorder = Recorder(client, MANAGER, self.identity, self._metrics)
            self._controller = Controller(
                client,
                self._config.settings,
                namespaces=self._config.watch or None,
                recorder=recorder,
                workers=work.workers,
                progress_per_second=work.progress_per_second,
                metrics=self._metrics,
            )
            try:
                await self._until_lost(self._controller)
            finally:
                self._controller = None

    async def _until_lost(self, controller: Controller) -> None:
        running = asyncio.create_task(controller.run())
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({running, lost}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running  # it ends by failing alone
        finally:
            for task in (running, lost):
                task.cancel()
            await asyncio.gather(running, lost, return_exceptions=True)

    async def _connect_for_lease(self) -> Client:
        return Client(await configuration(self._kubeconfig), field_manager=MANAGER, metrics=self._metrics)

    def _turn(self, *, leads: bool) -> None:
        """Called in the elector's thread."""
        now, before = (self._led, self._lost) if leads else (self._lost, self._led)
        self._loop.call_soon_threadsafe(before.clear)
        self._loop.call_soon_threadsafe(now.set)

    def _known(self) -> list[dict[str, object]]:
        controller = self._controller
        return [] if controller is None else list(controller.view.jobs.values())

    def _blind(self) -> str | None:
        """Why this replica leads but sees no job at all: then `helm --wait` fails, and who installs it looks.

        One namespace of several that cannot be read leaves it ready: whoever deletes a namespace would fail every
        upgrade, and a leader that is not ready keeps the PodDisruptionBudget from letting the standby's node be drained.
        The log, `reflector_up` and the alert RLHFOperatorCannotWatch tell of that one. A standby watches nothing yet.
        """
        controller = self._controller
        return None if controller is None else controller.view.blind

    def _probes(self) -> list[tuple[Probes, int]]:
        work, registry = self._config.operator, self._metrics.registry
        alive = {"lease": lambda: None if self.elector.alive() else "the elector's thread is stuck"}
        ready = {"watches": self._blind}

        def before() -> None:
            if self._controller is not None:
                self._controller.queue.observe()

        return [
            (Probes(registry, alive=alive, ready=ready, before=before), work.metrics_port),
            (Probes(registry, alive=alive, ready=ready, before=before), work.health_port),
        ]


async def serve(config: Config, kubeconfig: str | None) -> None:
    """Run a replica until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    operator = Operator(config, kubeconfig)
    running = asyncio.create_task(operator.run())
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        waiting.cancel()
        await running
    log.info("stopping: asked to")
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="rlhf-operator", description="Runs RLHFJobs as pods.")
    parser.add_argument("--config", type=Path, required=True, help="configuration file (YAML)")
    parser.add_argument("--kubeconfig", help="how to reach the cluster; by default as the pod it runs in")
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's answer
        return 2
    logging.basicConfig(
        level=config.operator.log_level, stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(serve(config, options.kubeconfig))
    return 0


if __name__ == "__main__":
    sys.exit(main())
