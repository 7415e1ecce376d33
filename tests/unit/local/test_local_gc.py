"""`rlhf gc` and `--fresh`: what no run needs can be freed, what a process uses never."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fakes.command import rlhf
from fakes.local_job import SIDE_BY_SIDE, job, product, run, start, started


def kinds(storage: Path) -> dict[str, str]:
    """What could be freed: kind by the name's first part."""
    return {
        Path(item["path"]).name.strip(".").split("-")[0]: item["kind"]
        for item in rlhf("gc", "--storage", storage, "--output", "json").json["items"]
    }


def test_what_a_run_names_is_kept(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    run(path)
    assert kinds(tmp_path / ".rlhf") == {}
    assert "nothing to free" in rlhf("gc", "--storage", tmp_path / ".rlhf").out


def test_a_product_whose_writer_may_be_at_work_is_kept(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    storage = tmp_path / ".rlhf"
    shutil.rmtree(storage / "runs")
    name = product(path, "sft").name
    lease = storage / "locks" / name / "000001.json"
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({"released": False}))
    assert "sft" not in kinds(storage)
    lease.write_text(json.dumps({"released": True}))
    assert kinds(storage)["sft"] == "product"


def test_what_a_running_job_has_made_and_will_make_is_kept(tmp_path: Path) -> None:
    path = job(tmp_path, SIDE_BY_SIDE)
    gate = tmp_path / "gate"
    process = start(path, {"reward": {"wait": str(gate)}})
    process.until(lambda: started(path, "reward"))
    assert kinds(tmp_path / ".rlhf") == {}
    path.rename(tmp_path / "moved.yaml")
    assert kinds(tmp_path / ".rlhf") == {}, "the job file is gone, but someone runs it"
    gate.touch()
    assert process.end().code == 0


def test_nothing_is_freed_while_a_run_looks_up_what_it_needs(tmp_path: Path) -> None:
    path = job(tmp_path)
    gate = tmp_path / "gate"
    process = start(path, {"prepare": {"wait": str(gate)}})
    process.until(lambda: started(path, "prepare"))
    result = rlhf("gc", "--storage", tmp_path / ".rlhf", "--yes")
    gate.touch()
    assert process.end().code == 0
    assert result.code == 1
    assert "try again in a moment" in result.err


def test_work_of_a_job_that_is_gone_is_freed(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    path.unlink()
    assert list(kinds(tmp_path / ".rlhf").values()) == ["work"]
    rlhf("gc", "--storage", tmp_path / ".rlhf", "--yes")
    assert list((tmp_path / ".rlhf" / "work").iterdir()) == []


def test_damaged_and_unfinished_products_and_unnamed_inputs_are_found(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    storage = tmp_path / ".rlhf"
    for name in ("products/.damaged-sft-0a", "products/.ppo-0b.c0ffee", "inputs/" + "0" * 64):
        (storage / name).mkdir(parents=True)
        (storage / name / "file").write_bytes(b"12345")
    (storage / "inputs" / ".records").mkdir()
    record = storage / "inputs" / ".records" / ("0" * 64 + ".json")
    record.write_text('{"files": {"model.gguf": "damaged"}}')
    assert kinds(storage) == {"damaged": "damaged", "ppo": "unfinished", "0" * 64: "input"}
    rlhf("gc", "--storage", storage, "--yes")
    assert kinds(storage) == {}
    assert not record.exists()


def test_an_unreadable_index_stops_it(tmp_path: Path) -> None:
    path = job(tmp_path)
    run(path)
    next((tmp_path / ".rlhf/runs/default/beaver").iterdir()).write_text("{")
    result = rlhf("gc", "--storage", tmp_path / ".rlhf", "--yes")
    assert result.code == 1
    assert "not a run's index" in result.err
    assert product(path, "sft").exists()


def test_no_storage(tmp_path: Path) -> None:
    assert rlhf("gc", "--storage", tmp_path / "none").code == 2


def test_fresh_keeps_what_another_run_uses(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    first, second = job(tmp_path / "a", name="first"), job(tmp_path / "b", name="second")
    for path in (first, second):
        (path.parent / ".rlhf").symlink_to(storage, target_is_directory=True)
    run(first)
    assert run(second).phases()["sft"] == "Reused"
    ran = run(second, fresh=True)
    assert ran.phases() == {"prepare": "Complete", "sft": "Reused", "report": "Complete"}
    assert "another run uses it" in ran.said
    assert len(list((storage / "work").iterdir())) == 2
