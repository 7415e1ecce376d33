"""The chart, rendered by real helm."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cluster.binaries import home, program

CHART = Path(__file__).resolve().parents[3] / "charts" / "rlhf-operator"
CASES = ("default", "full", "minimal")
NAMESPACE = "rlhf-system"

Object = dict[str, Any]


def helm(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; its caches and plugins are the tests' own."""
    folder = home() / "helm"
    environment = {name: str(folder / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    command = [str(program("helm")), *arguments]
    if kubeconfig is not None:
        command.append(f"--kubeconfig={kubeconfig}")
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def template(case: str, *arguments: str) -> str:
    """What a case of values renders to.

    Raises:
        AssertionError: helm refused; the message is its own.
    """
    ended = helm(*_template(case), *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refusal(case: str, *arguments: str) -> str:
    """What helm says of values that it refuses."""
    ended = helm(*_template(case), *arguments)
    assert ended.returncode != 0, "helm took them"
    return ended.stderr


def _template(case: str) -> list[str]:
    return ["template", "rlhf-operator", str(CHART), "--namespace", NAMESPACE, "--values", str(values(case))]


def values(case: str) -> Path:
    """A case's values."""
    return CHART / "ci" / f"{case}-values.yaml"


def objects(text: str) -> list[Object]:
    """The objects of a rendered text."""
    yaml = YAML(typ="safe", pure=True)
    return [dict(document) for document in yaml.load_all(text) if document]


def find(rendered: list[Object], kind: str, name: str = "rlhf-operator") -> Object:
    """The one object of a kind and name."""
    (match,) = [
        candidate for candidate in rendered if candidate["kind"] == kind and candidate["metadata"]["name"] == name
    ]
    return match


def parse(text: str) -> Any:
    """One YAML document."""
    return YAML(typ="safe", pure=True).load(io.StringIO(text))
