"""What a rank of a stage needs in memory, before anything runs: pure, from the job and facts of its models."""

from rlhf_api.memory.estimate import Estimate, estimate
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.memory.local_facts import InputFacts, read_local_facts
from rlhf_api.memory.terms import Lengths, Missing

__all__ = ["Estimate", "InputFacts", "Lengths", "Missing", "ModelFacts", "estimate", "read_local_facts"]
