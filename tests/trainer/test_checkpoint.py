"""Checkpoints: verified before they are used, the last ones kept, and a swap that can be interrupted anywhere."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_trainer import rng
from rlhf_trainer.exits import InputError, StorageFull
from rlhf_trainer.storage.checkpoints import Checkpoints

DIGEST = "a" * 64


def checkpoints(folder: Path, **fields) -> Checkpoints:
    return Checkpoints(folder, **{"digest": DIGEST, **fields})


def writer(text: str):
    def write(folder: Path) -> None:
        (folder / "rank-00000").mkdir()
        (folder / "rank-00000" / "task.pt").write_text(text)
        (folder / "weights.bin").write_bytes(text.encode() * 100)

    return write


def save(folder: Path, *steps: int, **fields) -> None:
    for step in steps:
        checkpoints(folder, **fields).save(step, writer(f"step {step}"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_without_any_there_is_none(tmp_path):
    assert checkpoints(tmp_path / "never").latest() is None


def test_the_newest_is_given(tmp_path):
    save(tmp_path, 3, 6)
    newest = checkpoints(tmp_path).latest()
    assert newest is not None
    assert (newest.step, (newest.path / "rank-00000" / "task.pt").read_text()) == (6, "step 6")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_are_kept(tmp_path, keep):
    save(tmp_path, 9, 10, 99, 100, keep=keep)
    assert names(tmp_path) == [f"step-{step:08d}" for step in (9, 10, 99, 100)][-keep:]


def one_byte(checkpoint: Path) -> str:
    content = bytearray((checkpoint / "weights.bin").read_bytes())
    content[17] ^= 4
    (checkpoint / "weights.bin").write_bytes(content)
    return "weights.bin is changed"


def cut_short(checkpoint: Path) -> str:
    with (checkpoint / "weights.bin").open("r+b") as file:
        file.truncate(50)
    return "weights.bin is changed"


def removed(checkpoint: Path) -> str:
    (checkpoint / "rank-00000" / "task.pt").unlink()
    return "rank-00000/task.pt is missing"


def added(checkpoint: Path) -> str:
    (checkpoint / "rank-00000" / "evil.pt").touch()
    return "rank-00000/evil.pt is not in its manifest"


def no_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").unlink()
    return "manifest.json cannot be read"


def torn_manifest(checkpoint: Path) -> str:
    text = (checkpoint / "manifest.json").read_text()
    (checkpoint / "manifest.json").write_text(text[: len(text) // 2])
    return "manifest.json cannot be read"


@pytest.mark.parametrize("damage", [one_byte, cut_short, removed, added, no_manifest, torn_manifest])
def test_a_damaged_newest_is_said_and_the_one_before_is_used(tmp_path, caplog, damage):
    save(tmp_path, 3, 6)
    damage_message = damage(tmp_path / "step-00000006")
    newest = checkpoints(tmp_path).latest()
    assert newest is not None
    assert newest.step == 3
    assert "step-00000006 is not used" in caplog.text
    assert damage_message in caplog.text


def test_with_all_damaged_the_run_starts_from_the_beginning(tmp_path):
    save(tmp_path, 3, 6)
    for name in names(tmp_path):
        one_byte(tmp_path / name)
    assert checkpoints(tmp_path).latest() is None


def test_a_checkpoint_of_another_spec_is_not_used(tmp_path, caplog):
    save(tmp_path, 5, digest="b" * 64)
    assert checkpoints(tmp_path).latest() is None
    assert "was made for digest bbbbbbbbbbbb, this stage has aaaaaaaaaaaa" in caplog.text


def test_later_steps_of_another_spec_do_not_crowd_out_new_ones(tmp_path):
    save(tmp_path, 50, 60, digest="b" * 64)
    assert checkpoints(tmp_path).latest() is None
    save(tmp_path, 3)
    newest = checkpoints(tmp_path).latest()
    assert newest is not None
    assert newest.step == 3


def test_another_zero_stage_is_refused_in_words(tmp_path):
    checkpoints(tmp_path, sharding="zero 0, offloadOptimizer false").save(3, writer("a"))
    resharded = checkpoints(tmp_path, sharding="zero 2, offloadOptimizer false")
    with pytest.raises(InputError, match="was written with zero 0, offloadOptimizer false; found zero 2") as caught:
        resharded.latest()
    assert (caught.value.code, caught.value.reason) == (2, "ShardingChanged")
    assert checkpoints(tmp_path, sharding="zero 0, offloadOptimizer false").latest() is not None


def test_one_that_does_not_tell_its_zero_stage_is_used(tmp_path):
    """As an earlier version wrote it."""
    checkpoints(tmp_path).save(3, writer("a"))
    assert checkpoints(tmp_path, sharding="zero 2, offloadOptimizer false").latest() is not None


def test_another_number_of_ranks_is_refused_in_words(tmp_path):
    save(tmp_path, 5, world=1)
    with pytest.raises(InputError, match=r"written by 1 ranks, this stage runs 2.*Run 1 ranks") as caught:
        checkpoints(tmp_path, world=2)._newest()
    assert (caught.value.code, caught.value.reason) == (2, "WorldSizeChanged")


def test_the_same_step_saved_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    checkpoints(tmp_path).save(3, writer("again"))
    assert (checkpoints(tmp_path).latest().path / "rank-00000" / "task.pt").read_text() == "again"
    assert names(tmp_path) == ["step-00000003"]


def test_killed_while_saving_nothing_of_it_is_left(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "step-00000006.tmp").mkdir()
    writer("half")(tmp_path / "step-00000006.tmp")
    assert checkpoints(tmp_path).latest().step == 3
    assert names(tmp_path) == ["step-00000003"]


def test_killed_between_save_and_swap_the_replaced_one_is_used(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "step-00000003").rename(tmp_path / "step-00000003.old")
    (tmp_path / "step-00000003.tmp").mkdir()
    writer("new")(tmp_path / "step-00000003.tmp")
    assert checkpoints(tmp_path).latest().step == 3
    assert names(tmp_path) == ["step-00000003"]


def test_killed_after_the_swap_the_new_one_is_used(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "step-00000003").rename(tmp_path / "step-00000003.old")
    save(tmp_path, 3)
    (tmp_path / "step-00000001.gone").mkdir()
    assert checkpoints(tmp_path).latest().step == 3
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_folder_and_space_and_the_last_checkpoint_stays(tmp_path, number):
    save(tmp_path, 3)

    def write(folder: Path) -> None:
        writer("half")(folder)
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageFull, match=rf"saving the checkpoint of step 6 in {tmp_path}: .* MiB free") as caught:
        checkpoints(tmp_path).save(6, write)
    assert caught.value.code == 1
    assert names(tmp_path) == ["step-00000003"]
    assert checkpoints(tmp_path).latest().step == 3


def test_torchs_own_word_for_a_full_disk_is_understood(tmp_path):
    def write(folder: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file data/0")

    with pytest.raises(StorageFull):
        checkpoints(tmp_path).save(6, write)


def test_generators_go_on_where_they_were(tmp_path):
    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))]

    rng.seed_all(3)
    draws()  # leaves half a pair of normals in Python's and NumPy's generators
    torch.save(rng.capture(), tmp_path / "rng.pt")
    expected = [draws() for _ in range(3)]
    rng.seed_all(4)
    rng.restore(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [draws() for _ in range(3)] == expected


def test_other_versions_or_threads_are_said_and_the_checkpoint_is_used(tmp_path, caplog):
    save(tmp_path, 3, made_with={"torch": "2.6", "threads": "4"})
    assert checkpoints(tmp_path, made_with={"torch": "2.6", "threads": "4"}).latest().step == 3
    assert "not exact" not in caplog.text
    assert checkpoints(tmp_path, made_with={"torch": "2.7", "threads": "4"}).latest().step == 3
    assert "not exact to the last bit: torch 2.6 then, 2.7 now" in caplog.text


def test_ranks_of_neighbouring_seeds_draw_different_numbers():
    seeds = {rng.rank_seed(seed, rank) for seed in range(20) for rank in range(8)}
    assert len(seeds) == 160
    assert rng.rank_seed(7, 0) == 7
