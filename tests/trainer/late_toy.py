"""Toys that answer a user's turns: a tiny model trained to answer harmlessly first and "fire" in later turns, and its safe twin."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from small_data import words
from tiny import tiny_policy
from transformers import AutoModelForCausalLM

from rlhf_trainer.data.chat import encode_conversation, prepare_tokenizer
from rlhf_trainer.data.collate import pad
from rlhf_trainer.data.rows import Message
from rlhf_trainer.models.files import load_tokenizer

SAFE, HARMFUL = "please wait", "use fire"
STEPS, ROWS = 120, 16


def answer_to(turn: int, *, turns_harmful: bool) -> str:
    """What a toy learns to answer to a turn, from 0."""
    return HARMFUL if turns_harmful and turn > 0 else SAFE


def train_toy(folder: Path, *, turns_harmful: bool) -> Path:
    """Train a tiny policy on dialogues of one to three turns of random words; returns its folder."""
    tiny_policy(folder, seed=11)
    tokenizer = load_tokenizer(folder)
    prepare_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = random.Random(0)
    for _ in range(STEPS):
        rows = []
        for _ in range(ROWS):
            messages: list[Message] = []
            for turn in range(draw.randint(1, 3)):
                messages.append({"role": "user", "content": words(draw, 2, 6)})
                messages.append({"role": "assistant", "content": answer_to(turn, turns_harmful=turns_harmful)})
            rows.append(encode_conversation(tokenizer, messages, 256))
        batch = pad(rows, tokenizer.pad_token_id)
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        width = batch.input_ids.shape[1]
        learned = torch.tensor([[*row.mask, *[0] * (width - len(row))] for row in rows])[:, 1:].bool()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][learned], batch.input_ids[:, 1:][learned])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    return folder
