"""The RLHFJob as pydantic models, its CRD, its plan: without torch, without Kubernetes."""
