"""A chat template that ends where reward and cost models were trained to score: at the last answer's EOS."""

from __future__ import annotations

from rlhf_trainer.data.template import Tokenizer, render

WRAPPED = (
    "{{% set rlhf_text %}}{{{{ '' }}}}{template}{{{{ '' }}}}{{% endset %}}"
    "{{% if add_generation_prompt or not messages or messages[-1]['role'] != 'assistant' %}}{{{{ rlhf_text }}}}"
    "{{% else %}}{{% set rlhf_parts = rlhf_text.rpartition(eos_token) %}}"
    "{{{{ rlhf_parts[0] + eos_token if rlhf_parts[1] and not rlhf_parts[2].strip() "
    "else rlhf_text.rstrip('\\n') + eos_token }}}}"
    "{{% endif %}}"
)
"""Renders the template, then cuts what follows the last answer's EOS, or adds the EOS that the template leaves out. The
empty expressions keep Jinja from trimming the template's first and last characters beside a block."""


def scored_template(tokenizer: Tokenizer) -> str:
    """The tokenizer's chat template, made to end at the last answer's EOS; as it is where it does so already."""
    template = str(tokenizer.chat_template)
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    if render(tokenizer, turn).endswith(tokenizer.eos_token):  # type: ignore[arg-type]  # roles and texts, no more
        return template
    return WRAPPED.format(template=template.removesuffix("\n"))
