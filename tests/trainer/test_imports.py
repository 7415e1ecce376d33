"""What the processes of a stage import: seconds of processor time each, which no figure here depends on."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import small_data
from tiny import tiny_policy

import report_fixture
from rlhf_api.load import job_to_dict, parse_job
from rlhf_api.plan import plan
from rlhf_api.stage_file import Directories, StageFile, StageInput
from rlhf_trainer import functions, lean_imports
from rlhf_trainer.runtime import worker

TRACED = {"PYTHONVERBOSE": "1"}
"""Every process of Python then says on standard error what it imports."""
IMPORT = re.compile(r"^import '([\w.]+)' #", re.MULTILINE)
COUNT = "def count(prompts, responses):\n    return [len(r) for r in responses]\n"
MODELS = {"torch", "deepspeed", "peft", "scipy", "triton"}
"""What only models and their statistics need."""
OPTIONAL = {"PIL", "accelerate", "boto3", "cuda", "datasets", "pandas", "peft", "scipy.optimize"}
"""What no stage needs, but peft for LoRA; libraries import it because it is installed."""


def modules(*texts: str) -> set[str]:
    """Names of modules that processes said they imported."""
    return {name for text in texts for name in IMPORT.findall(text)}


def run_stage(file: StageFile) -> set[str]:
    """Run a stage through the launcher; gives the modules that its processes imported."""
    work = Path(file.directories.work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "stage.json").write_text(file.model_dump_json())
    launcher = run_traced("rlhf_trainer.launch", str(work / "stage.json"))
    return modules(launcher, (work / f"logs/a{file.attempt}/rank0.log").read_text())


def run_traced(module: str, *words: str) -> str:
    """Run a module to its end; gives its standard error."""
    environment = {**os.environ, **TRACED, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run([sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stderr


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that uses a model, rows of text and of Parquet, and a function."""
    from pyarrow import Table, parquet

    folder = tmp_path_factory.mktemp("job")
    tiny_policy(folder / "base")
    small_data.chat(folder / "chat.jsonl")
    small_data.preferences(folder / "prefs.jsonl")
    parquet.write_table(Table.from_pylist([{"prompt": f"what {n} is it"} for n in range(32)]), folder / "asked.parquet")
    (folder / "gold.py").write_text(f"import re\nimport beside\n{COUNT}")
    (folder / "beside.py").write_text("import json\n")
    (folder / "foreign.py").write_text(f"import numpy\n{COUNT}    from transformers import pipeline\n")
    return folder


def parsed(folder: Path):
    inputs = {"base": "base", "chat": "chat.jsonl", "prefs": "prefs.jsonl", "asked": "asked.parquet"}
    raw = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "test"},
        "spec": {
            "inputs": [{"name": name, "source": str(folder / path)} for name, path in inputs.items()],
            "stages": [
                {"name": "sft", "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}], "maxSteps": 1}},
                {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "prefs"}]}},
                {
                    "name": "ppo",
                    "ppo": {
                        "policy": {"stage": "sft"},
                        "rewards": [{"stage": "reward"}, {"function": "gold:count"}],
                        "prompts": [{"input": "asked"}],
                    },
                },
            ],
        },
    }
    return parse_job(raw)


def stage_file(folder: Path, index: int, storage: Path, **inputs: str) -> StageFile:
    job = parsed(folder)
    planned = plan(job).stages[index]
    work = storage / "work/uid" / planned.name
    return StageFile(
        version="1",
        job="test",
        uid="uid",
        stage=planned.name,
        type=planned.type,
        digest="" if index == 0 else "0" * 64,
        spec=planned.spec,
        seed=0,
        threads=1,
        execution=planned.execution,
        directories=Directories(storage=str(storage), work=str(work), job=str(folder)),
        inputs={f"input:{name}": StageInput(path=path, digest="0" * 64) for name, path in inputs.items()},
    )


def test_prepare_imports_no_torch(job, tmp_path):
    imported = run_stage(stage_file(job, 0, tmp_path / "storage"))
    assert {"rlhf_trainer", "transformers", "tokenizers", "pyarrow"} <= imported
    assert not imported & (MODELS | OPTIONAL)


def test_the_report_imports_no_torch(tmp_path):
    imported = run_stage(report_fixture.build(tmp_path))
    assert {"rlhf_trainer", "jinja2"} <= imported
    assert not imported & (MODELS | OPTIONAL | {"transformers", "huggingface_hub"})


def test_validate_imports_no_torch(job, tmp_path):
    (tmp_path / "job.json").write_bytes(orjson.dumps(job_to_dict(parsed(job))))
    imported = modules(run_traced("rlhf_trainer.local_check", str(job), str(tmp_path)))
    assert json.loads((tmp_path / "checked.json").read_text()) == {"problems": [], "warnings": [], "unopened": []}
    assert {"rlhf_trainer", "transformers", "tokenizers", "pyarrow"} <= imported
    assert not imported & (MODELS | OPTIONAL)


@pytest.mark.parametrize("lora", [False, True])
def test_a_trained_stage_imports_what_it_uses(job, tmp_path, lora):
    file = stage_file(job, 1, tmp_path / "storage", base=str(job / "base"), chat=str(job / "chat.jsonl"))
    if lora:
        file = file.model_copy(update={"spec": {**file.spec, "lora": {"rank": 2}}})
    imported = run_stage(file)
    assert {"torch", "transformers", "deepspeed", "tensorboard"} <= imported
    if lora:
        assert {"peft", "accelerate"} <= imported
    else:
        assert not imported & OPTIONAL


def test_a_function_of_other_packages_leaves_nothing_out(job):
    alone, importing = (functions.packages(f"{name}:count", job) for name in ("gold", "foreign"))
    assert (alone, importing) == (set(), {"numpy", "transformers"})
    assert functions.packages("statistics:mean", job) == {"statistics"}
    plain, nested = {"rewards": [{"function": "gold:count"}]}, {"guards": {"gold": {"function": "foreign:count"}}}
    assert functions.names({**plain, **nested, "policy": {"function": None}}) == {"gold:count", "foreign:count"}
    file = stage_file(job, 1, job)
    assert set(worker.unused(file.model_copy(update={"spec": plain}))) >= set(lean_imports.UNUSED)
    assert worker.unused(file.model_copy(update={"spec": nested})) == ()


def test_what_is_absent_comes_back():
    with lean_imports.absent("wave", "json"):
        assert importlib.util.find_spec("wave") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("wave")
        assert importlib.import_module("json") is json  # it had been imported
    assert importlib.import_module("wave").__name__ == "wave"
