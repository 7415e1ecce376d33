"""Products: whole or not at all, verified before they are reused, and never by a stale attempt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlhf_api.product import Manifest
from rlhf_api.stage_file import StageFile
from rlhf_api.store import DamagedProduct, Run, find_verified, free_work, name_product, read_runs, write_run
from rlhf_trainer.exits import StorageFull
from rlhf_trainer.storage import products


@pytest.fixture
def file(tmp_path) -> StageFile:
    return stage_file(tmp_path)


def stage_file(storage: Path, **fields) -> StageFile:
    work = storage / "work" / "uid" / "sft"
    work.mkdir(parents=True, exist_ok=True)
    directories = {"storage": str(storage), "work": str(work), "job": str(storage)}
    content = {"version": "1", "job": "job", "uid": "uid", "stage": "sft", "type": "sft", "digest": "abc", "spec": {}}
    return StageFile.model_validate({**content, "seed": 0, "execution": {}, "directories": directories, **fields})


def build(folder: Path, text: str = "weights") -> Manifest:
    (folder / "sub").mkdir()
    (folder / "model.bin").write_text(text)
    (folder / "sub" / "tokens.json").write_text("{}")
    return Manifest(
        type="sft", digest="abc", recipe=1, job="job", stage="sft", spec={}, seed=0, inputs={}, files={}, versions={}
    )


def leftovers(storage: Path) -> list[str]:
    return sorted(path.name for path in (storage / "products").iterdir() if path.name.startswith("."))


def test_a_product_is_found_again_with_every_file_in_its_manifest(tmp_path, file):
    path = products.publish(tmp_path, file, build)
    product = products.reusable(tmp_path, "sft-abc")
    assert product is not None
    assert product.path == path == tmp_path / "products" / "sft-abc"
    assert sorted(product.manifest.files) == ["model.bin", "sub/tokens.json"]
    assert leftovers(tmp_path) == []


def test_what_is_not_there_is_not_found(tmp_path):
    assert products.reusable(tmp_path, "sft-abc") is None


def damage_byte(product: Path) -> None:
    content = bytearray((product / "model.bin").read_bytes())
    content[3] ^= 1
    (product / "model.bin").write_bytes(content)


def damage_missing(product: Path) -> None:
    (product / "sub" / "tokens.json").unlink()


def damage_added(product: Path) -> None:
    (product / "sub" / "extra.bin").touch()


def damage_manifest(product: Path) -> None:
    (product / "manifest.json").write_text("{")


def damage_forged(product: Path) -> None:
    """Another product's folder under this one's name."""
    manifest = json.loads((product / "manifest.json").read_text())
    (product / "manifest.json").write_text(json.dumps({**manifest, "digest": "xyz"}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_byte, "model.bin was changed"),
        (damage_missing, "sub/tokens.json is missing"),
        (damage_added, "sub/extra.bin is not in its manifest"),
        (damage_manifest, "manifest.json cannot be read"),
        (damage_forged, "manifest.json is of sft-xyz"),
    ],
)
def test_a_damaged_or_forged_product_is_not_reused_moved_aside_and_made_anew(tmp_path, file, caplog, damage, named):
    damage(products.publish(tmp_path, file, build))
    assert products.reusable(tmp_path, "sft-abc") is None
    assert named in caplog.text
    (aside,) = leftovers(tmp_path)
    assert aside.startswith(".damaged-sft-abc.")
    assert aside in caplog.text
    products.publish(tmp_path, file, build)
    assert products.reusable(tmp_path, "sft-abc") is not None


def test_a_product_that_another_run_put_in_place_meanwhile_is_success(tmp_path, file):
    def slow(folder: Path) -> Manifest:
        products.publish(tmp_path, file, build)
        return build(folder, "made second")

    path = products.publish(tmp_path, file, slow)
    assert (path / "model.bin").read_text() == "weights"
    assert leftovers(tmp_path) == []


def test_a_build_that_fails_leaves_nothing(tmp_path, file):
    def broken(folder: Path) -> Manifest:
        (folder / "half").write_text("x")
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        products.publish(tmp_path, file, broken)
    assert list((tmp_path / "products").iterdir()) == []


def test_a_full_disk_is_told_with_folder_and_free_space_and_leaves_nothing(tmp_path, file):
    def full(folder: Path) -> Manifest:
        raise OSError(28, os.strerror(28))

    with pytest.raises(StorageFull, match=r"no space left while writing the product of sft in .*products: .* MiB free"):
        products.publish(tmp_path, file, full)
    assert list((tmp_path / "products").iterdir()) == []


def test_an_attempt_takes_the_work_folder_and_may_take_it_again(file):
    products.raise_fence(file)
    products.raise_fence(file)
    products.check_fence(file)
    assert json.loads(products.fence_path(file).read_text()) == {"uid": "uid", "attempt": 0}


def test_a_stale_attempt_can_neither_start_nor_publish(tmp_path, file):
    products.raise_fence(file)
    products.raise_fence(stage_file(tmp_path, attempt=1))
    with pytest.raises(products.Fenced, match="attempt 1 of uid has started; this is attempt 0"):
        products.raise_fence(file)
    with pytest.raises(products.Fenced):
        products.publish(tmp_path, file, build)
    assert products.reusable(tmp_path, "sft-abc") is None
    assert leftovers(tmp_path) == []


def test_another_uid_in_the_work_folder_is_a_stranger(tmp_path, file):
    products.raise_fence(file)
    with pytest.raises(products.Fenced):
        products.raise_fence(stage_file(tmp_path, uid="another"))


def test_freed_work_keeps_logs_and_metrics(tmp_path: Path) -> None:
    for name in ("checkpoints/step-1/state.pt", "trunk.bin", "logs/a0/rank0.log", "metrics.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    free_work(tmp_path)
    remaining = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert remaining == ["logs/a0/rank0.log", "metrics.jsonl"]


def test_the_report_of_a_run_that_failed_is_named_and_the_plans_again_after_a_retry(tmp_path: Path) -> None:
    planned = {"sft": "sft-abc", "report": "report-plan"}
    write_run(tmp_path, Run(job="job", uid="uid", products=planned))
    report = stage_file(tmp_path, stage="report", type="report", digest="failed")
    name_product(report, products.product_name(report))
    assert [run.products for run in read_runs(tmp_path)] == [{"sft": "sft-abc", "report": "report-failed"}]
    name_product(report, "report-plan")
    assert [run.products for run in read_runs(tmp_path)] == [planned]


def test_a_run_whose_index_is_gone_gets_no_other(tmp_path: Path, file: StageFile) -> None:
    name_product(file, "sft-abc")
    assert list(read_runs(tmp_path)) == []


def test_pipes_on_the_storage_are_refused_and_not_waited_for(tmp_path: Path, file: StageFile) -> None:
    product = products.publish(tmp_path, file, build)
    os.mkfifo(tmp_path / "pipe")
    (product / "model.bin").unlink()
    (product / "model.bin").symlink_to(tmp_path / "pipe")
    with pytest.raises(DamagedProduct, match=r"sft-abc: model\.bin is no file"):
        find_verified(tmp_path, "sft-abc")
    (product / "manifest.json").unlink()
    os.mkfifo(product / "manifest.json")
    with pytest.raises(DamagedProduct, match=r"sft-abc: manifest\.json cannot be read \(manifest\.json: found a pipe"):
        find_verified(tmp_path, "sft-abc")
    (tmp_path / "runs" / "default" / "job").mkdir(parents=True)
    os.mkfifo(tmp_path / "runs" / "default" / "job" / "uid.json")
    with pytest.raises(ValueError, match=r"uid\.json: not a run's index: uid\.json: found a pipe"):
        list(read_runs(tmp_path))
