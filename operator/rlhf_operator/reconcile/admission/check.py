"""Whether a valid job can run here: what depends on the platform (profiles, limits, storage), and on the operator."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_api.errors import Finding, format_path
from rlhf_api.expansion import written_at
from rlhf_api.stage_file import STAGE_FILE_VERSION
from rlhf_operator.reconcile import claims, pinning, profiles, reasons
from rlhf_operator.reconcile.admission import tenancy
from rlhf_operator.reconcile.objects.stage_file import stage_file
from rlhf_operator.reconcile.run import ReconcileContext

MOST_BYTES = 65536
"""Of stage.json. Kubernetes allows four times as much for all annotations of an object."""


def refused(run: ReconcileContext) -> tuple[str, str] | None:
    """Reason and message, with the path of every field that is wrong; None for a job that has begun."""
    version = run.status.plan_version
    if version is not None:
        supported = version == STAGE_FILE_VERSION
        words = f"began with plan version {version}; this operator drives version {STAGE_FILE_VERSION}"
        return None if supported else (reasons.UNKNOWN_PLAN, f"{words}: upgrade the operator, or make a new job")
    forbidden = list(tenancy.forbidden(run.job, run.settings))
    if forbidden:
        return reasons.FORBIDDEN, _words(run, forbidden)
    findings = [*claims.findings(run.job), *profiles.missing(run.job, run.settings)] or list(_too_large(run))
    return (reasons.INVALID_SPEC, _words(run, findings)) if findings else None


def _too_large(run: ReconcileContext) -> Iterator[Finding]:
    """A stage's file travels in an annotation of its pods. The whole job is in those of prepare and the report."""
    prepare = run.plan.stages[0]
    shape = profiles.shape(run.job, prepare, run.status.profiles, run.settings)
    size = len(stage_file(run, prepare, 0, shape, "").text.encode())
    if size > MOST_BYTES:
        message = f"found a job of {size} bytes as its stages read it; expected at most {MOST_BYTES}"
        yield Finding((), message, "move long texts to files, or split the job")


def accept(run: ReconcileContext) -> None:
    """Pin what the job runs with to its end: image, plan version, profiles, settings."""
    if run.status.plan_version is not None:
        return
    pinned = {
        "plan_version": STAGE_FILE_VERSION,
        "image": run.settings.image,
        "profiles": profiles.pin(run.plan, run.settings),
        "platform": pinning.platform(run.settings),
    }
    run.status = run.status.model_copy(update=pinned)


def _words(run: ReconcileContext, findings: list[Finding]) -> str:
    """Each once, at its place in the spec as it was written: what is wrong with a repeated stage is, with each member."""

    def words(finding: Finding) -> str:
        hint = f" ({finding.hint})" if finding.hint else ""
        return f"{format_path(written_at(run.raw, ('spec', *finding.at)))}: {finding.message}{hint}"

    return "; ".join(dict.fromkeys(words(finding) for finding in findings))
