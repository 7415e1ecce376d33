"""The RLHFJob as pydantic models, its CRD, its plan: without torch, without Kubernetes.

Nothing is imported here, so that `rlhf --help` takes the exit codes from `contract` without loading pydantic.
"""
