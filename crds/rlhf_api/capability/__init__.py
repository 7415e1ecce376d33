"""Can a stage work with the model it is given: asked before work, from config.json and the weights' headers alone."""

from rlhf_api.capability.checks import check_local, located_words, problems, words
from rlhf_api.capability.traits import ModelTraits, read_traits

__all__ = ["ModelTraits", "check_local", "located_words", "problems", "read_traits", "words"]
