"""Making an attempt: putting it on record, and its objects."""

from __future__ import annotations

from itertools import takewhile

from rlhf_api.faults import AVOID
from rlhf_api.plan import PlannedStage
from rlhf_api.stage_file import planned_product
from rlhf_api.stages import PREPARE, SINGLE_PROCESS_STAGES
from rlhf_api.status import Attempt
from rlhf_operator.reconcile import claims, naming, profiles, reasons, times
from rlhf_operator.reconcile.objects import job, stage_file
from rlhf_operator.reconcile.objects.pod_template import AttemptSpec
from rlhf_operator.reconcile.observed.gang import AttemptPods, attempts_of
from rlhf_operator.reconcile.outcome import LiveRead, Raw
from rlhf_operator.reconcile.run import ReconcileContext


def begin_attempt(run: ReconcileContext, planned: PlannedStage) -> None:
    """Begin the stage's next attempt."""
    stage = run.stages[planned.name]
    numbers = [attempt.number for attempt in stage.attempts]
    numbers += [number for number, _ in attempts_of(planned.name, run.children.jobs)]
    number = max(numbers, default=-1) + 1
    started = times.write(run.now)
    queued = naming.QUEUE in run.labels
    attempt = Attempt(number=number, state="Pending", startTime=started)
    run.add_attempt(planned.name, attempt.model_copy(update={"reason": reasons.QUEUED}) if queued else attempt)
    run.change(
        planned.name,
        state="Queued" if queued else "Pending",
        reason=reasons.QUEUED if queued else reasons.STARTING,
        message=queue_message(run, run.labels.get(naming.QUEUE)) if queued else None,
        progress=None,
        start_time=stage.start_time or started,
        product=planned_product(run.plan, planned, run.records),
    )
    make_objects(run, planned, number)


def make_objects(run: ReconcileContext, planned: PlannedStage, number: int) -> None:
    """The attempt's objects, the Job last: when it is there, the others were made. Where it was refused, an override may
    change what it is made of."""
    spec = attempt_spec(run, planned, number)
    run.change_attempt(planned.name, ranks=_ranks(planned, spec.shape.world))
    if planned.type == PREPARE:
        claim = claims.claim(run.job, reference(run))
        run.out.create += [] if claim is None else [claim]
    if spec.shape.nodes > 1:
        run.out.create.append(job.service(run.job, spec.name, spec.labels, reference(run)))
    run.out.create.append(job.job(spec, reference(run), run.labels))


def mend_service(run: ReconcileContext, planned: PlannedStage, number: int, gang: AttemptPods) -> None:
    """Make the Service of a running gang again, where someone deleted it."""
    name = run.child(planned.name, number)
    if gang.nodes > 1 and all(service["metadata"]["name"] != name for service in run.children.services):
        labels = naming.labels(run.job.metadata.name, run.uid, planned.name, number)
        run.out.create.append(job.service(run.job, name, labels, reference(run)))


def attempt_spec(run: ReconcileContext, planned: PlannedStage, number: int) -> AttemptSpec:
    """What the attempt's objects are drawn from."""
    shape = profiles.shape(run.job, planned, run.status.profiles, run.settings)
    name = run.child(planned.name, number)
    return AttemptSpec(
        job=run.job,
        settings=run.settings,
        shape=shape,
        name=name,
        file=stage_file.stage_file(run, planned, number, shape, name),
        labels=naming.labels(run.job.metadata.name, run.uid, planned.name, number),
        prepare=planned.type == PREPARE,
        together=shape.nodes > 1 and claims.one_node(access(run)),
        avoid=_avoided(run, planned),
    )


def _avoided(run: ReconcileContext, planned: PlannedStage) -> tuple[str, ...]:
    """Nodes of the last attempts, as long as these ended by a fault of their node."""
    ended = [attempt for attempt in run.stages[planned.name].attempts if attempt.end_time is not None]
    faulty = takewhile(lambda attempt: attempt.reason in AVOID, reversed(ended))
    return tuple(dict.fromkeys(attempt.node for attempt in faulty if attempt.node is not None))


def queue_message(run: ReconcileContext, queue: str | None) -> str:
    """Message for a suspended Job, until Kueue explains why it waits."""
    if queue is None:
        return "its Job is suspended, not by this operator"
    if not run.settings.kueue:
        return naming.cut(f"its Job names the queue {queue}, but this operator was not told of a Kueue (kueue: true)")
    return naming.cut(f"waits in the queue {queue}")


def reference(run: ReconcileContext) -> Raw:
    """The owner reference of the job's children."""
    return job.owner(run.job.metadata.name, run.uid)


def access(run: ReconcileContext) -> tuple[str, ...]:
    """Access modes of the job's claim; none, and the claim is asked for, where they are not known yet.

    A claim that is there counts before the template: it may have been made from another.
    """
    name = claims.claim_name(run.job)
    if not run.sure(LiveRead("Claim", name)):
        return ()
    claim = run.children.claims.get(name) or claims.claim(run.job, reference(run))
    return () if claim is None else tuple(claims.modes(claim))


def _ranks(planned: PlannedStage, world: int) -> int:
    return 1 if planned.type in SINGLE_PROCESS_STAGES else world
