"""Can a stage work with the model it is given: asked before work, from config.json and the weights' headers alone."""

from rlhf_api.capability.checks import check_local, located_words, problems, words
from rlhf_api.capability.sizes import size_problems
from rlhf_api.capability.traits import ModelTraits, read_traits, tensor_shapes

__all__ = [
    "ModelTraits",
    "check_local",
    "located_words",
    "problems",
    "read_traits",
    "size_problems",
    "tensor_shapes",
    "words",
]
