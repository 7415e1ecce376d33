"""What a model makes of the documents of a task: lm-eval's own requests, model class and metrics, document by document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_api.fields import DocumentsRef
from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.load import Inputs
from rlhf_trainer.evaluation.own_choices import own_choice
from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.evaluation.tasks import Documents, LoadedTask, build_requests, load_task
from rlhf_trainer.exits import InputError

BATCH = 8
"""Requests a forward. Part of the last digits of log-probabilities, so never a setting."""


def load_suites(context: Inputs, spec: Evaluate) -> list[LoadedTask]:
    """The tasks of an evaluation; without suites nothing of lm-eval is imported.

    Raises:
        InputError: as `load_task`.
    """
    tasks = []
    for index, suite in enumerate(spec.suites):
        file = None if suite.file is None else Path(context.input(suite.file).path)
        shots_from = None if suite.shots_from is None else _documents(context, suite.shots_from)
        tasks.append(load_task(suite, f"suites[{index}]", _documents(context, suite.data), file, shots_from))
    return tasks


def _documents(context: Inputs, reference: DocumentsRef) -> Documents:
    entry = context.input(reference)
    return Documents(Path(entry.path), entry.input)


def metrics_of(suites: Sequence[LoadedTask]) -> dict[str, bool]:
    """Names of the suites' metrics in tables, and whether higher is better."""
    return {name: higher for suite in suites for name, higher in suite.higher.items()}


class Examinee:
    """A loaded model, as lm-eval asks it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from lm_eval.models.huggingface import HFLM

        self._lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
        self._written: dict[str, list[Any]] = {}
        """Requests through the model's chat template, by suite."""

    def rows(self, loaded: LoadedTask, documents: range) -> Rows:
        """`{document, METRIC: value}` for each document: what lm-eval's metrics say of the model's responses; with
        `calibration` also what `own_choice` says."""
        task = loaded.task
        built = task.instances
        if loaded.suite.chat:
            task._instances = self._through_template(loaded)
        try:
            task._instances = [request for request in task.instances if request.doc_id in documents]
            self._respond(task.instances)
            task.apply_filters()
            return _measured(loaded, task.instances, documents)
        finally:
            for request in task.instances:
                request.resps, request.filtered_resps = [], {}
            task._instances = built

    def _through_template(self, loaded: LoadedTask) -> list[Any]:
        """The task's requests in this model's chat template; made once."""
        name = loaded.suite.name
        if name not in self._written:
            try:
                build_requests(loaded.task, self._lm.apply_chat_template)
            except Exception as error:  # templates raise what they like
                raise InputError(
                    f"suite {name}: the model's chat template does not take its documents: {error}; expected one that takes "
                    "turns of user and assistant (leave chat out)"
                ) from error
            self._written[name] = loaded.task.instances
        return self._written[name]

    def _respond(self, requests: Sequence[Any]) -> None:
        """Ask the model, requests of a kind together."""
        by_kind: dict[str, list[Any]] = defaultdict(list)
        for request in requests:
            by_kind[request.request_type] += [request] * request.repeats
        for kind, same_kind in by_kind.items():
            responses = getattr(self._lm, kind)(same_kind, disable_tqdm=True)
            for request, response in zip(same_kind, responses, strict=True):
                request.resps.append(response)


def _measured(loaded: LoadedTask, requests: Sequence[Any], documents: range) -> Rows:
    by_document: dict[int, list[Any]] = defaultdict(list)
    for request in requests:
        by_document[request.doc_id].append(request)
    rows = []
    for number in documents:
        answers = sorted(by_document[number], key=lambda request: request.idx)
        name = next(iter(answers[0].filtered_resps))  # the first filter is the task's strict one
        responses = [answer.filtered_resps[name] for answer in answers]
        metrics = loaded.task.process_results(answers[0].doc, responses)
        for metric in loaded.metrics:
            if metric not in metrics:
                raise InputError(
                    f"suite {loaded.suite.name}: {loaded.task.config.task} gives document {number} no {metric}, which it "
                    f"lists; found {', '.join(metrics)} (take another task)"
                )
        row = {"document": number} | {metric: float(metrics[metric]) for metric in loaded.metrics}
        if loaded.suite.calibration:  # beyond the options lm-eval may ask for their probabilities without the question
            options = len(loaded.task.doc_to_choice(answers[0].doc))
            row |= own_choice([score for score, _ in responses[:options]], metrics["acc"])
        rows.append(row)
    return rows
