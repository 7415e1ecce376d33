"""The GPU script: see `benchmarks/gpu/run`. Each part is a row of the table or more; a part that fails is a row, too.

Parts run in the order below, each only when the time left is enough for it. Results are written after every part.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jobs import SIZES, SMALL, Size, resumed_job, whole_job, write_data, write_model
from safetensors.torch import load_file
from table import Outcome, Row, as_json, forward_flops, markdown, memory_row, peak_flops, phase_rows

from rlhf_api.gpus import has_gpu
from rlhf_api.load import parse_job
from rlhf_api.memory import estimate, read_local_facts
from rlhf_api.memory.terms import Device
from rlhf_trainer.runtime.devices import made_with

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINED = {"sft": "sft", "reward": "rewardModel", "cost": "costModel", "ppo": "ppo", "evaluate": "evaluate"}
PYTEST: dict[int, Outcome] = {0: "yes", 5: "skipped"}
"""By pytest's exit code; 5: there was no test to run, since there is no GPU."""
STOP_SECONDS = 20.0
"""A run that is out of time gets this long to save and end."""


class Bench:
    """Runs the parts and keeps their rows."""

    def __init__(self, out: Path, work: Path, size: Size, minutes: float) -> None:
        self.out = out
        self.work = work
        self.size = size
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self.rows: list[Row] = []
        self._end = time.monotonic() + 60 * minutes
        self.machine = {**made_with(self.device), "cuda": str(torch.version.cuda), "minutes": f"{minutes:g}"}

    @property
    def seconds_left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def part(self, name: str, needs: float, run: Callable[[], None]) -> None:
        """Run a part if `needs` seconds are left; write what is known so far."""
        begun = time.monotonic()
        if self.seconds_left < needs:
            self.rows.append(Row(name, "all", "skipped", f"{self.seconds_left:.0f} s left, it needs about {needs:.0f}"))
        else:
            print(f"{name}: {self.seconds_left:.0f} s left", flush=True)
            try:
                run()
            except Exception as error:  # noqa: BLE001 - a row of the table, its traceback printed
                traceback.print_exc()
                self.rows.append(Row(name, "all", "no", f"{type(error).__name__}: {error}"))
            seconds = {"seconds": time.monotonic() - begun}
            self.rows.append(Row(name, "time", "measured", numbers=seconds))
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.md").write_text(markdown(self.rows, self.machine))
        (self.out / "gpu.json").write_text(as_json(self.rows, self.machine))

    def look_at_device(self) -> None:
        """Is there a GPU, does the launcher see it, does it know bfloat16?"""
        cuda = self.device.type == "cuda"
        if not cuda:
            self.rows.append(
                Row("device", "all", "skipped", "a trial of this script on the CPU: nothing here is a result")
            )
            return
        self.rows.append(Row("device", "the launcher finds it", _yes(has_gpu())))
        self.rows.append(Row("device", "bfloat16", _yes(torch.cuda.is_bf16_supported())))

    def test(self) -> None:
        """tests/gpu."""
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"]
        done = run_for(command, min(120.0, self.seconds_left), self.out / "tests.log")
        last = (self.out / "tests.log").read_text().strip().splitlines()[-1:]
        self.rows.append(Row("tests/gpu", "pytest", PYTEST.get(done, "no"), " ".join(last)))

    def resume(self) -> None:
        """A job stopped in its SFT and again in its PPO, beside the same job undisturbed."""
        folder = self._prepared("small", SMALL)
        job = resumed_job(folder)
        (folder / "job.json").write_text(json.dumps(job))
        plain = self._run(folder / "job.json", folder / "plain")
        if plain != 0:
            raise RuntimeError(f"the undisturbed run ended with {plain}; see resume-plain.log")
        stops = [self._stop_in(stage, folder) for stage in ("sft", "ppo")]
        code = self._run(folder / "job.json", folder / "stopped")
        for stage, stopped in zip(("sft", "ppo"), stops, strict=True):
            if not stopped:
                note = "it ended before it could be stopped"
                self.rows.append(Row("resume", f"{stage}, float32", "skipped", note))
                continue
            same, note = same_weights(*(product(folder / where, stage) for where in ("plain", "stopped")))
            note = note if code == 0 else f"the resumed run ended with {code}"
            self.rows.append(Row("resume", f"{stage}, float32, bit for bit", _yes(same and code == 0), note))

    def _stop_in(self, stage: str, folder: Path) -> bool:
        """Start or resume the job and stop it after the stage's first checkpoint; False: it was over before."""
        storage = folder / "stopped"
        process, log = self._start(folder / "job.json", storage)
        with log:
            while process.poll() is None and self.seconds_left > STOP_SECONDS:
                if any(storage.glob(f"work/*/{stage}/checkpoints/step-*")):
                    process.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.02)
            return ended(process) == 75

    def stages(self) -> None:
        """Every trained stage on the large model: does it run, how fast, in how much memory?"""
        folder = self._prepared("large", self.size)
        document = whole_job(folder, self.size)
        (folder / "job.json").write_text(json.dumps(document))
        storage = folder / "whole"
        code = self._run(folder / "job.json", storage, keep=60.0)
        config = json.loads((folder / "model" / "config.json").read_text())
        job = parse_job(document)
        facts = read_local_facts(job, folder)
        kind: Device = "cuda" if self.device.type == "cuda" else "cpu"
        how = f"{self.size.dtype}, {'NCCL' if kind == 'cuda' else 'Gloo'} with one rank"
        for stage, stage_type in TRAINED.items():
            timings = read_timings(storage, stage)
            done = any(storage.glob(f"work/*/{stage}/termination.json")) and product(storage, stage) is not None
            note = "" if done else f"the run ended with {code}; {last_words(storage, stage)}"
            self.rows.append(Row(stage, how, _yes(done), note))
            if not timings:
                continue
            forward = forward_flops(config, self.size.prompt + self.size.answer)
            peak = peak_flops(self.machine["processor"], self.size.dtype)
            self.rows += phase_rows(stage, stage_type, timings, forward=forward, peak=peak)
            need = estimate(job, stage, facts.models, device=kind, lengths=facts.lengths)
            self.rows.append(memory_row(stage, need.bytes if need else None, timings))

    def sampling(self) -> None:
        """Our sampling beside transformers' generate, on the large model."""
        folder = self._prepared("large", self.size)
        command = [sys.executable, "benchmarks/sampling.py", str(folder / "model"), "--dtype", self.size.dtype]
        command += ["--device", self.device.type, "--rows", "32", "--longest", str(min(128, 4 * self.size.answer))]
        log = self.out / "sampling.log"
        code = run_for(command, self.seconds_left, log)
        lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
        if code != 0 or not lines:
            raise RuntimeError(f"ended with {code}; see sampling.log")
        rates = json.loads(lines[-1])
        names = ("ours_tokens_per_s", "transformers_tokens_per_s", "ratio")
        self.rows.append(Row("sampling", "beside generate", "measured", numbers={name: rates[name] for name in names}))

    def _prepared(self, name: str, size: Size) -> Path:
        """A folder with model and data, made once."""
        folder = self.work / name
        if not folder.exists():
            folder.mkdir(parents=True)
            write_model(folder / "model", size, self.device.type)
            write_data(folder, size, 4 * size.batch)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # the parts are processes of their own
        return folder

    def _start(self, job: Path, storage: Path) -> tuple[subprocess.Popen[bytes], Any]:
        self.out.mkdir(parents=True, exist_ok=True)
        log = (self.out / f"{job.parent.name}-{storage.name}.log").open("ab")
        command = [sys.executable, "-m", "rlhf_sdk.cli", "run", str(job), "--storage", str(storage), "--plain"]
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY), log

    def _run(self, job: Path, storage: Path, keep: float = 0.0) -> int:
        """Run a job to its end, or until only `keep` seconds are left."""
        process, log = self._start(job, storage)
        with log:
            try:
                return process.wait(max(1.0, self.seconds_left - keep - STOP_SECONDS))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                return ended(process)


def run_for(command: list[str], seconds: float, log: Path) -> int:
    """A command's exit code; 124: it was ended after `seconds`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        try:
            done = subprocess.run(command, stdout=file, stderr=file, cwd=REPOSITORY, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return 124
    return done.returncode


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a run that was asked to stop; it is killed if it does not."""
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def product(storage: Path, stage: str) -> Path | None:
    """The product of a stage's run; None: there is none."""
    for state in sorted(storage.glob("work/*/state.json")):
        name = json.loads(state.read_text())["stages"].get(stage, {}).get("product")
        if name:
            return storage / "products" / str(name)
    return None


def same_weights(first: Path | None, second: Path | None) -> tuple[bool, str]:
    """Whether two products hold the same bits; and what differs."""
    if first is None or second is None:
        return False, "a product is missing"
    names = sorted(path.relative_to(first) for path in first.rglob("*.safetensors"))
    if not names:
        return False, f"{first.name} holds no weights"
    for name in names:
        mine, theirs = load_file(first / name), load_file(second / name)
        for key, weight in mine.items():
            if not torch.equal(weight, theirs[key]):
                return False, f"{key} differs by {float((weight - theirs[key]).abs().max()):.3g}"
    return True, ""


def read_timings(storage: Path, stage: str) -> list[dict[str, Any]]:
    """Lines of a stage's timings.jsonl."""
    return [json.loads(line) for path in storage.glob(f"work/*/{stage}/timings.jsonl") for line in path.open()]


def last_words(storage: Path, stage: str) -> str:
    """Why a stage ended, in its own words."""
    for path in storage.glob(f"work/*/{stage}/termination.json"):
        summary = json.loads(path.read_text())
        return f"{summary.get('reason')}: {summary.get('message')}"
    return "it did not end by itself"


def _yes(holds: bool) -> Outcome:
    return "yes" if holds else "no"


@contextmanager
def folder_of(folder: Path | None) -> Iterator[Path]:
    """Where models and runs lie: a temporary folder unless one is given."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rlhf-gpu-") as temporary:
        yield Path(temporary)


def main() -> int:
    """Run all parts; 0 when every check that was made holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--work", type=Path, help="where models and runs lie; by default a temporary folder")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    if options.size == "full" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --size tiny tries the script on a CPU")
    with folder_of(options.work) as work:
        bench = Bench(options.out.resolve(), work.resolve(), SIZES[options.size], options.minutes)
        bench.part("device", 0, bench.look_at_device)
        bench.part("resume", 60, bench.resume)
        bench.part("stages", 60, bench.stages)
        bench.part("sampling", 30, bench.sampling)
        bench.part("tests/gpu", 30, bench.test)
    print((bench.out / "gpu.md").read_text())
    return int(any(row.outcome == "no" for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
