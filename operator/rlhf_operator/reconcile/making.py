"""Making an attempt: putting it on record, and its objects."""

from __future__ import annotations

from dataclasses import replace

from rlhf_api.plan import PlannedStage
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.status import Attempt
from rlhf_operator.reconcile import (
    children,
    naming,
    pending,
    profiles,
    reasons,
    stage_files,
    storage,
    times,
)
from rlhf_operator.reconcile.observe import Gang, attempts_of
from rlhf_operator.reconcile.outcome import Delete, Look, Raw
from rlhf_operator.reconcile.pods import Sketch
from rlhf_operator.reconcile.run import Run


def begin(run: Run, planned: PlannedStage) -> None:
    """Begin the stage's next attempt."""
    stage = run.stages[planned.name]
    known = [attempt.number for attempt in stage.attempts]
    known += [number for number, _ in attempts_of(planned.name, run.children.jobs)]
    number = max(known, default=-1) + 1
    started = times.write(run.now)
    queued = naming.QUEUE in run.labels
    attempt = Attempt(number=number, state="Pending", startTime=started)
    run.add_attempt(planned.name, attempt.model_copy(update={"reason": reasons.QUEUED}) if queued else attempt)
    run.change(
        planned.name,
        state="Queued" if queued else "Pending",
        reason=reasons.QUEUED if queued else reasons.STARTING,
        message=pending.held(run, run.labels.get(naming.QUEUE)) if queued else None,
        progress=None,
        start_time=stage.start_time or started,
        product=None if planned.type == PREPARE else _product(run, planned),
    )
    make(run, planned, number)


def make(run: Run, planned: PlannedStage, number: int) -> None:
    """The attempt's objects, the Job last: when it is there, the others were made.

    Until then, where it was refused, an override may change what they are made of: the file is made anew, once the
    former one has gone.
    """
    sketch = sketched(run, planned, number)
    file = _config_map(run, planned, sketch, number)
    former = next((one for one in run.children.config_maps if one["metadata"]["name"] == sketch.name), None)
    if former is not None and _digest(former) != _digest(file):
        run.out.delete.append(Delete("ConfigMap", sketch.name, former["metadata"]["uid"]))
        return
    run.change_attempt(planned.name, ranks=_ranks(planned, sketch.shape.world))
    if planned.type == PREPARE:
        claim = storage.claim(run.job, reference(run))
        run.out.create += [] if claim is None else [claim]
    run.out.create.append(file)
    if sketch.shape.nodes > 1:
        run.out.create.append(children.service(sketch, reference(run)))
    run.out.create.append(children.job(sketch, reference(run), run.labels))


def mend(run: Run, planned: PlannedStage, number: int, gang: Gang) -> None:
    """Make again what a running attempt needs and someone deleted. The Job says how many pods there are, and the record
    how many ranks: overrides are for attempts to come."""
    name = run.child(planned.name, number)
    lacks_file = all(one["metadata"]["name"] != name for one in run.children.config_maps)
    lacks_service = gang.nodes > 1 and all(one["metadata"]["name"] != name for one in run.children.services)
    if not (lacks_file or lacks_service):
        return
    sketch = sketched(run, planned, number)
    recorded = run.stages[planned.name].attempts[-1].ranks
    ranks = sketch.shape.ranks if recorded is None else max(1, recorded // gang.nodes)
    sketch = replace(sketch, shape=replace(sketch.shape, nodes=gang.nodes, ranks=ranks))
    if lacks_file:
        run.out.create.append(_config_map(run, planned, sketch, number))
    if lacks_service:
        run.out.create.append(children.service(sketch, reference(run)))


def sketched(run: Run, planned: PlannedStage, number: int) -> Sketch:
    """What the attempt's objects are drawn from."""
    shape = profiles.shape(run.job, planned, run.status.profiles, run.settings)
    return Sketch(
        job=run.job,
        settings=run.settings,
        shape=shape,
        name=run.child(planned.name, number),
        labels=naming.labels(run.job.metadata.name, run.uid, planned.name, number),
        prepare=planned.type == PREPARE,
        together=shape.nodes > 1 and storage.one_node(access(run)),
    )


def reference(run: Run) -> Raw:
    """The owner reference of the job's children."""
    return children.owner(run.job.metadata.name, run.uid)


def access(run: Run) -> tuple[str, ...]:
    """Access modes of the job's claim; none, and the claim is asked for, where they are not known yet.

    A claim that is there counts before the template: it may have been made from another.
    """
    name = storage.claim_name(run.job)
    if not run.sure(Look("Claim", name)):
        return ()
    found = run.children.claims.get(name) or storage.claim(run.job, reference(run))
    return () if found is None else tuple(storage.modes(found))


def _config_map(run: Run, planned: PlannedStage, sketch: Sketch, number: int) -> Raw:
    file = stage_files.stage_file(
        run.job,
        run.uid,
        run.plan,
        planned,
        run.stages,
        run.resolved,
        attempt=number,
        shape=sketch.shape,
        nodes=sketch.shape.nodes,
        name=sketch.name,
        port=run.settings.metrics_port,
    )
    return children.config_map(sketch, reference(run), file)


def _digest(config_map: Raw) -> str | None:
    return (config_map["metadata"].get("labels") or {}).get(naming.STAGE_FILE)


def _product(run: Run, planned: PlannedStage) -> str:
    return f"{planned.type}-{stage_files.digest(run.plan, planned, run.stages)}"


def _ranks(planned: PlannedStage, world: int) -> int:
    return 1 if planned.type in (PREPARE, REPORT) else world
