"""README's section on Kubernetes, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from cluster.binaries import program
from cluster.chart.helm import NAMESPACE, helm
from cluster.trainers.site import ROOT, Site, make_data

SECTION = re.compile(r"^## On Kubernetes\n.*?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_its_commands_end_with_a_job_complete_and_its_report(site: Site, tmp_path: Path) -> None:
    section = SECTION.search((ROOT / "README.md").read_text())
    assert section is not None
    site.volume("default", "models")
    make_data(site.volume("default", "data"))
    gone = helm("uninstall", "rlhf-operator", "--namespace", NAMESPACE, "--wait", kubeconfig=site.kubeconfig)
    assert gone.returncode == 0, gone.stderr
    operator, trainer = (site.images[name].partition("@") for name in ("image", "trainerImage"))
    tools = [str(program(name).parent) for name in ("kubectl", "helm")] + [str(Path(sys.executable).parent)]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*tools, os.environ["PATH"]]),
        "KUBECONFIG": str(site.kubeconfig),
        "OPERATOR": operator[0],
        "OPERATOR_DIGEST": operator[2],
        "TRAINER": trainer[0],
        "TRAINER_DIGEST": trainer[2],
    }
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    ended = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", section[1]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    site.kubectl("delete", "-n", "default", "rlhfjobs,persistentvolumeclaims", "--all", "--wait=false")
    site.forget("default")
    site.install()  # as the other tests have it
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^safe-rlhf\s.*Complete", ended.stdout, re.MULTILINE), ended.stdout
    (report,) = tmp_path.rglob("report.html")
    assert report.read_text().startswith("<!doctype html>")
