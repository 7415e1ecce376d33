"""Products arrive whole and verified, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fakes.cluster_jobs import GAVE_UP, SUCCEEDED, job
from rlhf_api.digest import digest_tree
from rlhf_api.product import Manifest
from rlhf_api.store import MANIFEST
from rlhf_sdk.cluster import download
from rlhf_sdk.cluster.reader import Reader
from rlhf_sdk.exits import CommandError

NAME = "sft-" + "ab" * 32


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with one product."""
    folder = tmp_path / "storage" / "products" / NAME
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 2000)
    (folder / "deep" / "config.json").write_text("{}")
    manifest = Manifest(
        type="sft", digest="ab" * 32, recipe=1, job="j", stage="sft", spec={}, seed=0, inputs={}, versions={},
        files=digest_tree(folder),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return tmp_path / "storage"


def reader(storage: Path) -> Reader:
    return Reader([sys.executable], str(storage))


def silent(_came: int, _total: int) -> None:
    """Tells nobody."""


def test_a_product_comes_whole_into_its_place(storage: Path, tmp_path: Path) -> None:
    target = tmp_path / "here" / "beaver" / "sft"
    reports: list[tuple[int, int]] = []
    assert download.product(reader(storage), NAME, target, lambda came, total: reports.append((came, total)))
    assert digest_tree(target) == digest_tree(storage / "products" / NAME)
    assert [entry.name for entry in target.parent.iterdir()] == ["sft"]
    assert sum(came for came, _ in reports) + (target / MANIFEST).stat().st_size == reports[0][1]


def test_one_that_is_there_is_verified_and_left_alone(storage: Path, tmp_path: Path) -> None:
    target = tmp_path / "sft"
    assert download.product(reader(storage), NAME, target, silent)
    before = target.stat().st_ino
    assert not download.product(reader(storage), NAME, target, silent)
    assert target.stat().st_ino == before


@pytest.mark.parametrize("change", ["changed", "added", "another"])
def test_what_is_in_its_place_and_not_it_stays(storage: Path, tmp_path: Path, change: str) -> None:
    target = tmp_path / "sft"
    if change == "another":
        target.mkdir()
    else:
        assert download.product(reader(storage), NAME, target, silent)
        (target / ("deep/config.json" if change == "changed" else "notes.txt")).write_text("mine")
    with pytest.raises(CommandError, match=r"is there and is not sft-abab.*--to"):
        download.product(reader(storage), NAME, target, silent)
    assert change == "another" or (target / "deep/config.json").exists()


def test_a_damaged_one_is_said_and_leaves_nothing(storage: Path, tmp_path: Path) -> None:
    (storage / "products" / NAME / "deep" / "config.json").write_text("[]")
    with pytest.raises(CommandError, match=r"deep/config.json was changed"):
        download.product(reader(storage), NAME, tmp_path / "here" / "sft", silent)
    assert list((tmp_path / "here").iterdir()) == []


def test_broken_off_it_leaves_nothing(storage: Path, tmp_path: Path) -> None:
    def interrupt(_came: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.product(reader(storage), NAME, tmp_path / "here" / "sft", interrupt)
    assert list((tmp_path / "here").iterdir()) == []


def test_one_that_was_freed_is_said(storage: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="ppo-12: is not on the storage any more"):
        download.product(reader(storage), "ppo-12", tmp_path / "ppo", silent)


def test_logs_come_in_place_of_those_from_before(storage: Path, tmp_path: Path) -> None:
    cluster_job = job(SUCCEEDED)
    work = storage / "work" / cluster_job.uid / "sft"
    (work / "logs" / "a0").mkdir(parents=True)
    (work / "logs" / "a0" / "rank0.log").write_text("one\n")
    (work / "metrics.jsonl").write_text("{}\n")
    (work / "checkpoints").mkdir()
    (work / "checkpoints" / "large").write_text("x")
    target = tmp_path / "here" / "_logs"
    assert download.logs(reader(storage), cluster_job, target, silent) == 2
    assert (target / "sft" / "logs" / "a0" / "rank0.log").read_text() == "one\n"
    assert not (target / "sft" / "checkpoints").exists()
    (work / "logs" / "a0" / "rank0.log").write_text("one\ntwo\n")
    assert download.logs(reader(storage), cluster_job, target, silent) == 2
    assert (target / "sft" / "logs" / "a0" / "rank0.log").read_text() == "one\ntwo\n"
    assert [entry.name for entry in target.parent.iterdir()] == ["_logs"]


def test_which_products_are_meant() -> None:
    cluster_job = job(SUCCEEDED)
    assert list(download.products(cluster_job, [], everything=False)) == ["report"]
    assert list(download.products(cluster_job, ["sft"], everything=False)) == ["sft"]
    assert list(download.products(cluster_job, [], everything=True)) == ["sft", "report"]


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("prepare", "prepare: makes no product"),
        ("spt", "spt: no such stage; the job has prepare, sft, report"),
        ("sft", "sft: has no product yet .Failed: rank 0 was killed"),
    ],
)
def test_a_product_that_there_is_not_is_answered_with_why(stage: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        download.products(job(GAVE_UP), [stage], everything=False)
