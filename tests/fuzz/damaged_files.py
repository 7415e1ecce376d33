"""Inputs as they lie on a disk, damaged: models, data, policies, cards, records, links; each kind in a function.

A writer gets a folder and a source of chance, and leaves a damaged input in the folder.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from fakes.policies import small
from fuzz.damage import ODD, corrupt, misshape
from rlhf_api.yaml import dump_yaml

Writer = Callable[[Path, random.Random], None]
PAIRS = [{"prompt": f"q {n}", "chosen": "good", "rejected": "bad", "note": None, "n": n} for n in range(12)]
CHAT = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]} for _ in range(12)]
AUDIT = [{"number": n, "prompt": "q", "a": "x", "b": "y", "better": "a"} for n in range(4)]
CARD = {
    "license": "mit",
    "license_name": "x",
    "tags": ["a", "b"],
    "configs": [
        {"config_name": "default", "default": True, "data_files": [{"split": "train", "path": "*.jsonl"}]},
        {"config_name": "more", "data_files": ["rows*"]},
    ],
}
FUNCTION = b"""import json
from helper import one
def count(prompts, responses):
    return [float(len(response)) for response in responses]
"""


def damaged_json(value: Any, draw: random.Random) -> bytes:
    """A JSON text of a misshapen value, or damaged bytes, or both."""
    content = json.dumps(misshape(value, draw) if draw.random() < 0.8 else value).encode()
    return corrupt(content, draw) if draw.random() < 0.3 else content


def write_model(source: Path, folder: Path, draw: random.Random) -> None:
    """A copy of a whole model's folder of which one or two files are damaged or missing."""
    for path in source.iterdir():
        os.link(path, folder / path.name)
    names = sorted(path.name for path in source.iterdir())
    names += ["model.safetensors.index.json", "special_tokens_map.json", "added_tokens.json", "ensemble.json"]
    for name in draw.sample(names, draw.choice((1, 1, 1, 2))):
        content = (source / name).read_bytes() if (source / name).exists() else json.dumps(OTHERS[name]).encode()
        (folder / name).unlink(missing_ok=True)
        if draw.random() < 0.05:
            continue
        (folder / name).write_bytes(_damaged_part(name, content, draw))


OTHERS: dict[str, Any] = {
    "model.safetensors.index.json": {"metadata": {"total_size": 9}, "weight_map": {"a.weight": "model.safetensors"}},
    "special_tokens_map.json": {"eos_token": "<|im_end|>", "pad_token": {"content": "x", "lstrip": False}},
    "added_tokens.json": {"<|im_end|>": 2, "<new>": 900},
    "ensemble.json": {
        "version": "1",
        "kind": "reward",
        "members": 1,
        "combine": "mean",
        "k": 1.0,
        "mean": [],
        "std": [],
    },
}
"""Files that a model's folder may have, and the tiny ones here have not."""


def _damaged_part(name: str, content: bytes, draw: random.Random) -> bytes:
    if name.endswith(".safetensors"):
        return damaged_safetensors(content, draw)
    if name.endswith(".json") and draw.random() < 0.8:
        return damaged_json(json.loads(content), draw)
    return corrupt(content, draw)


def damaged_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Damaged in its header: misshapen, of another length, or its bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    if draw.random() < 0.3:
        return corrupt(content[: 8 + length], draw) + content[8 + length :]
    header = damaged_json(json.loads(content[8 : 8 + length]), draw)
    stated_length = (
        len(header) if draw.random() < 0.8 else draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(header) + 1))
    )
    return struct.pack("<Q", stated_length) + header + content[8 + length :]


def write_gguf(folder: Path, draw: random.Random) -> None:
    """A GGUF file with a damaged header; seldom two."""
    pairs = [("general.architecture", "llama"), ("general.license", "mit"), ("llama.block_count", 2)]
    pairs += [(f"llama.{name}", 32) for name in ("embedding_length", "feed_forward_length", "context_length")]
    pairs += [("llama.attention.head_count", 4), ("tokenizer.ggml.eos_token_id", 2)]
    pairs += [("tokenizer.ggml.padding_token_id", 0), ("tokenizer.chat_template", "{{ messages }}")]
    pairs += [("tokenizer.ggml.tokens", ["a", "b"])]
    draw.shuffle(pairs)
    if draw.random() < 0.5:
        pairs[draw.randrange(len(pairs))] = (pairs[0][0], draw.choice(("", "x" * 300, 2**40, "bert", [], 0)))
    content = b"GGUF" + struct.pack("<IQQ", draw.choice((3, 3, 3, 2, 1)), 1, len(pairs))
    content += b"".join(_gguf_string(name) + _gguf_value(value) for name, value in pairs)
    content += _gguf_string("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 412, 0, 0)
    (folder / "m.gguf").write_bytes(corrupt(content, draw) if draw.random() < 0.8 else content)
    if draw.random() < 0.05:
        (folder / "n.gguf").write_bytes(content)


def _gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _gguf_value(value: Any) -> bytes:
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_gguf_string, value))
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_string(value)
    return struct.pack("<IQ", 10, value)


def write_policy(folder: Path, draw: random.Random) -> None:
    """A policy file that is misshapen, or whose text is damaged."""
    (folder / "policy.yaml").write_bytes(damaged_yaml(small(), draw))


def damaged_yaml(value: Any, draw: random.Random) -> bytes:
    """A YAML text of a misshapen value, or damaged bytes; seldom with anchors that double a level."""
    misshapen = misshape(value, draw) if draw.random() < 0.7 else value
    content = dump_yaml(misshapen).encode(errors="surrogatepass")
    if draw.random() < 0.1:
        content += b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40))
    return corrupt(content, draw) if draw.random() < 0.5 else content


def write_card(folder: Path, draw: random.Random) -> None:
    """Rows beside a README.md whose front matter is damaged."""
    (folder / "rows.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in CHAT))
    card = b"---\n" + damaged_yaml(CARD, draw) + b"\n---\n# Rows\n"
    (folder / "README.md").write_bytes(corrupt(card, draw) if draw.random() < 0.3 else card)


@functools.cache
def _tables() -> dict[str, bytes]:
    """Files of the same rows, by suffix, whole."""
    table = pyarrow.Table.from_pylist(PAIRS)
    parquet, cells = io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    pyarrow.csv.write_csv(table, cells)
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in PAIRS)
    return {
        "parquet": parquet.getvalue(),
        "csv": cells.getvalue(),
        "jsonl": lines,
        "json": json.dumps({"data": PAIRS}).encode(),
    }


def write_table(folder: Path, draw: random.Random) -> None:
    """Rows in one of the formats, perhaps compressed, damaged before or after that."""
    kind = draw.choice(("parquet", "parquet", "csv", "jsonl", "json"))
    content = _tables()[kind]
    packed = draw.choice(("", ".gz", ".zst")) if kind != "parquet" else ""
    if not packed or draw.random() < 0.3:
        content = corrupt(content, draw)
    content = pack(content, packed)
    if packed and draw.random() < 0.8:
        content = corrupt(content, draw)
    (folder / f"rows.{kind}{packed}").write_bytes(content)


def pack(content: bytes, suffix: str) -> bytes:
    """Compressed as a suffix says."""
    if suffix == ".gz":
        return gzip.compress(content, mtime=0)
    return bytes(pyarrow.compress(content, "zstd", asbytes=True)) if suffix == ".zst" else content


def write_audit(folder: Path, draw: random.Random) -> None:
    """A filled-in audit whose rows are misshapen."""
    rows = [misshape(row, draw) if draw.random() < 0.5 else row for row in AUDIT]
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    (folder / "audit.jsonl").write_bytes(corrupt(content, draw) if draw.random() < 0.3 else content)


NAMES = ("rows.jsonl", "ROWS.JSON.GZ", "-", "a\nb.jsonl", "\x1b[31m.jsonl", "‮lnosj.jsonl", ".jsonl", "x" * 240, "é.csv")
TARGETS = ("/etc/passwd", "/proc/self/environ", "/dev/zero", "..", ".", "rows.jsonl", "nowhere", "a/b", "x" * 300, "\n")


def write_links(folder: Path, draw: random.Random) -> None:
    """Files, folders, pipes and links of odd names, some of which lead out of the folder or in a circle."""
    for _ in range(draw.randint(1, 4)):
        path = folder / draw.choice(NAMES)
        if path.is_symlink() or path.exists():
            continue
        kind = draw.random()
        if kind < 0.5:
            target = draw.choice((*TARGETS, path.name))
            path.symlink_to(target if draw.random() < 0.8 else f"{folder}/{target}")
        elif kind < 0.6:
            os.mkfifo(path)
        elif kind < 0.7:
            path.mkdir()
            (path / "rows.jsonl").write_text(json.dumps(CHAT[0]) + "\n")
        else:
            path.write_bytes(draw.choice((b"", b"\xff", json.dumps(CHAT[0]).encode() + b"\n")))
    if draw.random() < 0.1:
        (folder / os.fsdecode(b"\xff\xfe.jsonl")).write_bytes(b"{}")


def write_function(folder: Path, draw: random.Random) -> None:
    """A user's module and one beside it, damaged."""
    for name in ("judge.py", "helper.py"):
        content = FUNCTION if name == "judge.py" else b"one = 1\n"
        (folder / name).write_bytes(corrupt(content, draw) if draw.random() < 0.7 else content)


def damaged_record(record: bytes, draw: random.Random) -> bytes:
    """A damaged record of a kept input."""
    return damaged_json(json.loads(record), draw)


def odd_text(draw: random.Random) -> str:
    """A text that stands where a source or a name is expected."""
    texts = [value for value in ODD if isinstance(value, str)]
    return draw.choice(
        (*texts, "package://__main__/a", "package://a..b", "package:///", "pvc://x/..", "file:///", "a\x00b")
    )
