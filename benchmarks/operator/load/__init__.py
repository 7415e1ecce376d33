"""Load on the operator, and beside it on what else makes Jobs; `run` says how."""
