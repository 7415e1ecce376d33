"""Making an attempt: putting it on record, and its objects."""

from __future__ import annotations

from itertools import takewhile

from rlhf_api.faults import AVOID
from rlhf_api.plan import PlannedStage
from rlhf_api.stage_file import planned_product
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
from rlhf_operator.reconcile.gang import Gang, attempts_of
from rlhf_operator.reconcile.outcome import Look, Raw
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
        product=planned_product(run.plan, planned, run.records),
    )
    make(run, planned, number)


def make(run: Run, planned: PlannedStage, number: int) -> None:
    """The attempt's objects, the Job last: when it is there, the others were made. Where it was refused, an override may
    change what it is made of."""
    sketch = sketched(run, planned, number)
    run.change_attempt(planned.name, ranks=_ranks(planned, sketch.shape.world))
    if planned.type == PREPARE:
        claim = storage.claim(run.job, reference(run))
        run.out.create += [] if claim is None else [claim]
    if sketch.shape.nodes > 1:
        run.out.create.append(children.service(run.job, sketch.name, sketch.labels, reference(run)))
    run.out.create.append(children.job(sketch, reference(run), run.labels))


def mend(run: Run, planned: PlannedStage, number: int, gang: Gang) -> None:
    """Make the Service of a running gang again, where someone deleted it."""
    name = run.child(planned.name, number)
    if gang.nodes > 1 and all(service["metadata"]["name"] != name for service in run.children.services):
        labels = naming.labels(run.job.metadata.name, run.uid, planned.name, number)
        run.out.create.append(children.service(run.job, name, labels, reference(run)))


def sketched(run: Run, planned: PlannedStage, number: int) -> Sketch:
    """What the attempt's objects are drawn from."""
    shape = profiles.shape(run.job, planned, run.status.profiles, run.settings)
    name = run.child(planned.name, number)
    return Sketch(
        job=run.job,
        settings=run.settings,
        shape=shape,
        name=name,
        file=stage_files.stage_file(run, planned, number, shape, name),
        labels=naming.labels(run.job.metadata.name, run.uid, planned.name, number),
        prepare=planned.type == PREPARE,
        together=shape.nodes > 1 and storage.one_node(access(run)),
        avoid=_avoided(run, planned),
    )


def _avoided(run: Run, planned: PlannedStage) -> tuple[str, ...]:
    """Nodes of the last attempts, as long as these ended by a fault of their node."""
    ended = [attempt for attempt in run.stages[planned.name].attempts if attempt.end_time is not None]
    faulty = takewhile(lambda attempt: attempt.reason in AVOID, reversed(ended))
    return tuple(dict.fromkeys(attempt.node for attempt in faulty if attempt.node is not None))


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


def _ranks(planned: PlannedStage, world: int) -> int:
    return 1 if planned.type in (PREPARE, REPORT) else world
