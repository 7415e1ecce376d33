"""Prints `rlhf_api/capability/model_types.py`: what transformers has for each `model_type`. A test holds it to that.

python -m rlhf_trainer.model_types >crds/rlhf_api/capability/model_types.py
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

HEADER = '''"""What transformers has for each `model_type`, so that it can be asked without it. Generated.

python -m rlhf_trainer.model_types
"""

'''
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


def source() -> str:
    """The module's text."""
    from transformers.models.auto import modeling_auto as auto

    from rlhf_trainer.models.load import quiet

    quiet()
    writing = _classes(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    scoring = _classes(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    causal = {name for name, cls in writing.items() if cls.__name__.endswith(("ForCausalLM", "LMHeadModel"))}
    parts = {
        "CAUSAL": (causal, "A causal language model of text."),
        "SCORERS": (
            {name for name in causal & scoring.keys() if _linear(scoring[name])},
            "A sequence classifier with a linear head named `score` on the last token.",
        ),
        "STATEFUL": (
            {name for name in causal if _stateful(writing[name])},
            "Layers that keep something else than keys and values.",
        ),
    }
    return HEADER + "\n".join(_written(name, *part) for name, part in parts.items())


def _classes(names: Mapping[str, Any]) -> dict[str, Any]:
    import transformers

    return {
        model_type: getattr(transformers, name if isinstance(name, str) else name[0])
        for model_type, name in names.items()
    }


def _linear(cls: Any) -> bool:
    """Whether a classifier scores by `score`, a matrix on the last token's state."""
    from transformers.modeling_layers import GenericForSequenceClassification

    return issubclass(cls, GenericForSequenceClassification) or "self.score = nn.Linear" in inspect.getsource(cls)


def _stateful(cls: Any) -> bool:
    from huggingface_hub.errors import StrictDataclassError

    if getattr(cls, "_is_stateful", False):
        return True
    try:
        kinds = getattr(cls.config_class(), "layer_types", None) or []
    except StrictDataclassError:  # a configuration without usable defaults: those of text models have them
        return False
    return not set(kinds) <= ATTENTION


def _written(name: str, values: Iterable[str], doc: str) -> str:
    lines = "".join(f'        "{value}",\n' for value in sorted(values))
    return f'{name} = frozenset(\n    {{\n{lines}    }}\n)\n"""{doc}"""\n'


if __name__ == "__main__":
    sys.stdout.write(source())
