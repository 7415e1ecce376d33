"""Files of rows: JSONL, JSON, Parquet, gzip; whatever is wrong is told with its file and row."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.readers import BadRow, describe, read_rows
from rlhf_trainer.data.rows import Where
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.choose import choose, select_files

ROWS = [{"prompt": "a"}, {"prompt": "Ü 東"}]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def values(path, **options):
    return [row.value for row in read_rows(path, **options)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINES),
        ("rows.jsonl", LINES.rstrip(b"\n")),
        ("rows.jsonl", LINES.replace(b"\n", b"\r\n\r\n")),
        ("rows.ndjson", LINES),
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.json", json.dumps({"data": ROWS, "version": 1}).encode()),
        ("rows.json", json.dumps(ROWS, indent=2).encode()),
        ("rows.json", LINES),
        ("ROWS.JSONL.GZ", gzip.compress(LINES, mtime=0)),
        ("rows.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
    ],
)
def test_rows_are_read(tmp_path, name, content):
    assert values(write(tmp_path / name, content)) == ROWS


def test_parquet_rows_are_read(tmp_path):
    table = pa.table({"prompt": ["a", "b"], "chosen": [[{"role": "user", "content": "x"}], []], "safe": [True, None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    first, second = read_rows(tmp_path / "rows.parquet")
    assert first.value == {"prompt": "a", "chosen": [{"role": "user", "content": "x"}], "safe": True}
    assert (second.where, second.value["safe"]) == (Where("rows.parquet", 2), None)


def test_row_numbers_are_line_numbers(tmp_path):
    path = write(tmp_path / "rows.jsonl", b'\n{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows(path)] == [Where("rows.jsonl", 2), Where("rows.jsonl", 4)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"prompt": "a"', "the last line is no whole JSON object .*may be truncated"),
        (b'{"prompt": }\n', "is no JSON object"),
        (b"[1, 2]\n", "found a list of 2, expected an object"),
        (b'"text"\n', "found 'text', expected an object"),
        (b"null\n", "found null, expected an object"),
        (b'{"score": NaN}\n', "NaN or Infinity"),
        (b'{"score": [1, -Infinity]}\n', "NaN or Infinity"),
        (b'{"prompt": "caf\xe9"}\n', "is not UTF-8"),
        ('{"prompt": "a"}\n'.encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, line, problem):
    path = write(tmp_path / "rows.jsonl", b'{"a": 1}\n' + line)
    good, bad, *_ = read_rows(path)
    assert good.value == {"a": 1}
    assert isinstance(bad, BadRow)
    assert bad.where == Where("rows.jsonl", 2)
    assert re.search(problem, bad.problem)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        '{"prompt": {"0": "a", "1": "b"}, "answer": {"0": "c", "1": "d"}}',
        '{"p": ["a", "b"], "q": ["c", "d"]}',
        '{"0": {"p": "a"}, "1": {"p": "b"}}',
    ],
)
def test_a_whole_table_in_one_object_is_named(tmp_path, name, content):
    (bad,) = read_rows(write(tmp_path / name, content.encode() + b"\n"))
    assert bad.where.row == 1
    assert re.search(
        r'found a whole table in one object .*; expected an object a row \(pandas .* orient="records", lines=True',
        bad.problem,
    )


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"chosen": [{"role": "user"}, {"role": "user"}], "rejected": [{"role": "user"}, {"role": "user"}]},
        {"prompt": "x", "answers": ["a", "b"]},
        {"labels": {"a": True}, "answers": {"0": "x"}},
    ],
)
def test_a_single_row_with_lists_is_a_row(tmp_path, row):
    (good,) = read_rows(write(tmp_path / "rows.json", json.dumps(row).encode()))
    assert good.value == row


def test_lines_that_end_with_cr_alone_are_named(tmp_path):
    (bad,) = read_rows(write(tmp_path / "rows.jsonl", b'{"a": 1}\r{"a": 2}\r'))
    assert "CR alone" in bad.problem


def test_a_byte_order_mark_is_named(tmp_path):
    (bad,) = read_rows(write(tmp_path / "rows.jsonl", b'\xef\xbb\xbf{"a": 1}\n'))
    assert bad.where.row == 1
    assert "byte-order mark" in bad.problem


def test_a_row_of_a_json_list_that_is_no_object_is_named(tmp_path):
    good, bad = read_rows(write(tmp_path / "rows.json", b'[{"a": 1}, 7]'))
    assert (good.value, bad.where, bad.problem) == (
        {"a": 1},
        Where("rows.json", 2),
        "found 7, expected an object of columns",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'[{"a": 1}, {"a":', r"rows.json:1: .*JSON"),
        ("rows.json", b"3", "rows.json:1: found 3, expected a list of rows"),
        ("rows.json", b"", "rows.json:"),
        ("rows.parquet", b"PAR1 not really", "rows.parquet:1: cannot be read as Parquet"),
        ("rows.jsonl.gz", b"not gzip", "rows.jsonl.gz:1: the gzip file ends early or is damaged"),
    ],
)
def test_a_damaged_file_is_an_error_with_file_and_row(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        list(read_rows(write(tmp_path / name, content)))


def test_a_truncated_gzip_tells_how_many_rows_could_be_read(tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(20000))
    compressed = gzip.compress(lines)
    path = write(tmp_path / "rows.jsonl.gz", compressed[: len(compressed) // 2])
    read = []
    with pytest.raises(InputError, match="ends early or is damaged") as caught:
        read.extend(row for row in read_rows(path))
    rows = list(_until_error(path))
    assert f"rows.jsonl.gz:{len(rows) + 1}:" in str(caught.value)
    assert f"{len(rows)} rows could be read" in str(caught.value)
    assert len(rows) > 100


def _until_error(path):
    rows = read_rows(path)
    while True:
        try:
            yield next(rows)
        except (InputError, StopIteration):
            return


def test_a_changed_byte_in_a_gzip_is_noticed(tmp_path):
    content = bytearray(gzip.compress(LINES * 50))
    content[-6] ^= 1  # the checksum
    with pytest.raises(InputError, match="damaged"):
        list(read_rows(write(tmp_path / "rows.jsonl.gz", bytes(content))))


class TestFolders:
    def test_files_are_read_in_order_of_their_paths(self, tmp_path):
        write(tmp_path / "b.jsonl", b'{"n": 2}\n')
        write(tmp_path / "a/x.jsonl", b'{"n": 1}\n')
        write(tmp_path / ".hidden/y.jsonl", b'{"n": 0}\n')
        write(tmp_path / "manifest.json", b"{}")
        write(tmp_path / "README.md", b"text")
        assert [(row.where.file, row.value["n"]) for row in read_rows(tmp_path)] == [("a/x.jsonl", 1), ("b.jsonl", 2)]

    def test_a_products_own_files_are_no_rows(self, tmp_path):
        for name in ("manifest.json", "metrics.jsonl", "timings.json", "data.jsonl"):
            write(tmp_path / name, b'{"n": 1}\n')
        assert [row.where.file for row in read_rows(tmp_path)] == ["data.jsonl"]

    def test_a_folder_without_data_says_so(self, tmp_path):
        write(tmp_path / "README.md", b"text")
        with pytest.raises(InputError, match=r"found README.md; expected a file of rows: \.jsonl, "):
            list(read_rows(tmp_path))

    def test_a_file_that_is_no_data_says_so(self, tmp_path):
        with pytest.raises(InputError, match="cannot be read as rows"):
            list(read_rows(write(tmp_path / "rows.xlsx", b"a,b")))

    def test_nothing_there_says_so(self, tmp_path):
        with pytest.raises(InputError, match="no such file or folder"):
            list(read_rows(tmp_path / "none"))


NAMES = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"]


CARD = {
    "configs": [
        {"config_name": "small", "data_files": [{"split": "train", "path": "s/*.jsonl"}]},
        {
            "config_name": "large",
            "data_files": [
                {"split": "train", "path": ["l/1.jsonl", "l/2.jsonl"]},
                {"split": "test", "path": "l/t.jsonl"},
            ],
        },
    ]
}
FILES = ["s/a.jsonl", "l/1.jsonl", "l/2.jsonl", "l/3.jsonl", "l/t.jsonl"]


class TestChoice:
    @pytest.mark.parametrize(("split", "expected"), [(None, NAMES[:2]), ("train", NAMES[:2]), ("test", NAMES[2:])])
    def test_a_split_is_told_from_the_path(self, split, expected):
        assert choose("x", NAMES, {}, None, split) == expected

    def test_without_named_splits_all_files_are_taken(self):
        assert choose("x", ["b.jsonl", "a.jsonl"], {}, None, None) == ["a.jsonl", "b.jsonl"]

    def test_a_single_file_is_taken_whatever_its_name(self):
        assert choose("x", ["test.jsonl"], {}, None, None) == ["test.jsonl"]

    def test_a_missing_split_lists_those_there_are(self):
        with pytest.raises(InputError, match="no file of split 'dev'; splits found: test, train"):
            choose("x", NAMES, {}, None, "dev")

    @pytest.mark.parametrize("subset", ["harmless", "harmless/*"])
    def test_a_subset_is_a_folder_or_a_glob(self, subset):
        names = ["harmless/train.jsonl.gz", "harmless/test.jsonl.gz", "helpful/train.jsonl.gz"]
        assert choose("x", names, {}, subset, None) == ["harmless/train.jsonl.gz"]

    def test_a_subset_that_matches_nothing_lists_the_files(self):
        with pytest.raises(InputError, match=r"input.subset 'none' matches no file; found data/test-00000"):
            choose("x", NAMES, {}, "none", None)

    def test_the_cards_configuration_is_followed(self):
        assert choose("x", FILES, CARD, "large", None) == ["l/1.jsonl", "l/2.jsonl"]
        assert choose("x", FILES, CARD, "large", "test") == ["l/t.jsonl"]

    def test_of_several_configurations_one_must_be_named(self):
        with pytest.raises(InputError, match=r"several configurations \(small, large\); set input.subset"):
            choose("x", FILES, CARD, None, None)

    def test_the_cards_default_is_taken(self):
        front = {"configs": [*CARD["configs"][:1], {"config_name": "default", "data_files": "l/*.jsonl"}]}
        assert choose("x", FILES, front, None, None) == ["l/1.jsonl", "l/2.jsonl", "l/3.jsonl", "l/t.jsonl"]

    def test_the_card_in_a_folder_is_read(self, tmp_path):
        front = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files: rows/b.jsonl\n---\n# Title\n"
        write(tmp_path / "README.md", front.encode())
        write(tmp_path / "rows/a.jsonl", b"{}\n")
        write(tmp_path / "rows/b.jsonl", b"{}\n")
        assert select_files(tmp_path) == [tmp_path / "rows/b.jsonl"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        ("short", "'short'"),
        ("x" * 41, "a string of 41 characters"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object of 1"),
    ],
)
def test_values_are_told_in_few_words(value, words):
    assert describe(value) == words


@given(
    st.sampled_from(["jsonl", "json", "csv", "jsonl.gz", "json.gz", "csv.gz", "jsonl.zst", "parquet"]),
    st.binary(max_size=80) | st.text('[]{}":,\n a1\\u', max_size=60).map(str.encode),
    st.booleans(),
)
def test_whatever_a_file_holds_it_is_rows_bad_rows_or_an_input_error(suffix, content, packed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{suffix}"
        path.write_bytes(gzip.compress(content) if packed else content)
        numbers = []
        try:
            for row in read_rows(path):
                numbers.append(row.where.row)
                assert isinstance(row, BadRow) or isinstance(row.value, dict)
        except InputError as error:
            assert str(error).startswith(f"{path.name}:")
        assert numbers == sorted(set(numbers))
