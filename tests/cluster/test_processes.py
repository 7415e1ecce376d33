"""Programs in the background end when told to, and their pid files never name a stranger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import images, sessions
from cluster.processes import Died, Process, living, stop_all, wait


def sleeper(folder: Path) -> Process:
    """A program that does nothing for a while."""
    return Process("sleeper", lambda: ["sleep", "1000"], folder)


def state(pid: int) -> str:
    """As the kernel has it: T is stopped; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_it_runs_until_it_is_stopped(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.start()
    assert process.pid() is not None
    process.stop()
    assert process.pid() is None
    assert not process.pid_file.exists()


def test_a_killed_one_can_be_started_again(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.start()
    first = process.pid()
    process.kill()
    assert wait(lambda: process.pid() is None, 10)
    process.start()
    assert process.pid() not in (None, first)
    process.stop()


def test_one_whose_first_thread_ended_runs_as_long_as_another_does(tmp_path: Path) -> None:
    """A zombie by its state, but its ports are not free yet."""
    leave = "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n"
    leave += "ctypes.CDLL(None).syscall(60, 0)"  # exit, of this thread alone
    process = Process("threads", lambda: [sys.executable, "-c", leave], tmp_path)
    process.start()
    pid = process.pid()
    assert pid is not None
    assert wait(lambda: state(pid) == "Z", 60)
    assert process.pid() == pid
    process.kill()
    assert process.pid() is None


def test_paused_it_stands_still_and_can_be_stopped(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.start()
    pid = process.pid()
    assert pid is not None
    process.pause()
    assert wait(lambda: state(pid) == "T", 10)
    process.stop()
    assert process.pid() is None


def test_one_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    process = Process("broken", lambda: ["sh", "-c", "echo no such flag >&2; exit 1"], tmp_path)
    process.start()
    with pytest.raises(Died, match=r"broken ended(.|\n)*no such flag"):
        process.until(lambda: False, 10)


def test_another_command_finds_and_ends_it(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.start()
    stop_all(tmp_path)
    assert process.pid() is None
    assert list(tmp_path.glob("*.pid")) == []


def test_a_pid_given_to_another_program_since_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "old.pid"
    file.write_text(str(os.getpid()))
    os.utime(file, (1, 1))  # older than this process
    assert living(file) is None


def test_what_a_killed_test_process_left_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_CLUSTER_HOME", str(tmp_path))
    tests = Path(__file__).parents[1]
    code = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(tests)!r})\n"
        "from cluster.processes import Process\n"
        "from cluster.sessions import new_folder\n"
        "folder = new_folder()\n"
        "Process('sleeper', lambda: ['sleep', '1000'], folder).start()\n"
        "print(folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = Path(ended.stdout.strip())
    assert living(folder / "sleeper.pid") is not None
    pid = int((folder / "sleeper.pid").read_text())
    mine = sessions.new_folder()
    assert not folder.exists()
    assert wait(lambda: state(pid) in ("", "Z"), 60)
    assert mine.parent.name == sessions.name(os.getpid())


def test_several_sweep_at_once_what_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of one test run begin together, after a run whose workers are gone."""
    monkeypatch.setenv("RLHF_CLUSTER_HOME", str(tmp_path))
    for pid in range(1, 200):
        (tmp_path / "sessions" / f"{pid}-gone" / "0").mkdir(parents=True)
    (tmp_path / "sessions" / sessions.name(os.getpid()) / "0").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        for swept in [pool.submit(sessions.sweep) for _ in range(8)]:
            swept.result()
    assert [each.name for each in (tmp_path / "sessions").glob("[0-9]*")] == [sessions.name(os.getpid())]


def test_an_archive_is_one_layer_of_the_files(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    images.write_archive(archive, "localhost/nothing:1", {"nothing": b"#!"}, ["/nothing"])
    listed = subprocess.run(["tar", "tf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
    assert "manifest.json" in listed
    assert "layer.tar" in listed


def test_an_image_that_is_not_taken_ends_in_words_and_not_in_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: the one who writes gigabytes must not wait for one who has given up."""
    monkeypatch.setattr(images, "CTR", ("false",))
    with pytest.raises(RuntimeError, match="yes: containerd took no image"):
        images.stream(tmp_path / "socket", ["yes"])
