"""Prints `rlhf_api/capability/model_types.py`: what transformers has for each `model_type`. A test holds it to that.

python -m rlhf_trainer.model_types >crds/rlhf_api/capability/model_types.py
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from rlhf_api.capability.traits import ATTENTION, changed_logits

HEADER = '''"""What transformers has for each `model_type`, so that it can be asked without it. Generated.

python -m rlhf_trainer.model_types
"""

'''


def source() -> str:
    """The module's text."""
    from transformers.models.auto import modeling_auto as auto

    from rlhf_trainer.models.explained import quiet

    quiet()
    writing = _classes(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    scoring = _classes(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    others = (
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    causal = {name for name, cls in writing.items() if cls.__name__.endswith(("ForCausalLM", "LMHeadModel"))}
    causal -= {name for mapping in others for name in mapping}
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
        "CHANGED_LOGITS": (
            {name for name in causal if changed_logits(vars(_defaults(writing[name])))},
            "Logits are capped or scaled after the output head, by default.",
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
    kinds = getattr(_defaults(cls), "layer_types", None) or []
    return bool(getattr(cls, "_is_stateful", False)) or not set(kinds) <= ATTENTION


def _defaults(cls: Any) -> Any:
    """A model's configuration as it is without a config.json; an empty one where some field has no default."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return cls.config_class()
    except StrictDataclassError:
        return SimpleNamespace()


def _written(name: str, values: Iterable[str], doc: str) -> str:
    lines = "".join(f'        "{value}",\n' for value in sorted(values))
    return f'{name} = frozenset(\n    {{\n{lines}    }}\n)\n"""{doc}"""\n'


if __name__ == "__main__":
    sys.stdout.write(source())
