"""Files that are not what their names say: told by what they are, with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from rlhf_api.bounded import Unreadable, mistaken, read_object
from rlhf_api.safetensors import read_header
from rlhf_trainer.data.readers import BadRow, read_rows
from rlhf_trainer.exits import InputError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>404</body></html>\n"
ROWS = "".join(json.dumps({"prompt": f"q {n}"}) + "\n" for n in range(3)).encode()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("rows.jsonl", ROWS)
    return content.getvalue()


WRONG = {"a pointer of git LFS": POINTER, "a web page": PAGE, "a zip archive or a spreadsheet": archive()}
WRONG |= {"bzip2": bz2.compress(ROWS), "xz": lzma.compress(ROWS)}
NAMES = ("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", WRONG)
def test_rows(tmp_path: Path, what: str, name: str) -> None:
    (tmp_path / name).write_bytes(WRONG[what])
    with pytest.raises(InputError, match=f"^{name}:1: found {what}.*; "):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("what", WRONG)
def test_a_model(tmp_path: Path, what: str) -> None:
    for name, read in (("config.json", read_object), ("model.safetensors", read_header)):
        (tmp_path / name).write_bytes(WRONG[what])
        with pytest.raises(Unreadable, match=f"^{name}: found {what}"):
            read(tmp_path / name)


def test_packed_rows_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(ROWS))
    with pytest.raises(InputError, match=r"rows.jsonl:1: found gzip; call it .gz, or unpack it"):
        list(read_rows(tmp_path))


def test_what_is_right_is_not_mistaken(tmp_path: Path) -> None:
    for name, content in (
        ("rows.jsonl", ROWS),
        ("rows.jsonl.gz", gzip.compress(ROWS)),
        ("empty.csv", b""),
        ("rows.csv", b"<html>\nis what I asked for\n"[1:]),
    ):
        (tmp_path / name).write_bytes(content)
        assert mistaken(tmp_path / name) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (json.dumps({"prompt": "q"}, indent=2), "one row a line"),
        (json.dumps([{"prompt": "q"}], indent=2), "one row a line"),
        ("{'prompt': 'q'}\n", "single quotes"),
    ],
)
def test_json_that_is_no_line_a_row(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    first = next(iter(read_rows(tmp_path)))
    assert isinstance(first, BadRow)
    assert problem in first.problem


def test_columns_apart_by_other_than_commas(tmp_path: Path) -> None:
    for separator in (";", "\t"):
        (tmp_path / "rows.csv").write_text(f"prompt{separator}completion\nq{separator}a\n")
        with pytest.raises(InputError, match=r"rows\.csv:1: found one column"):
            list(read_rows(tmp_path))
