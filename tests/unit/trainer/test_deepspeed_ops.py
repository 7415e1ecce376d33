"""Building DeepSpeed's op: once, by one process, and with what is missing said."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlhf_trainer import deepspeed_ops
from rlhf_trainer.exits import InputError


@pytest.fixture
def built(tmp_path, monkeypatch) -> list[Path]:
    """The builds made, none of them real."""
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / deepspeed_ops.OP).mkdir(parents=True)
        (folder / deepspeed_ops.OP / deepspeed_ops.library().name).touch()

    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(deepspeed_ops, "_build", build)
    return builds


def test_it_is_built_once_for_all_that_need_it_at_once(built):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: deepspeed_ops.build_once(), range(4)))
    deepspeed_ops.build_once()
    assert len(built) == 1
    assert sorted(path.name for path in deepspeed_ops.cache().iterdir()) == [deepspeed_ops.library().name, "lock"]


def test_a_build_that_was_killed_is_made_anew_without_its_leftovers(built):
    leftover = deepspeed_ops.cache() / "making" / deepspeed_ops.OP / "lock"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    deepspeed_ops.build_once()
    assert len(built) == 1
    assert not leftover.exists()


def test_each_environment_and_its_torch_and_deepspeed_has_its_own(monkeypatch, built):
    caches = {deepspeed_ops.cache()}
    monkeypatch.setattr(deepspeed_ops.sys, "prefix", "/another/environment")
    caches.add(deepspeed_ops.cache())
    monkeypatch.setattr(deepspeed_ops.metadata, "version", lambda name: "9.9")
    caches.add(deepspeed_ops.cache())
    assert len(caches) == 3


def test_ninja_beside_the_interpreter_is_found_without_an_activated_environment(monkeypatch, built):
    monkeypatch.setenv("PATH", "/nowhere")
    deepspeed_ops.put_tools_on_path()
    assert Path(os.environ["PATH"].split(os.pathsep)[0], "ninja").exists()


def test_where_it_cannot_be_used_it_is_not_built(monkeypatch, built):
    monkeypatch.setattr(deepspeed_ops.sys, "platform", "darwin")
    deepspeed_ops.build_once()
    assert built == []


def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch, built):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no-such-compiler not found on PATH: .*apt install g\+\+") as caught:
        deepspeed_ops.build_once()
    assert (caught.value.code, caught.value.reason) == (2, "MissingCompiler")
    assert built == []


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, built, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written .*Set RLHF_CACHE") as caught:
        deepspeed_ops.build_once()
    assert caught.value.reason == "CacheNotWritable"
