"""`rlhf check`: which labels of a moderation model are true of prompts and answers?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import Output
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, emit, show

if TYPE_CHECKING:
    from rlhf_sdk.label_check import Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", epilog=EPILOG)(check)


EPILOG = """\b
Examples:
  rlhf check my-model --prompt "How do I light a fire?"
  rlhf check my-model --prompt "How do I light a fire?" --answer "With petrol."
  rlhf check my-model answers.jsonl --output json
  generate | rlhf check my-model - && publish
  rlhf check my-types prompts.jsonl --types typed.jsonl

MODEL is a moderation stage's product: the folder that `rlhf status` names, or that `rlhf export` wrote. It runs here,
on the CPU.

A prompt is checked alone, as a prompt whose answer is empty, before it is answered; a row with an answer is also checked
as a whole. A model knows of prompts alone what it learned from rows with an empty answer.

FILE has an object a line: `prompt`, a text or messages, and the answer as `answer`, `response` or `completion`; or
`messages`. At most 10,000 rows, of 64 MiB together. Of one row every label is shown, of several those that are true.

--types writes the rows again for rule-based rewards, whose prompts need a `response_type`: the true label that is furthest
above its threshold (as log-odds); of a row without a true label the column is left out.

JSON: {"model", "labels": [{"label", "threshold"}], "checks": [{"row": from 1, "where", "check": "prompt" or "answer",
"probabilities": {LABEL: p}, "true": [labels], "cut": tokens that were not read}], "true": how many checks have a label}.

Exit codes: 0 no label is true, or --types was written; 3 some label is; 1 the model could not run; 2 no moderation model, or a row is wrong."""


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A moderation model's folder.", show_default=False)],
    file: Annotated[
        str | None, typer.Argument(metavar="FILE.jsonl", help="Rows; - reads stdin.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What is asked.", show_default=False)] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="What is answered.", show_default=False)] = None,
    types: Annotated[
        Path | None,
        typer.Option("--types", metavar="FILE", help="Write the rows with a response_type.", show_default=False),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Label prompts and answers with a moderation model."""
    rows = _rows(file, prompt, answer)
    if types is not None and file is None:
        raise CommandError("--types: found no file of rows; expected one beside it", Exit.INVALID)
    from rlhf_sdk.label_check import label

    labelled = label(model, rows)
    if types is not None:
        _write(types, rows, labelled)
    flagged = sum(bool(entry["true"]) for entry in labelled["checks"])
    if output is Format.JSON:
        emit(_document(model, labelled, rows, flagged))
    else:
        _tell(labelled, rows, flagged)
    if flagged and types is None:
        raise typer.Exit(int(Exit.REFUSED))


def _rows(file: str | None, prompt: str | None, answer: str | None) -> list[Row]:
    from rlhf_sdk.label_check import Row, read_rows

    if (file is None) == (prompt is None):
        raise CommandError("expected --prompt, or a file of rows (- is stdin): one of them", Exit.INVALID)
    if file is not None and answer is not None:
        raise CommandError("--answer: stands beside a file; expected it beside --prompt", Exit.INVALID)
    return [Row.of_text(prompt, answer)] if prompt is not None else read_rows(str(file))


def _write(path: Path, rows: list[Row], labelled: dict[str, Any]) -> None:
    import orjson

    from rlhf_api.store import write_atomically
    from rlhf_sdk.label_check import typed

    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in typed(rows, labelled))
    write_atomically(path, b"".join(lines))


def _document(model: Path, labelled: dict[str, Any], rows: list[Row], flagged: int) -> dict[str, Any]:
    names, thresholds = labelled["labels"], labelled["thresholds"]
    checks = [
        {
            **entry,
            "row": entry["row"] + 1,
            "where": rows[entry["row"]].where,
            "probabilities": dict(zip(names, entry["probabilities"], strict=True)),
        }
        for entry in labelled["checks"]
    ]
    labels = [{"label": name, "threshold": value} for name, value in zip(names, thresholds, strict=True)]
    return {"model": str(model), "labels": labels, "checks": checks, "true": flagged}


def _tell(labelled: dict[str, Any], rows: list[Row], flagged: int) -> None:
    from rlhf_sdk.output import columns
    from rlhf_sdk.text import plural

    table = columns("WHERE", "CHECK", "LABEL", "PROBABILITY", "THRESHOLD", "TRUE")
    for entry in labelled["checks"]:
        for name, threshold, value in zip(
            labelled["labels"], labelled["thresholds"], entry["probabilities"], strict=True
        ):
            if len(rows) == 1 or name in entry["true"]:
                true = "yes" if name in entry["true"] else "no"
                where = rows[entry["row"]].where
                table.add_row(where, entry["check"], name, f"{value:.3f}", f"{threshold:.3f}", true)
    if table.row_count:
        show(table)
    cut = sum(bool(entry["cut"]) for entry in labelled["checks"])
    unread = f"; {cut} were longer than the model's rows and read in part" if cut else ""
    show(f"a label is true in {flagged} of {plural(len(labelled['checks']), 'check')}{unread}")
