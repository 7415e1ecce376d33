"""A run on a terminal: every stage on a line, with bars that move."""

from __future__ import annotations

import sys
import termios
import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhf_api.contract import StageState
from rlhf_api.plan import Plan
from rlhf_sdk import output
from rlhf_sdk.exits import Exit
from rlhf_sdk.local.progress import Progress, labelled
from rlhf_sdk.local.state import RunState
from rlhf_sdk.local.view import short
from rlhf_sdk.text import duration, number

MARKS: dict[StageState, tuple[str, str]] = {
    "Waiting": ("·", "dim"),
    "Running": ("▸", "cyan"),
    "Complete": ("✓", "green"),
    "Reused": ("✓", "green"),
    "Failed": ("✗", "bold red"),
    "Suspended": ("■", "yellow"),
    "Skipped": ("-", "dim"),
}
"""Sign and colour of each state."""
NARROW = 100
"""Columns below which a stage with many metrics gets a second line for them."""


class LiveView:
    """Redraws the stages in place; what is said scrolls by above."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or output.console()
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._plan: Plan | None = None
        self._latest: Mapping[str, Progress] = {}
        self._state: RunState | None = None
        self._began = time.monotonic()
        self._echo: Callable[[], None] = lambda: None

    def start(self, plan: Plan, state: RunState) -> None:
        self._plan = plan
        self._state = state
        self._echo = _quiet_control_keys()
        self._live.start()

    def plan(self, plan: Plan) -> None:
        self._plan = plan

    def stage(self, name: str, state: RunState) -> None:
        if not state.stages[name].running:
            self._latest = {stage: progress for stage, progress in self._latest.items() if stage != name}
        self._draw(state)

    def say(self, text: str, *, bad: bool = False) -> None:
        self._console.print(Text(text, style="red" if bad else ""), soft_wrap=True)

    def progress(self, state: RunState, latest: Mapping[str, Progress]) -> None:
        self._latest = latest
        self._draw(state)

    def end(self) -> None:
        self._live.stop()
        self._echo()

    def _draw(self, state: RunState) -> None:
        self._state = state
        if self._plan is not None:
            seconds = time.monotonic() - self._began
            self._live.update(screen(self._plan, state, self._latest, seconds, self._console.width), refresh=True)


def _quiet_control_keys() -> Callable[[], None]:
    """Keep the terminal from writing `^C` into the picture, which would shift it; gives the way back."""
    try:
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (termios.error, OSError, ValueError):
        return lambda: None  # no terminal
    changed = list(before)
    changed[3] &= ~termios.ECHOCTL
    termios.tcsetattr(handle, termios.TCSANOW, changed)
    return lambda: termios.tcsetattr(handle, termios.TCSANOW, before)


def screen(plan: Plan, state: RunState, latest: Mapping[str, Progress], seconds: float, width: int) -> RenderableType:
    """What is shown: a heading and a line a stage, in `width` columns."""
    done = sum(stage.complete for stage in state.stages.values())
    cores = "1 core" if state.cores == 1 else f"{state.cores} cores"
    title = Text(state.job, style="bold").append(
        f"  {done}/{len(plan.stages)} stages  {cores}  {duration(seconds)}", style="not bold dim"
    )
    title.truncate(width, overflow="ellipsis")
    lines: list[RenderableType] = [title]
    longest = max(len(stage.name) for stage in plan.stages)
    names = min(longest, max(8, width // 4))
    for stage in plan.stages:
        lines.append(_line(plan, state, stage.name, latest.get(stage.name), names, width))
    return Group(*lines)


def _line(plan: Plan, state: RunState, name: str, progress: Progress | None, names: int, width: int) -> RenderableType:
    stage = state.stages[name]
    mark, style = MARKS[stage.state]
    head = Text(f" {mark} ", style=style)
    label = Text(name, style="bold" if stage.running else "")
    label.truncate(names, overflow="ellipsis", pad=True)
    row = Table.grid(padding=(0, 1, 0, 0), expand=False)
    row.add_column(width=3)
    row.add_column(width=names)
    if not stage.running:
        rest = _rest(plan, state, name)
        row.add_column(width=max(10, width - names - 6), no_wrap=True, overflow="ellipsis")
        row.add_row(head, label, Text(rest, style="red" if stage.state == "Failed" else "dim"))
        return row
    if progress is None or not progress.total:
        row.add_column(width=max(10, width - names - 6), no_wrap=True, overflow="ellipsis")
        doing = progress.activity if progress is not None and progress.activity else "starting"
        if progress is not None and progress.step:
            doing = f"{doing if progress.activity else 'step'} {progress.step}"
        row.add_row(head, label, Text(f"{doing}  {duration(stage.seconds)}", style="cyan"))
        return row
    bar = max(10, min(30, width // 6))
    count = f"{progress.step}/{progress.total}"
    eta = f"eta {duration(progress.eta)}" if progress.eta is not None else duration(stage.seconds)
    counts, etas = max(7, len(count)), max(8, len(eta))
    room = max(0, width - 3 - names - bar - counts - etas - 5)
    row.add_column(width=bar)
    row.add_column(width=counts, justify="right", no_wrap=True)
    row.add_column(width=etas, no_wrap=True)
    row.add_column(width=room, no_wrap=True)
    metrics = labelled(progress.headline)
    below = width < NARROW and len(metrics) > 2
    words = "" if below else fitting(metrics, room)
    if (progress.share is not None or not progress.counts_steps) and len(words) + len(progress.doing) + 2 <= room:
        words = f"{words}  {progress.doing}" if words else progress.doing
    shown = Text(words)
    progress_bar = ProgressBar(total=progress.total, completed=progress.step, width=bar)
    row.add_row(head, label, progress_bar, count, Text(eta, style="dim"), shown)
    return Group(row, Text(" " * (names + 5) + fitting(metrics, width - names - 5))) if below else row


def fitting(headline: Mapping[str, float], width: int) -> str:
    """As many of the metrics as fit, the first first, none of them cut."""
    text = ""
    for name, value in headline.items():
        more = f"{text}  {name} {number(value)}" if text else f"{name} {number(value)}"
        if len(more) > width:
            break
        text = more
    return text


def _rest(plan: Plan, state: RunState, name: str) -> str:
    stage = state.stages[name]
    if stage.state == "Complete":
        return f"done in {duration(stage.seconds)}"
    if stage.state == "Reused":
        return f"reused {short(stage.product)}, verified"
    if stage.state == "Failed":
        return f"failed: {stage.reason}"
    if stage.state == "Suspended" or (stage.state == "Skipped" and stage.attempt):
        return "stopped, with its checkpoint" if stage.exit_code == Exit.STOPPED else "stopped"
    if stage.state == "Skipped":
        return "not run"
    if stage.restarts:
        return f"failed ({stage.reason}), to be restarted"
    planned = plan.stage(name)
    if name == plan.stages[-1].name:
        return "runs last"
    waits = [need for need in planned.needs if not state.stages[need].complete]
    return "waits for " + ", ".join(waits) if waits else "waits for free cores or memory"
