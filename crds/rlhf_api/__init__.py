"""The RLHFJob as pydantic models, its CRD, its plan: without torch, without Kubernetes."""

from rlhf_api.errors import SpecError, SpecProblem
from rlhf_api.job import API_VERSION, KIND, RLHFJob
from rlhf_api.load import dump_job, job_to_dict, load_job, parse_job, read_job
from rlhf_api.plan import Plan, PlannedStage, Resolved, ResolvedInput, plan

__all__ = [
    "API_VERSION",
    "KIND",
    "Plan",
    "PlannedStage",
    "RLHFJob",
    "Resolved",
    "ResolvedInput",
    "SpecError",
    "SpecProblem",
    "dump_job",
    "job_to_dict",
    "load_job",
    "parse_job",
    "plan",
    "read_job",
]
