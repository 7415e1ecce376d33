"""`report`: one HTML file over all stages of the job, and the same content as JSON."""

from __future__ import annotations

from pathlib import Path

import orjson

from rlhf_api.errors import SpecError
from rlhf_trainer.context import Facts, LightContext
from rlhf_trainer.exits import InputError
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render


def run(context: LightContext) -> None:
    """Read what all stages left, whatever became of them, and publish `report.html` and `report.json`.

    Raises:
        InputError: the spec is not a job.
    """
    try:
        collected = collect(context.file)
    except SpecError as error:
        text = "; ".join(problem.render() for problem in error.problems)
        raise InputError(f"stage.json: spec of {context.file.stage}: {text}", reason="InvalidSpec") from error
    report = content(collected)
    page = render(report)

    def build(folder: Path) -> Facts:
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        return Facts(
            counts={"stages": len(report["stages"]), "evaluations": len(report["evaluations"])},
            notes=[sentence["text"] for sentence in report["verdict"]],
        )

    context.publish(build)
