"""The operator: runs RLHFJobs as Kubernetes Jobs."""
