"""The report stage through the runtime: a product with one page and the same content as JSON."""

import json

from stage_gang import Case, alone

import report_fixture


def test_the_product_is_a_page_and_its_content(tmp_path):
    file = report_fixture.build(tmp_path)
    case = Case(
        storage=str(tmp_path),
        type="report",
        spec=file.spec,
        inputs={key: entry.path for key, entry in file.inputs.items()},
        uid="uid-1",
    )
    alone(case)
    report = json.loads((case.product / "report.json").read_text())
    assert report["complete"] and report["evaluations"][0]["stage"] == "evaluate"
    assert (case.product / "report.html").read_text().startswith("<!doctype html>")
    manifest = json.loads((case.product / "manifest.json").read_text())
    assert manifest["notes"][0] == report["verdict"][0]["text"]
    assert manifest["counts"] == {"stages": 5, "evaluations": 1}
