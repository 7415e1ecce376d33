"""A damaged side file is named and left out; the report is made of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import report_fixture
from rlhf_api.digest import digest_tree
from rlhf_api.safetensors import count_weights
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render

DAMAGED = (b"", b"[]", b'{"a": 1}', b"\xff\x00", b"[" * 5000)


def test_each_of_a_products_or_of_prepares(tmp_path: Path) -> None:
    file = report_fixture.build(tmp_path)
    products = [Path(stage_input.path) for key, stage_input in file.inputs.items() if key.startswith("stage:")]
    for product in products:
        manifest = json.loads((product / "manifest.json").read_bytes())
        manifest["files"] = {name: sha for name, sha in digest_tree(product).items() if name != "manifest.json"}
        (product / "manifest.json").write_text(json.dumps(manifest))
    work = Path(file.directories.work).parent
    side = [path for product in products for path in product.rglob("*") if path.suffix in (".json", ".jsonl")]
    side += [work / "prepare" / "provenance.json", work / "prepare" / "resolved.json"]
    assert len(side) > 6
    for number, path in enumerate(sorted(side)):
        intact = path.read_bytes()
        path.write_bytes(DAMAGED[number % len(DAMAGED)])
        document = content(collect(file))
        assert any(f"{path.parent.name}/{path.name}" in problem for problem in document["problems"]), path
        assert path.name in render(document)
        path.write_bytes(intact)


def test_lines_of_a_stage_that_made_no_product(tmp_path: Path) -> None:
    file = report_fixture.build(tmp_path)
    work = Path(file.directories.work).parent / "sft"
    product = Path(file.inputs.pop("stage:sft").path)
    work.mkdir(exist_ok=True)
    (work / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": "x", "loss": []}\n[1]\n{"step": 2}\n')
    (work / "timings.jsonl").write_bytes(b'{"seconds": null}\n[]\n')
    (work / "stage.json").unlink(missing_ok=True)
    assert product.is_dir()
    problems = content(collect(file))["problems"]
    assert "sft/metrics.jsonl:3 is not JSON: left out" in problems
    assert "sft/metrics.jsonl: 1 lines are no metrics: left out" in problems
    assert "sft/timings.jsonl: 2 lines are no timings: left out" in problems


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"\xff" * 8, (4).to_bytes(8, "little") + b"null", (2).to_bytes(8, "little") + b"[]"]
    + [
        len(header).to_bytes(8, "little") + header
        for header in (
            b'{"w": {"shape": [-1], "data_offsets": [0, 0]}}',
            b'{"w": {"shape": "ab", "data_offsets": [0, 0]}}',
            b'{"w": {"shape": [1], "data_offsets": [0, 400]}}',
            b'{"w": {"shape": [1e9], "data_offsets": [0]}}',
            b'{"w": {"dtype": "U8", "shape": [%s0], "data_offsets": [0, 0]}}' % (b"9," * 2000),
            b'{"w": {"dtype": "X9", "shape": [0], "data_offsets": [0, 0]}}',
            b'{"w": {"dtype": ["F32"], "shape": [0], "data_offsets": [0, 0]}}',
            b'{"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4]}}1234',
            b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}12345678',
            b"[" * 9000,
        )
    ],
)
def test_a_header_of_weights_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: (is no safetensors|has \d+ bytes)"):
        count_weights(tmp_path / "model.safetensors")


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    header = f'{{"a": {entry}, "b": {entry}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"model\.safetensors: .* overlap or leave a gap at byte 0"):
        count_weights(tmp_path / "model.safetensors")
