"""A two-rank ZeRO-3 PPO-Lagrangian under the real launcher: a rank is killed in the middle of a step, started again it
ends as the undisturbed run did."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from ppo_cases import base, case
from toys import launch

from rlhf_api.stage_file import StageFile

DEADLY = """
import os, signal

calls = 0

def length(prompts, responses):
    global calls
    calls += 1
    if calls == int(os.environ.get("KILL_AT_CALL", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return [len(response) / 10 for response in responses]
"""


def stage_file(home: Path, name: str) -> StageFile:
    fields = {"costs": [{"stage": "cm"}, {"function": "judges:length", "limit": 1}], "steps": 4}
    made = case(home, name=name, **fields)
    return StageFile.model_validate_json(
        json.dumps(
            {
                "version": "1",
                "job": "job",
                "uid": made.uid,
                "stage": "ppo",
                "type": "ppo",
                "digest": made.digest,
                "spec": made.spec,
                "seed": made.seed,
                "threads": 1,
                "ranksPerNode": 2,
                "execution": {"zero": 3, "checkpointEvery": 2},
                "directories": {"storage": str(home), "work": str(made.work), "job": str(home)},
                "inputs": {key: {"path": path, "digest": "0" * 64} for key, path in made.inputs.items()},
            }
        )
    )


def test_a_rank_killed_in_the_middle_of_a_step_changes_no_byte(tmp_path: Path) -> None:
    home = base(tmp_path)
    (home / "judges.py").write_text(DEADLY)
    undisturbed, killed = stage_file(home, "undisturbed"), stage_file(home, "killed")
    code, output = launch(undisturbed)
    assert code == 0, output
    code, output = launch(killed, KILL_AT_CALL="3")  # each rank scores one micro-batch a step: in the third step
    assert code not in (0, 2, 3, 75), output
    assert str(-signal.SIGKILL) in output or "SIGKILL" in output
    work = Path(killed.directories.work)
    assert len((work / "metrics.jsonl").read_text().splitlines()) < 4
    code, output = launch(killed)
    assert code == 0, output
    products = [home / "products" / f"ppo-{file.digest}" for file in (undisturbed, killed)]
    for name in ("model.safetensors", "critics/shared/model.safetensors", "critics/shared/heads.safetensors"):
        assert (products[0] / name).read_bytes() == (products[1] / name).read_bytes(), name
    lines = [(Path(file.directories.work) / "metrics.jsonl").read_bytes() for file in (undisturbed, killed)]
    assert lines[0] == lines[1]
    assert lines[0].count(b"\n") == 4
