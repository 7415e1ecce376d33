"""A Python for stages that starts with torch and transformers already imported: importing them is most of a tiny stage.

`python()` is a program to use instead of `sys.executable`. It hands its arguments, environment, folder and standard
streams to a server of this test process, which forks itself to run them. Signals and the exit code pass through; who
kills the program kills what it runs. Whatever is not in WARM is started by the real interpreter.

For tests of what stages compute. What depends on how a process starts (environment of OpenMP or malloc, imports) is
tested with `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

WARM = ("rlhf_sdk.cli", "rlhf_trainer.launch", "rlhf_trainer.runtime.worker")
"""Modules that are run in a fork; and scripts beside this file."""
IMPORTS = (
    *(f"rlhf_trainer.runtime.{module}" for module in ("rendezvous", "launcher", "session", "devices")),
    *("rlhf_trainer.launch", "rlhf_trainer.telemetry.events", "rlhf_trainer.engine"),
    *(
        f"rlhf_trainer.stages.{stage}"
        for stage in ("prepare", "sft", "preference", "ppo", "evaluate", "simulate", "rules", "report")
    ),
    *("deepspeed", "peft", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
    *("rlhf_sdk.cli", "torch.distributed.tensor", "scipy.special", "huggingface_hub.repocard"),
)
"""What forks find imported."""
# Read by Hugging Face's libraries when they are imported; a job of these tests fetches nothing, so `prepare` can be warm.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
"""One thread a process, whatever it asks for: there is a worker of pytest for every core."""
HEADER = struct.Struct("!I")
STATUS = struct.Struct("!i")
CLIENT = """\
#!{python} -SE
import ctypes, json, os, signal, socket, struct, sys
words = sys.argv[1:]
module = words[1] if words[:1] == ["-m"] and len(words) > 1 else None
script = os.path.dirname(os.path.abspath(words[0])) == {here!r} if words and not words[0].startswith("-") else False
if not script and module not in {warm!r}:
    os.execv({python!r}, [{python!r}, *words])
if module == "rlhf_trainer.runtime.worker":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # a rank ends with its launcher
request = json.dumps([words, dict(os.environ), os.getcwd()]).encode()
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [struct.pack("!I", len(request))], [0, 1, 2])
server.sendall(request)
pid, = struct.unpack("!i", server.recv(4))
def forward(number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended: its exit code is on the way
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: forward(number))
code, = struct.unpack("!i", server.recv(4))
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> str:
    """The program; its server ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, program = folder / "socket", folder / "python"
    program.write_text(
        CLIENT.format(python=sys.executable, warm=WARM, here=str(Path(__file__).parent), address=str(address))
    )
    program.chmod(0o755)
    environment = {**os.environ, **OFFLINE, **CPU, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), str(program)],
        env=environment,
        stdin=subprocess.PIPE,  # closes with this process
        stdout=subprocess.PIPE,
    )
    atexit.register(server.kill)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the server of warm.py did not start: its words are above"
    return str(program)


@dataclass
class Request:
    """A program that a client wants to be run."""

    client: socket.socket
    words: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]


def receive(client: socket.socket) -> Request:
    """What a client has sent."""
    header, streams, _, _ = socket.recv_fds(client, HEADER.size, 3)
    (size,) = HEADER.unpack(header)
    content = b""
    while len(content) < size:
        part = client.recv(size - len(content))
        if not part:
            raise EOFError("the client was killed before it had asked")
        content += part
    words, environment, folder = json.loads(content)
    return Request(client, words, environment, folder, streams)


def become(request: Request, program: str) -> NoReturn:
    """In a fork: run what was asked for, as a process of its own."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number, stream in enumerate(request.streams):
            os.dup2(stream, number)
            os.close(stream)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.environment)
        sys.executable = program
        paths = request.environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [path for path in paths if path and path not in sys.path]
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy: the module is imported already
        if request.words[0] == "-m":
            sys.argv = request.words[1:]
            runpy.run_module(request.words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = request.words
            runpy.run_path(request.words[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - what the interpreter does with it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(address: str, program: str) -> None:
    """Fork for every client, and tell it how its program ended; until standard input closes."""
    import importlib

    for module in IMPORTS:
        importlib.import_module(module)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the tests' own
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    clients: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([0, ended, listener, *clients.values()], [], [])
        if 0 in readable:
            break
        if ended in readable:
            os.read(ended, 4096)
        for pid, client in list(clients.items()):
            if client in readable:  # it was killed
                end(pid)
        for pid in list(clients):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                client = clients.pop(pid)
                with contextlib.suppress(OSError):  # the client was killed
                    client.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
                client.close()
        if listener in readable:
            client, _ = listener.accept()
            try:
                request = receive(client)
            except (EOFError, OSError, struct.error):  # it was killed while it asked: nobody waits for an answer
                client.close()
                continue
            pid = os.fork()
            if pid == 0:
                listener.close()
                for connection in clients.values():
                    connection.close()
                request.client.close()
                os.close(ended)
                os.close(wake)
                become(request, program)
            for stream in request.streams:
                os.close(stream)
            with contextlib.suppress(OSError):  # killed meanwhile: seen in the next round
                request.client.sendall(STATUS.pack(pid))
            clients[pid] = request.client
    for pid in clients:
        end(pid)


def end(pid: int) -> None:
    """Kill what a fork runs, and its process group; before it has one of its own, itself."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
