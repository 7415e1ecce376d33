"""`simulate`: rows that models make, filtered, with an audit sample set aside and where each row comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.stages.simulate import Simulate
from rlhf_trainer import distributed
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.load import load_prompts
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.readers import readers
from rlhf_trainer.inspection.templates import checks_of
from rlhf_trainer.simulation.prompts import check_plain, with_types
from rlhf_trainer.simulation.red_team import RedTeaming
from rlhf_trainer.simulation.report import SimulationReport, of_answers, of_attacks
from rlhf_trainer.simulation.runner import Simulation

ROWS, AUDIT, KEYS, CONTENT = "rows.jsonl", "audit.jsonl", "audit-key.jsonl", "simulation.json"
"""Files of the product: the data; rows for people to check; what those were made to be; what the report says."""


def run(context: StageContext) -> None:
    """Simulate and publish.

    Raises:
        InputError: no prompts, a model that cannot be used, or no row left after the filters.
    """
    spec = context.spec(Simulate)
    prompts, counts = load_prompts(context, spec.prompts, *checks_of(context, readers(spec, "prompts")))
    check_plain(prompts)
    if spec.completions is not None:
        prompts = with_types(prompts, counts)
    if not prompts:
        raise InputError("prompts: no prompt is left to answer; expected at least one row with a prompt")
    simulation: Simulation | RedTeaming
    if spec.red_team is not None:
        simulation = RedTeaming(context, spec, spec.red_team, prompts)
    else:
        simulation = Simulation(context, spec, prompts)
        if spec.completions is not None:
            for kind in sorted({str(prompt.response_type) for prompt in prompts}):
                simulation.method.styles(kind)
    simulation.run()
    distributed.barrier()  # every rank's shards are in place
    outcome = _outcome(context, spec, simulation, prompts) if context.rank == 0 else SimulationReport()
    empty = distributed.broadcast(None if context.rank or outcome.rows else f"{outcome.content['dropped']}")
    if empty is not None:
        raise InputError(
            f"none of the rows made can be used: dropped {empty}. Look at the prompts and the model's answers"
        )

    def build(folder: Path) -> Facts:
        for name, rows in ((ROWS, outcome.rows), (AUDIT, outcome.audit), (KEYS, outcome.keys)):
            lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
            (folder / name).write_bytes(b"".join(lines))
        (folder / CONTENT).write_bytes(orjson.dumps(outcome.content, option=orjson.OPT_INDENT_2))
        return Facts({**counts.as_dict(), **outcome.counts}, outcome.metrics, outcome.notes)

    context.publish(build)


def _outcome(
    context: StageContext, spec: Simulate, simulation: Simulation | RedTeaming, prompts: Sequence[Prompt]
) -> SimulationReport:
    shared = _provenance(context, spec)
    if isinstance(simulation, RedTeaming):
        outcome = of_attacks(spec, context.seed, simulation.attacks(), prompts, shared)
    else:
        answers = simulation.shards.all("answers")
        outcome = of_answers(simulation.method, simulation.answered(), shared, answers=answers)
    outcome.content |= {
        "prompts": len(prompts),
        "chat": simulation.chat,
        "provenance": shared,
        "counts": outcome.counts,
        "generation": spec.generation.model_dump(mode="json"),
    }
    return outcome


def _provenance(context: StageContext, spec: Simulate) -> dict[str, Any]:
    """What all rows share: the method, the models by name and digest, the seed."""

    def named(reference: Any) -> dict[str, str]:
        return {"source": reference.key, "digest": context.input(reference).digest}

    shared: dict[str, Any] = {"method": spec.method, "model": named(spec.model), "seed": context.seed}
    judged = spec.rlaif or spec.rlcd_rescore
    if judged is not None:
        shared["judge"] = named(judged.judge or spec.model)
    if spec.red_team is not None:
        shared["target"] = named(spec.red_team.target)
    return shared
