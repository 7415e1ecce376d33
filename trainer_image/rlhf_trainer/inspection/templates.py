"""The chat templates that a stage's rows are checked against before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlhf_api.fields import RulesRef
from rlhf_api.product import first_model
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.chat import prepare_tokenizer
from rlhf_trainer.data.checks import LoadedReader, check_of, readers_of_text
from rlhf_trainer.data.conversion import Check
from rlhf_trainer.inspection.readers import Reader
from rlhf_trainer.models.files import load_tokenizer


def checks_of(context: StageContext, readers: Iterable[Reader]) -> list[Check]:
    """What each reader's chat template takes, as its stage writes it.

    Raises:
        InputError: a tokenizer cannot be used.
    """
    loaded = []
    for reader in readers:
        if isinstance(reader.reference, RulesRef):  # rules without a grader: refused where they are loaded
            continue
        entry = context.input(reader.reference)
        tokenizer = load_tokenizer(first_model(Path(entry.path)), context.storage / "inputs")
        prepare_tokenizer(tokenizer, entry.template)
        loaded.append(LoadedReader(reader.reference.label, tokenizer, reader.reading))
    return [check_of(reader.tokenizer, reader.reading) for reader in readers_of_text(loaded)]
