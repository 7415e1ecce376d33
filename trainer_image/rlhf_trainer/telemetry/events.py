"""TensorBoard events of a stage: `work/<uid>/<stage>/events`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class Events:
    """Writes every metric of a step as a scalar. A resumed run opens a further file in the same folder."""

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Record a step's values."""
        scalars = [Summary.Value(tag=name.replace(".", "/"), simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def phase(self, name: str, seconds: float, tokens: int) -> None:
        """Phases are in timings.jsonl; nothing to do."""

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()
