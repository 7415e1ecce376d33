"""A FAKE stage process: keeps the launcher's contract (exit codes, files) and computes nothing.

    fake_stage.py SCRIPT.json STAGE.json

SCRIPT.json says what to do by stage ("*": every stage): {"steps": 3, "pace": seconds a step, "exit": CODE, "reason",
"message", "fails": how many attempts end with `exit`, "log": text, "wait": a file to wait for after the steps, "hang":
ignore SIGTERM, "serve": answer /progress, "children": processes to leave behind, "failure": a product with a failed gate, "forget": make none,
"metrics": of the product, "hits": what prepare reports}. Every start is noted in work/<uid>/<stage>/fake.jsonl.
Standard library only, so that a test can start many.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    script = json.loads(Path(sys.argv[1]).read_text())
    file = json.loads(Path(sys.argv[2]).read_text())
    orders = {**script.get("*", {}), **script.get(file["stage"], {})}
    work = Path(file["directories"]["work"])
    storage = Path(file["directories"]["storage"])
    stop = Stop(hang=orders.get("hang", False))
    keep_books(file, work, orders)
    if file["type"] != "prepare" and (storage / "products" / product(file)).exists() and orders.get("reuse"):
        return end(work, 0, "Reused", "it was there")
    steps(work, orders, stop)
    code, reason, message = orders.get("exit", 0), orders.get("reason", ""), orders.get("message", "")
    if stop.asked:
        (work / "checkpoints").mkdir(exist_ok=True)
        (work / "checkpoints" / "fake").write_text("saved")
        (work / "states.bin").write_text("remembered")
        return end(work, 75, "Stopped", "stopped with a checkpoint")
    if code and file["attempt"] <= orders.get("fails", 10**6):
        if orders.get("failure"):
            publish(storage, file, orders)
        if code < 0:
            os.kill(os.getpid(), -code)
        return end(work, code, reason, message)
    if file["type"] == "prepare":
        prepare(file, work, orders)
    elif not orders.get("forget"):
        publish(storage, file, orders)
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


def keep_books(file: dict, work: Path, orders: dict) -> None:
    environment = {name: os.environ.get(name) for name in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    note = {"pid": os.getpid(), "attempt": file["attempt"], "threads": file["threads"], "env": environment}
    with (work / "fake.jsonl").open("a") as out:
        out.write(
            json.dumps({**note, "ranks": file.get("ranksPerNode", 1), "outcomes": file.get("outcomes", {})}) + "\n"
        )
    log = work / "logs" / f"a{file['attempt']}" / "rank0.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{file['stage']} attempt {file['attempt']}\n" + orders.get("log", ""))
    for index in range(orders.get("children", 0)):
        child = subprocess.Popen(["sleep", "600"], start_new_session=index % 2 == 0)
        with (work / "children").open("a") as out:
            out.write(f"{child.pid}\n")


def serve(work: Path, progress: dict) -> None:
    """`/progress`, as the trainer answers it."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(progress).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (work / "endpoint.json").write_text(json.dumps({"host": "127.0.0.1", "port": server.server_port}))


def steps(work: Path, orders: dict, stop: Stop) -> None:
    total = orders.get("steps", 2)
    progress = {"phase": "running", "total": total, "unit": "steps", "tokensPerSecond": 480.0}
    if orders.get("serve"):
        serve(work, progress)
    for step in range(1, total + 1):
        headline = {"loss": 1.0 / step, **orders.get("headline", {})}
        progress.update(step=step, etaSeconds=(total - step) * orders.get("pace", 0.0), headline=headline)
        if stop.asked:
            return
        with (work / "metrics.jsonl").open("a") as out:
            out.write(json.dumps({"step": step, "loss": 1.0 / step}) + "\n")
        if "pace" in orders:
            stop.wait(orders["pace"])
    gate = orders.get("wait")
    while gate and not stop.asked and not Path(gate).exists():
        stop.wait(0.02)


def prepare(file: dict, work: Path, orders: dict) -> None:
    """The digest of a source's name stands for that of its content: nothing is read."""
    inputs = {
        entry["name"]: {"digest": sha(entry["source"].encode()), "path": entry["source"]}
        for entry in file["spec"]["spec"].get("inputs", [])
    }
    functions = {name: sha(name.encode()) for name in functions_in(file["spec"])}
    resolved = {"version": "1", "inputs": inputs, "functions": functions, "hits": orders.get("hits", [])}
    (work / "resolved.json").write_text(json.dumps(resolved))


def functions_in(value: object) -> list[str]:
    if isinstance(value, dict):
        names = [value["function"]] if isinstance(value.get("function"), str) else []
        return names + [name for item in value.values() for name in functions_in(item)]
    return [name for item in value for name in functions_in(item)] if isinstance(value, list) else []


def product(file: dict) -> str:
    return f"{file['type']}-{file['digest']}"


def publish(storage: Path, file: dict, orders: dict) -> None:
    final = storage / "products" / product(file)
    if final.exists():  # damaged: the real launcher moves it aside too
        final.rename(final.with_name(f".damaged-{final.name}"))
    beside = final.with_name(f".{final.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    name = "report.html" if file["type"] == "report" else "weights.txt"
    (beside / name).write_text(f"{file['stage']} {file['digest']}\n{sorted(file.get('outcomes', {}))}\n")
    manifest = {
        "type": file["type"], "digest": file["digest"], "recipe": 1, "job": file["job"], "stage": file["stage"],
        "spec": effective(file), "seed": file["seed"], "versions": {}, "failure": orders.get("failure"),
        "inputs": {key: entry["digest"] for key, entry in file.get("inputs", {}).items()},
        "files": {name: sha((beside / name).read_bytes())}, "metrics": orders.get("metrics", {"loss": 0.5}),
    }  # fmt: skip
    (beside / "manifest.json").write_text(json.dumps(manifest))
    beside.rename(final)


def effective(file: dict) -> dict:
    """The spec with defaults, of which stage.json has none: as far as tests look at them."""
    return {"epochs": 1.0, **file["spec"]} if file["type"] in ("sft", "rewardModel", "costModel") else file["spec"]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def end(work: Path, code: int, reason: str, message: str) -> int:
    if reason or message:
        (work / "termination.json").write_text(json.dumps({"code": code, "reason": reason, "message": message}))
    return code


if __name__ == "__main__":
    sys.exit(main())
