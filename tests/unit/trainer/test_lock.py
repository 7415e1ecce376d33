"""The writer's lease: one makes a product, the others wait, and a holder that is gone does not block them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_api.store import write_atomically
from rlhf_trainer.storage import lock
from rlhf_trainer.storage.lock import LEASE_SECONDS, Holder, Lease, acquire, newest, started_at

ME = Holder("uid-me", "sft", "mine", 0, "host-a", "boot-a", 10, "1000")
OTHER = Holder("uid-other", "sft", "theirs", 0, "host-b", "boot-b", 20, "2000")


class Waiter:
    """A waiter whose clock moves only while it waits."""

    def __init__(self, folder: Path, me: Holder = ME) -> None:
        self.folder, self.me = folder, me
        self.now = 0.0
        self.told: list[Holder] = []
        self.during = lambda: None
        self.there = False
        self.stop_after = 1000.0

    def acquire(self) -> Lease | None:
        return acquire(
            self.folder,
            self.me,
            done=lambda: self.there,
            waiting=self.told.append,
            pause=self.pause,
            clock=lambda: self.now,
        )

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        self.during()
        return self.now >= self.stop_after


def hold(folder: Path, holder: Holder, generation: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{generation:06d}.json", json.dumps(holder.__dict__).encode())


def test_a_free_lock_is_taken_at_once(tmp_path):
    waiter = Waiter(tmp_path / "lock")
    assert waiter.acquire() is not None
    assert newest(tmp_path / "lock") == (1, ME)
    assert (waiter.now, waiter.told) == (0.0, [])


def test_a_released_lock_is_taken_at_once(tmp_path):
    first = Waiter(tmp_path, OTHER).acquire()
    with first:
        pass
    waiter = Waiter(tmp_path)
    assert waiter.acquire() is not None
    assert waiter.now == 0.0
    assert newest(tmp_path) == (2, ME)


def test_a_holder_that_beats_is_waited_for_and_named_once(tmp_path):
    hold(tmp_path, OTHER)
    waiter = Waiter(tmp_path)
    waiter.stop_after = 10 * LEASE_SECONDS
    waiter.during = lambda: hold(tmp_path, replace(OTHER, beat=int(waiter.now)))
    assert waiter.acquire() is None
    assert [holder.job for holder in waiter.told] == ["theirs"]


def test_a_silent_holder_is_taken_over_after_the_lease_by_the_waiters_own_clock(tmp_path):
    hold(tmp_path, OTHER)
    waiter = Waiter(tmp_path)
    assert waiter.acquire() is not None
    assert LEASE_SECONDS <= waiter.now < LEASE_SECONDS + 5
    assert newest(tmp_path) == (2, ME)


def test_the_product_ends_the_waiting(tmp_path):
    hold(tmp_path, OTHER)
    waiter = Waiter(tmp_path)
    waiter.during = lambda: setattr(waiter, "there", waiter.now >= 5)
    assert waiter.acquire() is None
    assert waiter.now == 5.0


def test_an_earlier_attempt_of_the_same_stage_on_another_node_does_not_block_the_next(tmp_path):
    hold(tmp_path, replace(ME, host="host-lost", boot="boot-lost"))
    waiter = Waiter(tmp_path, replace(ME, attempt=1))
    assert waiter.acquire() is not None
    assert waiter.now == 0.0


def test_a_later_attempt_is_not_taken_over_by_an_earlier_one(tmp_path):
    hold(tmp_path, replace(ME, attempt=2, host="host-b", boot="boot-b"))
    waiter = Waiter(tmp_path, replace(ME, attempt=1))
    waiter.stop_after = 5.0
    assert waiter.acquire() is None


def test_a_dead_process_of_this_machine_does_not_block(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = replace(OTHER, host=ME.host, boot=ME.boot, pid=child.pid, started=started_at(child.pid))
    assert not ME.gone(alive)
    child.kill()
    child.wait()
    assert ME.gone(alive)
    hold(tmp_path, alive)
    waiter = Waiter(tmp_path)
    assert waiter.acquire() is not None
    assert waiter.now == 0.0


def test_a_reused_pid_is_another_process():
    me = Holder.me(type("File", (), {"uid": "u", "stage": "s", "job": "j", "attempt": 0}))
    assert not me.gone(me)
    assert me.gone(replace(me, started="1"))


def test_of_many_that_take_over_at_once_one_wins(tmp_path):
    hold(tmp_path, replace(OTHER, released=True))
    barrier = threading.Barrier(8)
    won: list[int] = []

    def take(number: int) -> None:
        barrier.wait()
        if lock._take(tmp_path, 2, replace(ME, pid=number)):
            won.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert newest(tmp_path)[1].pid == won[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002.json"]


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.005)
    waiter = Waiter(tmp_path)
    beaten = threading.Event()
    real = Lease._write

    def write(self, holder):
        real(self, holder)
        if holder.beat >= 3:
            beaten.set()

    monkeypatch.setattr(Lease, "_write", write)
    with waiter.acquire():
        assert beaten.wait(120)
    assert newest(tmp_path)[1].released


def test_a_holder_that_lost_the_lock_says_so_and_leaves_it_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.005)
    held_lock = Waiter(tmp_path).acquire()
    with held_lock:
        hold(tmp_path, OTHER, 2)
        held_lock._thread.join(120)
    assert "was taken over by job theirs" in caplog.text
    assert newest(tmp_path) == (2, OTHER)


@pytest.mark.parametrize("content", ["", "{", '{"unknown": 1}'])
def test_a_lock_that_cannot_be_read_is_waited_for_until_it_expires(tmp_path, content):
    (tmp_path / "000001.json").write_text(content)
    waiter = Waiter(tmp_path)
    assert waiter.acquire() is not None
    assert waiter.now >= LEASE_SECONDS
