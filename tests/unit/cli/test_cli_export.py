"""`rlhf export`: a plain folder of a product, whole or not at all; and where `run` and `status` say models are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.command import rlhf
from fakes.local_job import SIDE_BY_SIDE, job, run
from rlhf_sdk.plain_export import OWN, export


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that ran to its end."""
    path = job(tmp_path_factory.mktemp("exported"), SIDE_BY_SIDE)
    run(path)
    return path


def test_a_plain_folder_has_no_file_that_only_we_read(tmp_path: Path) -> None:
    product = tmp_path / "product"
    for name in (*OWN[:3], "config.json", "critics/shared/heads.json", "members/0/metrics.jsonl", "README.md"):
        (product / name).parent.mkdir(parents=True, exist_ok=True)
        (product / name).write_text(name)
    target = tmp_path / "new" / "model"
    export(product, target)
    exported = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert exported == ["README.md", "config.json", "members/0/metrics.jsonl"]


def test_a_stages_product_is_exported_and_status_says_where_it_is(done: Path, tmp_path: Path) -> None:
    stages = json.loads(rlhf("status", done, "--output", "json").out)["stages"]
    product = done.parent / ".rlhf" / "products" / stages["sft"]["product"]
    assert f"sft: {product}" in rlhf("status", done).out.replace("\n", "")
    target = tmp_path / "model"
    exported = rlhf("export", "sft", target, "--job", done, "--output", "json")
    assert exported.code == 0
    assert exported.json == {"stage": "sft", "product": product.name, "folder": str(target)}
    assert {path.name for path in target.iterdir()} == {path.name for path in product.iterdir()} - set(OWN)


def test_what_cannot_be_exported_is_refused(done: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    refused = rlhf("export", "sft", tmp_path / "full", "--job", done)
    assert refused.code == 2
    assert "expected no folder, or an empty one" in refused.err
    unknown = rlhf("export", "stf", tmp_path / "new", "--job", done)
    assert unknown.code == 2
    assert "stf: no stage of" in unknown.err
    assert not (tmp_path / "new").exists()
