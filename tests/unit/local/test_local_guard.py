"""The guard: none of a stage's processes outlives the run, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.local_job import running
from rlhf_sdk.local import guard


class Guarded:
    """A command under a guard, and the pipe whose closing says that the runner is gone."""

    def __init__(self, folder: Path, program: str, grace: float = 30.0) -> None:
        self.said = folder / "said"
        self._log = folder / "log"
        read, self._write = os.pipe()
        options = ["--alive", str(read), "--grace", str(grace), "--log", str(self._log)]
        self.process = subprocess.Popen(
            [sys.executable, "-S", guard.__file__, *options, "--", sys.executable, "-S", "-c", program, str(self.said)],
            pass_fds=(read,),
        )
        os.close(read)

    def abandon(self) -> None:
        """As when the runner is killed."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def words(self) -> list[str]:
        return self.said.read_text().split() if self.said.exists() else []

    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def under(tmp_path: Path) -> Iterator[Callable[..., Guarded]]:
    started: list[Guarded] = []

    def make(program: str, grace: float = 30.0) -> Guarded:
        started.append(Guarded(tmp_path, program, grace))
        return started[-1]

    yield make
    for guarded in started:
        guarded.abandon()
        guarded.process.kill()
        guarded.process.wait()


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


PRELUDE = """
import os, signal, subprocess, sys, time
def say(*words):
    with open(sys.argv[1], "a") as file: file.write(" ".join(map(str, words)) + "\\n")
"""
STAY = PRELUDE + "say(os.getpid()); time.sleep(600)\n"
SAVES = PRELUDE + "signal.signal(signal.SIGTERM, lambda *_: (say('saved'), os._exit(75)))\n" + STAY
HANGS = PRELUDE + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAY
WITH_RANKS = PRELUDE + (
    "ranks = [subprocess.Popen(['sleep', '600'], start_new_session=own) for own in (True, False)]\n"
    "grand = subprocess.Popen(['sh', '-c', 'sleep 600 & echo $! >> $0; wait', sys.argv[1]], start_new_session=True)\n"
    "say(*(rank.pid for rank in ranks), grand.pid)\n"
)


@pytest.mark.parametrize(("program", "code"), [("raise SystemExit(0)", 0), ("raise SystemExit(3)", 3)])
def test_the_exit_code_is_the_stages(under: Callable[..., Guarded], program: str, code: int) -> None:
    assert under(program).process.wait(120) == code


def test_a_signals_end_is_128_more(under: Callable[..., Guarded]) -> None:
    assert under("import os; os.kill(os.getpid(), 11)").process.wait(120) == 128 + 11


def test_what_the_stage_prints_is_kept(under: Callable[..., Guarded]) -> None:
    guarded = under("import sys; print('out', flush=True); sys.stderr.write('err\\n')")
    guarded.process.wait(120)
    assert guarded.log() == "out\nerr\n"


def test_sigterm_is_passed_on(under: Callable[..., Guarded]) -> None:
    guarded = under(SAVES)
    until(lambda: len(guarded.words()) == 1)
    guarded.process.terminate()
    assert guarded.process.wait(120) == 75
    assert guarded.words()[1:] == ["saved"]


def test_sigterm_twice_kills(under: Callable[..., Guarded]) -> None:
    guarded = under(HANGS)
    until(lambda: len(guarded.words()) == 1)
    while guarded.process.poll() is None:
        guarded.process.terminate()
        time.sleep(0.01)
    assert guarded.process.returncode == 137
    assert not running(int(guarded.words()[0]))


def test_when_the_runner_is_gone_the_stage_saves_and_ends(under: Callable[..., Guarded]) -> None:
    guarded = under(SAVES)
    until(lambda: len(guarded.words()) == 1)
    guarded.abandon()
    assert guarded.process.wait(120) == 75
    assert guarded.words()[1:] == ["saved"]


def test_one_that_does_not_end_in_its_grace_period_is_killed(under: Callable[..., Guarded]) -> None:
    guarded = under(HANGS, grace=0.1)
    until(lambda: len(guarded.words()) == 1)
    guarded.abandon()
    assert guarded.process.wait(120) == 137
    assert not running(int(guarded.words()[0]))


def test_ranks_in_sessions_of_their_own_end_with_the_stage(under: Callable[..., Guarded]) -> None:
    guarded = under(WITH_RANKS + "while len(open(sys.argv[1]).read().split()) < 4: time.sleep(0.01)\nos._exit(1)")
    assert guarded.process.wait(120) == 1
    assert len(guarded.words()) == 4
    assert [pid for pid in guarded.words() if running(int(pid))] == []


def test_ranks_end_when_the_runner_is_gone_and_the_launcher_hangs(under: Callable[..., Guarded]) -> None:
    guarded = under("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WITH_RANKS + STAY, grace=0.1)
    until(lambda: len(guarded.words()) == 5)
    guarded.abandon()
    assert guarded.process.wait(120) == 137
    assert [pid for pid in guarded.words() if running(int(pid))] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_even_a_killed_guard_lets_the_stage_save(under: Callable[..., Guarded]) -> None:
    guarded = under(SAVES)
    until(lambda: len(guarded.words()) == 1)
    os.kill(guarded.process.pid, signal.SIGKILL)
    until(lambda: not running(int(guarded.words()[0])))
    assert guarded.words()[1:] == ["saved"]
