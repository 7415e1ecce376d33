"""tools/run-tests and the scripts it stands on: what runs, what is named as missing, and which exit code comes out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "tools"
FAKE_MAKE = """#!/bin/sh
case "$*" in *test-trainer*) exit ${TRAINER_EXIT:-0} ;; *test-node*) echo "10 packages compiled of 90" >&2 ;; esac
echo "ran $*"
"""
NOTHING_MISSES = "#!/bin/sh\nexit 0\n"
NO_GO = """#!/bin/sh
case "$*" in *api*) printf 'Go 1.26\\t\\n'; exit 1 ;; esac
exit 0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout whose `make` is a stand-in; the scripts are the real ones but for `check-machine`."""
    (tmp_path / "tools").mkdir()
    for name in ("run-tests", "prepare-machine"):
        shutil.copy(TOOLS / name, tmp_path / "tools" / name)
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin/make", FAKE_MAKE)
    return tmp_path


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run_tests(project: Path, check_machine: str, **environment: str) -> tuple[int, str]:
    write_program(project / "tools/check-machine", check_machine)
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [sys.executable, project / "tools/run-tests"],
        env={"PATH": path, "RLHF_INSTALL": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_every_tier_runs_and_its_time_is_printed(project):
    code, output = run_tests(project, NOTHING_MISSES)
    assert code == 0
    for tier in ("unit", "fuzz", "trainer", "api", "node"):
        assert f"{tier:8} passed in 0:0" in output
    assert "ran --no-print-directory test-node" in output  # from its log
    assert output.index("10 packages compiled of 90") < output.index("build/test-node.log:")  # shown before the log is


def test_what_cannot_run_is_listed_with_its_reason_and_is_no_failure(project):
    code, output = run_tests(project, NO_GO)
    assert code == 0
    assert "  unit     passed" in output
    assert "  api      not run\n           this machine lacks Go 1.26" in output
    assert "  node     not run\n           this machine lacks Go 1.26" in output


def test_where_all_is_required_a_tier_that_cannot_run_is_a_failure(project):
    assert run_tests(project, NO_GO, RLHF_REQUIRE_ALL="1")[0] == 1


def test_a_failed_tier_is_the_exit_code_and_ends_no_other(project):
    code, output = run_tests(project, NOTHING_MISSES, TRAINER_EXIT="2")
    assert code == 1
    assert "  trainer  failed" in output
    assert "  api      passed" in output


def test_missing_packages_are_installed_by_name_unless_that_is_turned_off(project):
    write_program(project / "bin/id", "#!/bin/sh\necho 0\n")
    write_program(project / "bin/apt-get", f'#!/bin/sh\necho "$@" >> {project}/installed\n')
    lacks = "#!/bin/sh\n[ -e installed ] && exit 0\nprintf 'ctr\\tcontainerd\\nip\\tiproute2\\nrunc\\tcontainerd\\n'\nexit 1\n"
    write_program(project / "tools/check-machine", lacks)
    environment = {"PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [project / "tools/prepare-machine", "python3", "node"]

    def prepare(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=project, env=environment | more, capture_output=True, text=True, check=False)

    assert prepare(RLHF_INSTALL="0").returncode == 1
    assert not (project / "installed").exists()
    installing = prepare()
    assert installing.returncode == 0, installing.stderr
    assert "installing Debian's containerd iproute2" in installing.stderr
    assert (project / "installed").read_text().splitlines() == [
        "-qq update",
        "-qq install --no-install-recommends containerd iproute2",
    ]


def test_the_real_check_names_a_missing_interpreter_with_its_packages():
    checked = subprocess.run(
        [TOOLS / "check-machine", "--table", "no-such-python"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 1
    assert "no-such-python not found" in checked.stdout
    assert checked.stdout.split("\n")[0].endswith("\tpython3 python3-venv python3-dev")
