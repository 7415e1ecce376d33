"""Tasks of lm-eval over rows of an input: no network, and no code but lm-eval's own.

lm-eval's `Task` says what a model is asked, what is right, and which metrics a document gets; its data set is replaced
by the input's rows. A task file of the user's is plain YAML: it may name no function and no metric to be downloaded.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, read_bytes
from rlhf_api.error_messages import nearest
from rlhf_api.errors import SpecError
from rlhf_api.job import Input
from rlhf_api.stages.evaluate import SUITE, Suite
from rlhf_api.yaml import MAX_BYTES, load_yaml
from rlhf_trainer.data.formats import renamed
from rlhf_trainer.data.readers import BadRow, read_rows
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.choose import yaml_file

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant so here

DOCUMENTS = "documents"
"""The split that a task asks."""
SHOTS = "shots"
"""The split that it draws shots from, where that is another."""
PRIMARY = ("acc_norm", "acc", "exact_match")
"""Metrics that stand for a task, the first that it has."""
FIELDS = frozenset(
    {
        *(
            "task",
            "task_alias",
            "tag",
            "metadata",
            "description",
            "output_type",
            "metric_list",
            "filter_list",
            "repeats",
        ),
        *("doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "fewshot_delimiter", "gen_prefix"),
        *("generation_kwargs", "num_fewshot", "should_decontaminate", "doc_to_decontamination_query"),
        *("dataset_path", "dataset_name", "dataset_kwargs"),
        *("training_split", "validation_split", "test_split", "fewshot_split"),
    }
)
"""What a task file may say: nothing that brings in code or other files. Data set and splits are replaced."""
CHOICES = "multiple_choice"
"""lm-eval's type of tasks whose answer is one of several options."""
LISTED = 12
MOST_REPEATS = 64
"""Times that a document is asked, as `generation.samples` of an evaluation."""


@dataclass(frozen=True)
class LoadedTask:
    """A task with its documents."""

    suite: Suite
    task: Any
    """lm-eval's."""
    documents: int
    metrics: Mapping[str, bool]
    """Metrics that are means over documents, the one that stands for the task first, and whether higher is better."""

    @property
    def primary(self) -> str:
        """The metric that stands for the task."""
        return next(iter(self.metrics))

    @property
    def higher(self) -> dict[str, bool]:
        """Names of its metrics in tables, and whether higher is better: `suite.NAME`, of several `suite.NAME.METRIC`;
        and what `calibration` measures, of which less is no harm."""
        name = f"{SUITE}{self.suite.name}"
        several = self.metrics if len(self.metrics) > 1 else {}
        own = {f"{name}.confidence": False, f"{name}.ece": False} if self.suite.calibration else {}
        return {name: self.metrics[self.primary]} | {f"{name}.{metric}": up for metric, up in several.items()} | own

    def as_json(self) -> dict[str, Any]:
        """What a reader needs to ask the same again."""
        return {
            "name": self.suite.name,
            "task": str(self.task.config.task),
            "documents": self.documents,
            "shots": self.suite.shots,
            "chat": self.suite.chat,
            "primary": self.primary,
            "metrics": {metric: "higher" if up else "lower" for metric, up in self.metrics.items()},
        }


@dataclass(frozen=True)
class Documents:
    """Rows of an input."""

    path: Path
    entry: Input | None = None
    """For its subset, split and columns."""

    def rows(self, where: str, most: int | None = None) -> list[dict[str, Any]]:
        """The first of them; columns are renamed as the input says.

        Raises:
            InputError: a row cannot be read, or there is none.
        """
        rows = list(itertools.islice(_rows(self.path, self.entry, where), most))
        if not rows:
            raise InputError(f"{where}: found no row; expected documents")
        return rows


def load_task(
    suite: Suite, where: str, documents: Documents, file: Path | None = None, shots_from: Documents | None = None
) -> LoadedTask:
    """Build a task over an input's rows.

    Args:
        suite: Of the job.
        where: The suite's place in the job, for messages: `suites[0]`.
        documents: What is asked.
        file: The task file, where the suite has one.
        shots_from: What shots are drawn from; by default the documents.

    Raises:
        InputError: no such task, a file that is none, rows that it cannot read; names the field and what was found.
    """
    config = _registered(str(suite.task), where) if file is None else _of_file(file, f"{where}.file")
    rows = documents.rows(f"{where}.data", suite.limit)
    shot_rows = None if shots_from is None else shots_from.rows(f"{where}.shotsFrom")
    most = len(rows) - 1 if shot_rows is None else len(shot_rows)  # a document is no shot of its own
    if suite.shots > most:
        raise InputError(f"{where}.shots: found {suite.shots}; expected at most {most}, which the rows give")
    task = _build(config, rows, shot_rows, suite.shots, where)
    metrics = _means(task)
    if not metrics:
        raise InputError(
            f"{where}: {config['task']} has no metric that is a mean over documents; found {', '.join(task.aggregation())}"
        )
    if suite.calibration and (task.OUTPUT_TYPE != CHOICES or "acc" not in metrics):
        raise InputError(
            f"{where}.calibration: found {config['task']}, a task of type {task.OUTPUT_TYPE} with {', '.join(metrics)}; "
            f"expected one of type {CHOICES} with acc: its options have probabilities (leave calibration out)"
        )
    return LoadedTask(suite, task, len(task.eval_docs), metrics)


@cache
def registered_tasks() -> Mapping[str, Path]:
    """The task files of lm-eval by the name of their task. Its own index reads every file as YAML, which takes longer
    than most stages of a laptop."""
    import lm_eval.tasks

    pattern = re.compile(rb"""^["']?task["']?:\s*["']?([\w.\-/+ ]+?)["']?\s*(?:#.*)?$""", re.MULTILINE)
    names: dict[str, Path] = {}
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")):
        match = pattern.search(path.read_bytes())
        if match is not None:
            names.setdefault(match[1].decode(), path)
    return names


def _registered(name: str, where: str) -> dict[str, Any]:
    """The configuration of a task that lm-eval ships, its functions resolved."""
    from lm_eval.tasks._yaml_loader import load_yaml as load_task_file

    tasks = registered_tasks()
    if name not in tasks:
        near = nearest(name, tasks)
        hint = f"did you mean {near}?" if near else "a group's tasks are given one by one"
        raise InputError(f"{where}.task: found {name!r}; expected one of lm-eval's {len(tasks)} tasks ({hint})")
    try:
        config: dict[str, Any] = load_task_file(tasks[name], resolve_func=True)
    except Exception as error:
        raise InputError(
            f"{where}.task: {name} cannot be loaded: {_line(error)}; expected a task that needs no network and no package "
            "beyond lm-eval's own"
        ) from error
    for field in ("class", "use_prompt", "unsafe_code"):
        if config.get(field):
            raise InputError(
                f"{where}.task: found {name}, a task with `{field}`; expected one that is a YAML file alone"
            )
    return config


def _of_file(path: Path, where: str) -> dict[str, Any]:
    """The configuration of a user's task file."""
    import lm_eval.api.metrics  # noqa: F401 - registers them
    from lm_eval.api.registry import METRIC_REGISTRY

    try:
        document = load_yaml(read_bytes(yaml_file(path, "task file"), MAX_BYTES), path.name)
    except (SpecError, Unreadable) as error:
        raise InputError(f"{where}: {error}") from error
    if document.problems:
        raise InputError(f"{where}: {SpecError(document.problems, path.name)}")
    config = document.value
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise InputError(f"{where}: found no `task: NAME`; expected a task file of lm-eval")
    for field in config:
        if field not in FIELDS:
            raise InputError(
                f"{where}: found `{field}`; expected a task file that names no code and no other file: "
                f"{', '.join(sorted(FIELDS))}"
            )
    repeats = config.get("repeats", 1)
    if not isinstance(repeats, int) or not 1 <= repeats <= MOST_REPEATS:
        raise InputError(f"{where}: repeats: found {repeats!r}; expected a whole number from 1 to {MOST_REPEATS}")
    entries = config.get("metric_list")
    if not isinstance(entries, list | None):
        raise InputError(f"{where}: metric_list: found {entries!r}; expected a list of {{metric: NAME}}")
    for entry in entries or []:
        metric = entry.get("metric") if isinstance(entry, dict) else entry
        registered = isinstance(entry, dict) and isinstance(metric, str) and metric in METRIC_REGISTRY
        if not registered or entry.get("hf_evaluate"):
            raise InputError(f"{where}: metric_list: found {metric!r}; expected a metric that lm-eval itself has")
    return config


def _rows(path: Path, entry: Input | None, where: str) -> Iterator[dict[str, Any]]:
    subset, split, columns = (None, None, {}) if entry is None else (entry.subset, entry.split, entry.columns)
    for row in read_rows(path, subset, split):
        if isinstance(row, BadRow):
            raise InputError(f"{where}: {row.where}: {row.problem}")
        yield dict(renamed(row.value, columns))


def _build(
    config: dict[str, Any], rows: list[dict[str, Any]], shot_rows: list[dict[str, Any]] | None, shots: int, where: str
) -> Any:
    """lm-eval's task with all its requests built: what a row lacks shows here, before any model is loaded."""
    import lm_eval.utils
    from datasets import Dataset, disable_progress_bars
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval.api.task import ConfigurableTask

    disable_progress_bars()
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(lm_eval.utils.env.filters)
    lm_eval.utils.env = sandbox  # a task's templates are an input, as chat templates are
    splits = {"test_split": DOCUMENTS, "validation_split": None, "training_split": None}
    splits["fewshot_split"] = (DOCUMENTS if shot_rows is None else SHOTS) if shots else None
    data = {"dataset_path": DOCUMENTS, "dataset_name": None, "dataset_kwargs": None}
    dropped = ("tag", "group", "task_list", "dataset_kwargs", "dataset_name")
    fields = {key: value for key, value in config.items() if key not in dropped} | splits | data
    try:
        by_split = {DOCUMENTS: Dataset.from_list(rows)}
        by_split |= {} if shot_rows is None else {SHOTS: Dataset.from_list(shot_rows)}
        task = ConfigurableTask(config={**fields, "num_fewshot": shots, "custom_dataset": lambda **_: by_split})
        build_requests(task)
    except Exception as error:
        columns = ", ".join(sorted(map(str, rows[0]))[:LISTED])
        raise InputError(
            f"{where}.data: {config['task']} cannot read these rows: {_line(error)}; found the columns {columns}; "
            "expected those of the task's own data set"
        ) from error
    return task


def build_requests(task: Any, chat_template: Callable[..., str] | None = None) -> None:
    """Build every request of a task anew: the same shots each time, as text or through a model's chat template."""
    import lm_eval.api.task

    lm_eval.api.task.tqdm = lambda documents, **_: documents  # its bar is of no use in a log
    task.set_fewshot_seed(SHOTS_SEED)
    chat = chat_template is not None
    task.build_all_requests(
        rank=0, world_size=1, apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=chat_template
    )


SHOTS_SEED = 1234
"""lm-eval's own default: its command draws the same shots."""


def _means(task: Any) -> dict[str, bool]:
    from lm_eval.api.metrics import mean

    higher = task.higher_is_better()
    names = [name for name, aggregate in task.aggregation().items() if aggregate is mean]
    names.sort(key=lambda name: PRIMARY.index(name) if name in PRIMARY else len(PRIMARY))
    return {name: bool(higher.get(name, True)) for name in names}


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
