"""A FAKE stage process: keeps the launcher's contract (exit codes, files) and computes nothing.

    fake_stage.py SCRIPT.json STAGE.json

SCRIPT.json says by stage what to do: {"steps": 3, "exit": CODE, "reason", "message", "fails": first attempts that fail,
"children": processes to leave running, "wait": file to wait for after the steps, "hang": ignore SIGTERM, ...}.
Every start is noted in work/<uid>/<stage>/fake.jsonl.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from rlhf_api.digest import digest_of, digest_tree
from rlhf_api.job import RLHFJob
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile
from rlhf_api.store import find_verified, write_atomically, write_resolved


def main() -> int:
    script = json.loads(Path(sys.argv[1]).read_text())
    file = StageFile.model_validate_json(Path(sys.argv[2]).read_bytes())
    orders = {**script.get("*", {}), **script.get(file.stage, {})}
    work = Path(file.directories.work)
    note = {"pid": os.getpid(), "attempt": file.attempt, "threads": file.threads, "ranks": file.ranks_per_node}
    note["env"] = {name: os.environ.get(name) for name in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    with (work / "fake.jsonl").open("a") as out:
        out.write(json.dumps(note) + "\n")
    log = work / "logs" / f"a{file.attempt}" / "rank0.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{file.stage} attempt {file.attempt}\n" + orders.get("log", ""))
    stop = Stop(hang=orders.get("hang", False))
    for index in range(orders.get("children", 0)):
        child = subprocess.Popen(["sleep", "600"], start_new_session=index % 2 == 0)
        with (work / "children").open("a") as out:
            out.write(f"{child.pid}\n")
    storage = Path(file.directories.storage)
    if file.type != "prepare" and find_verified(storage, f"{file.type}-{file.digest}") is not None:
        return end(work, 0, "Reused", "it was there")
    steps(work, orders, stop)
    if stop.asked:
        (work / "checkpoints").mkdir(exist_ok=True)
        (work / "checkpoints" / "fake").write_text("saved")
        return end(work, 75, "Stopped", "stopped with a checkpoint")
    if file.attempt <= orders.get("fails", 0):
        return end(work, orders.get("exit", 1), orders.get("reason", ""), orders.get("message", ""))
    if "fails" not in orders and orders.get("exit", 0):
        if orders.get("failure"):
            publish(storage, file, work, orders)
        return end(work, orders["exit"], orders.get("reason", ""), orders.get("message", ""))
    if file.type == "prepare":
        prepare(file, work, storage)
    elif not orders.get("forget"):
        publish(storage, file, work, orders)
    return end(work, 0, "Done", "")


class Stop:
    """SIGTERM, noticed; `wait` ends at once when it comes."""

    def __init__(self, *, hang: bool) -> None:
        self.asked = False
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if hang else self._note)

    def _note(self, *_: object) -> None:
        self.asked = True

    def wait(self, seconds: float) -> None:
        select.select([self._read], [], [], seconds)


def steps(work: Path, orders: dict, stop: Stop) -> None:
    total = orders.get("steps", 2)
    for step in range(1, total + 1):
        if stop.asked:
            return
        with (work / "metrics.jsonl").open("a") as out:
            out.write(json.dumps({"step": step, "train/loss": 1.0 / step}) + "\n")
        if "pace" in orders:
            stop.wait(orders["pace"])
    gate = orders.get("wait")
    while gate and not stop.asked and not Path(gate).exists():
        stop.wait(0.02)


def prepare(file: StageFile, work: Path, storage: Path) -> None:
    """Digests of the sources' names stand for their content: nothing is read."""
    job = RLHFJob.model_validate(file.spec)
    inputs = {entry.name: ResolvedInput(digest_of(entry.source), entry.source) for entry in job.spec.inputs}
    functions = {key.partition(":")[2]: digest_of(key) for key in function_keys(job)}
    resolved = Resolved(inputs, functions)
    hits = []
    for stage in plan(job, resolved).stages:
        folder = storage / "products" / str(stage.product)
        if folder.is_dir() and not (folder / "fake-damage-unseen").exists():
            try:
                product = find_verified(storage, folder.name)
            except Exception:  # noqa: BLE001, S112 - a damaged one is no hit
                continue
            if product is not None and product.manifest.failure is None:
                hits.append(stage.name)
    write_resolved(work / "resolved.json", Resolved(inputs, functions, tuple(hits)))


def function_keys(job: RLHFJob) -> list[str]:
    from rlhf_api.fields import references

    return [found.key for found in references(job.spec) if found.key.startswith("function:")]


def publish(storage: Path, file: StageFile, work: Path, orders: dict) -> None:
    final = storage / "products" / f"{file.type}-{file.digest}"
    if final.exists():  # damaged: the real launcher moves it aside
        final.rename(final.with_name(f".damaged-{final.name}"))
    beside = final.with_name(f".{final.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    name = "report.html" if file.type == "report" else "weights.txt"
    (beside / name).write_text(f"{file.stage} {file.digest}\n" + json.dumps(sorted(file.outcomes)))
    manifest = Manifest(
        type=file.type, digest=file.digest, recipe=1, job=file.job, stage=file.stage, spec=file.spec, seed=file.seed,
        inputs={key: found.digest for key, found in file.inputs.items()}, files=digest_tree(beside), versions={},
        metrics=orders.get("metrics", {"loss": 0.5}), failure=orders.get("failure"),
    )  # fmt: skip
    write_atomically(beside / "manifest.json", manifest.model_dump_json().encode())
    beside.rename(final)


def end(work: Path, code: int, reason: str, message: str) -> int:
    if reason or message:
        (work / "termination.json").write_text(json.dumps({"code": code, "reason": reason, "message": message}))
    return code


if __name__ == "__main__":
    sys.exit(main())
