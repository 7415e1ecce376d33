"""What starting costs: seconds of processor time (user and system) of a tiny stage of each type, launcher and ranks, and of
the `rlhf` command. Nearly all of a tiny stage is the imports of its processes.

    python benchmarks/starting.py [--before CHECKOUT] [--rounds 3] > benchmarks/results/starting.md

Runs two examples with a tiny model once, then each of their stages and commands again, `--rounds` times, those of
CHECKOUT and of this checkout in turn. Prints a Markdown page; each figure is the median.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from table import machine

HERE = Path(__file__).parents[1]
sys.path += [str(HERE / "tests"), str(HERE / "tests" / "trainer")]
from tiny import tiny_policy  # noqa: E402

from smaller import smaller  # noqa: E402

EXAMPLES = ("safe-rlhf-rbr", "rlcd")
"""Together they have a stage of every type but `moderation`, which CHECKOUT may not have."""
REST = """What is left of a trained stage is torch and torch._dynamo, which transformers' attention masks and torch's optimizers
import."""
PACKAGES = ("crds", "operator", "sdk", "trainer_image")


@dataclass(frozen=True)
class Start:
    """A process to be started."""

    name: str
    words: tuple[str, ...]
    """After `python -m`."""
    work: Path | None = None
    """A stage's work folder; all in it but `stage.json` is removed before it starts."""
    product: Path | None = None
    """Removed, too."""

    def clear(self) -> None:
        """Forget that it ran before."""
        outputs = [path for path in self.work.iterdir() if path.name != "stage.json"] if self.work is not None else []
        for path in (*outputs, self.product):
            if path is not None and path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def prepare_job(folder: Path, example: str, model: Path) -> Path:
    """An example with a tiny model and a few steps; gives its job file."""
    folder.mkdir()
    job = smaller(YAML(typ="safe").load(HERE / "examples" / f"{example}.yaml"))
    for entry in job["spec"]["inputs"]:
        if entry["name"] == "base":
            entry["source"] = str(model)
        elif "://" not in entry["source"]:
            entry["source"] = str(HERE / "examples" / entry["source"])
    for module in (HERE / "examples").glob("*.py"):
        shutil.copy(module, folder)
    YAML().dump(job, folder / "job.yaml")
    return folder / "job.yaml"


def stages(folder: Path) -> dict[str, Start]:
    """The stages of a job that has run, by type: one of each."""
    starts = {}
    for path in sorted(folder.glob(".rlhf/work/*/*/stage.json")):
        file = json.loads(path.read_text())
        product = folder / ".rlhf" / "products" / f"{file['type']}-{file['digest']}"
        start = Start(f"stage {file['type']}", ("rlhf_trainer.launch", str(path)), path.parent, product)
        starts.setdefault(file["type"], start)
    return starts


def commands(job: Path) -> list[Start]:
    """What people wait for most often."""
    version = Start("`rlhf --version`", ("rlhf_sdk.cli", "--version"))
    return [version, Start("`rlhf validate`", ("rlhf_sdk.cli", "validate", str(job)))]


def seconds(start: Start, checkout: Path) -> float:
    """Processor time of a process and of those below it."""
    start.clear()
    paths = os.pathsep.join(str(checkout / package) for package in PACKAGES)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *start.words], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            raise SystemExit(f"{start.name} of {checkout} ended with {status}:\n{output.read().decode()[-4000:]}")
    return usage.ru_utime + usage.ru_stime


def measure(starts: Sequence[Start], checkouts: Sequence[Path], rounds: int) -> list[list[list[float]]]:
    """[rounds, starts, checkouts] seconds; one round more is run first, which also writes bytecode."""
    durations = [[[seconds(start, checkout) for checkout in checkouts] for start in starts] for _ in range(rounds + 1)]
    return durations[1:]


def page(starts: Sequence[Start], rounds: list[list[list[float]]]) -> str:
    """The results for people."""
    compared = len(rounds[0][0]) > 1
    columns = ["before, s", "now, s", "now / before"] if compared else ["seconds"]
    lines = [
        "# What starting costs",
        "",
        f"`python benchmarks/starting.py` on {machine()}: seconds of processor time of all processes of a tiny stage",
        f"or a command, median of {len(rounds)} rounds in turn; {os.getloadavg()[0]:.0f} other runnable processes when it ended.",
        "",
        f"| what | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for index, start in enumerate(starts):
        times = [each[index] for each in rounds]
        values = [statistics.median(column) for column in zip(*times, strict=True)]
        values += [statistics.median(now / before for before, now in times)] if compared else []
        lines.append(f"| {start.name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join([*lines, "", REST])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    checkouts = [HERE] if options.before is None else [options.before.resolve(), HERE]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = tiny_policy(root / "model")
        jobs = [prepare_job(root / example, example, model) for example in EXAMPLES]
        by_type: dict[str, Start] = {}
        for job in jobs:
            seconds(Start(f"rlhf run {job}", ("rlhf_sdk.cli", "run", str(job), "--output", "json")), HERE)
            by_type = {**stages(job.parent), **by_type}
        starts = [*commands(jobs[0]), *by_type.values()]
        print(page(starts, measure(starts, checkouts, options.rounds)))


if __name__ == "__main__":
    main()
