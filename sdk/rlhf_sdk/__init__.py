"""The `rlhf` command: a job on this machine, as processes. Imports neither torch nor the trainer."""
