"""The chart as a dependency of another, switched on and off by a condition."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.chart.helm import CHART, helm, objects

PARENT = """\
apiVersion: v2
name: platform
version: 0.1.0
dependencies:
- {{name: rlhf-operator, version: "*", repository: "file://{chart}", condition: rlhf-operator.enabled}}
"""


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A chart that depends on ours, with values of its own for all its charts."""
    folder = tmp_path / "platform"
    folder.mkdir()
    (folder / "Chart.yaml").write_text(PARENT.format(chart=CHART))
    (folder / "values.yaml").write_text("global: {clusterName: a}\n")
    built = helm("dependency", "update", str(folder))
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.parametrize("arguments", [(), ("--set", "rlhf-operator.enabled=true")])
def test_it_is_rendered_with_the_parents_globals(parent: Path, arguments: tuple[str, ...]) -> None:
    rendered = helm("template", "platform", str(parent), *arguments)
    assert rendered.returncode == 0, rendered.stderr
    assert "Deployment" in {each["kind"] for each in objects(rendered.stdout)}


def test_the_condition_leaves_it_out(parent: Path) -> None:
    rendered = helm("template", "platform", str(parent), "--set", "rlhf-operator.enabled=false")
    assert rendered.returncode == 0, rendered.stderr
    assert objects(rendered.stdout) == []
