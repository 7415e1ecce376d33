"""Files that others wrote are read within bounds: hostile ones are refused by name, in seconds at most."""

from __future__ import annotations

import json
import os
import re
import struct
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fuzz import damage
from fuzz.damaged_files import pack
from rlhf_api.bounded import MAX_DEPTH, MAX_RATIO, Unreadable, read_bytes, read_object
from rlhf_api.errors import SpecError
from rlhf_api.gguf import MAX_ENTRIES, MAX_STRINGS, read_header
from rlhf_api.job import Input
from rlhf_api.memory.local_facts import _longest
from rlhf_api.packages import package_folder
from rlhf_api.yaml import load_yaml
from rlhf_api.yaml_nodes import MAX_VALUES
from rlhf_trainer.data import readers
from rlhf_trainer.data.conversion import Conversion
from rlhf_trainer.data.readers import BadRow, RawRow, read_rows
from rlhf_trainer.exits import InputError
from rlhf_trainer.functions import source_digest
from rlhf_trainer.rules import parser, problems
from rlhf_trainer.rules.parser import parse_policy
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.simulation.prompt_format import NEXT_TURN, answer_text
from rlhf_trainer.sources.choose import card
from rlhf_trainer.sources.fetch import fetch
from rlhf_trainer.sources.folder import MAX_FOLDERS, files_below
from rlhf_trainer.sources.licence import told_licence

bounded = partial(damage.bounded, 3.0)
"""Of processor time, which a core that is shared makes longer: what grows faster than its input takes far more."""
HEAD = """
prompt_template: "{question}"
completion_class_order: [good, bad]
completion_classes:
  good: {comply: {TOP: true}}
  bad: {comply: {TOP: false}}
simple_propositions: {p: {prompt: is it?}, q: {prompt: is it?}}
derived_propositions:
"""


class TestFiles:
    def test_a_pipe_is_refused_without_waiting_for_a_writer(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "config.json")
        with pytest.raises(Unreadable, match=r"config\.json: found a pipe; expected a file"):
            read_object(tmp_path / "config.json")

    def test_a_large_file_is_refused_unread(self, tmp_path: Path) -> None:
        with (tmp_path / "a.json").open("wb") as file:
            file.truncate(1 << 40)
        with bounded(), pytest.raises(Unreadable, match=r"a\.json: has more than 100 bytes"):
            read_bytes(tmp_path / "a.json", 100)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"[1]", "found list; expected a JSON object"),
            (b"{", "is no JSON"),
            (b"\xff", "is no JSON"),
            (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", f"nested more than {MAX_DEPTH} deep"),
            (b"[" * 100_000, f"nested more than {MAX_DEPTH} deep"),
            (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
            (b'{"a": "\\ud800"}', "is no JSON"),
        ],
    )
    def test_what_is_no_object_is_named(self, tmp_path: Path, content: bytes, problem: str) -> None:
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(Unreadable, match=rf"a\.json: {problem}"):
            read_object(tmp_path / "a.json")


class TestRows:
    @pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.json.gz", "rows.csv.gz"])
    def test_what_unpacks_to_far_more_than_it_is_ends_by_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(pack(b" " * (64 << 20), Path(name).suffix))
        words = rf"{re.escape(name)}: unpacks to more than {MAX_RATIO} times"
        with bounded(), pytest.raises(InputError, match=words):
            list(read_rows(tmp_path / name))

    def test_many_empty_lines_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_bytes(b"\n" * (4 << 20))
        with bounded(), pytest.raises(InputError, match=r"rows\.jsonl:\d+: more than \d+ empty lines"):
            list(read_rows(tmp_path / "rows.jsonl"))

    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    def test_rows_that_are_much_alike_are_read(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"rows.jsonl{suffix}").write_bytes(pack(b'{"prompt": "q"}\n' * 200_000, suffix))
        assert sum(1 for _ in read_rows(tmp_path / f"rows.jsonl{suffix}")) == 200_000

    def test_the_longest_row_of_a_bomb_is_not_known(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl.gz").write_bytes(pack(b"a" * (64 << 20), ".gz"))
        with bounded():
            assert _longest(tmp_path / "rows.jsonl.gz") is None

    @pytest.mark.parametrize(
        ("name", "expected"), [("rows.jsonl", "rows.jsonl:1: a line of"), ("rows.csv", "a line of")]
    )
    def test_a_line_without_an_end_is_refused(self, tmp_path: Path, name: str, expected: str) -> None:
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
        with bounded(), pytest.raises(InputError, match=expected):
            list(read_rows(tmp_path / name))

    def test_a_large_json_file_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readers, "MAX_JSON", 1 << 20)
        (tmp_path / "rows.json").write_bytes(b" " * ((1 << 20) + 1))
        with pytest.raises(InputError, match=r"rows\.json: has more than 1 MiB; expected JSON lines"):
            list(read_rows(tmp_path / "rows.json"))

    def test_a_deep_row_is_a_bad_row(self, tmp_path: Path) -> None:
        deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
        (tmp_path / "rows.jsonl").write_bytes(b'{"a": %s}\n{"a": 1}\n' % deep)
        first, second = read_rows(tmp_path / "rows.jsonl")
        assert isinstance(first, BadRow)
        assert first.problem == f"nested more than {MAX_DEPTH} deep"
        assert isinstance(second, RawRow)

    def test_parquet_whose_text_is_not_utf_8_is_named(self, tmp_path: Path) -> None:
        text = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
        pyarrow.parquet.write_table(pyarrow.table({"prompt": text}), tmp_path / "rows.parquet")
        with pytest.raises(InputError, match=r"rows\.parquet:1: cannot be read as Parquet"):
            list(read_rows(tmp_path / "rows.parquet"))


ASKED = {"role": "user", "content": "q"}


class TestJsonTexts:
    """A cell or field may hold JSON as a text: it nests no deeper than rows do."""

    DEEP = "[" + '{"a":' * 900 + "1" + "}" * 900 + "]"

    @pytest.mark.parametrize(
        ("row", "field"),
        [
            ({"messages": [ASKED, {"role": "assistant", "content": "a"}], "tools": DEEP}, "tools"),
            ({"messages": [ASKED, {"role": "assistant", "tool_calls": DEEP}]}, r"messages\[1\]\.tool_calls"),
            ({"conversations": [ASKED, {"from": "function_call", "value": DEEP}]}, r"conversations\[1\]\.value"),
        ],
    )
    def test_a_deep_one_is_a_bad_row(self, tmp_path: Path, row: dict[str, object], field: str) -> None:
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        words = rf"rows\.jsonl:1: {field}: found a string .* nested at most {MAX_DEPTH} deep"
        with bounded(), pytest.raises(InputError, match=words):
            list(Conversion("rows", None, "conversations").rows(tmp_path))

    def test_a_deep_cell_is_a_text(self, tmp_path: Path) -> None:
        cell = self.DEEP.replace('"', '""')
        (tmp_path / "rows.csv").write_text(f'prompt\n"{cell}"\n')
        (prompt,) = Conversion("rows", None, "prompts").rows(tmp_path)
        assert prompt.messages == ({"role": "user", "content": self.DEEP},)


class TestFolders:
    def test_folders_without_an_end_are_refused_by_name(self, tmp_path: Path) -> None:
        tmp_path.joinpath(*["aaaa"] * (MAX_FOLDERS + 2)).mkdir(parents=True)
        with bounded(), pytest.raises(InputError, match=rf"aaaa/aaaa/.*: folders nested more than {MAX_FOLDERS} deep"):
            files_below(tmp_path)


class TestPackages:
    @pytest.mark.parametrize("name", ["__main__", "no_such_package", "no_such_package.a", "math"])
    def test_what_has_no_folder_is_no_package(self, name: str) -> None:
        assert package_folder(name) is None

    def test_such_a_source_is_refused_by_its_text(self, tmp_path: Path) -> None:
        entry = Input.model_validate({"name": "a", "source": "package://__main__/rows.jsonl"})
        with pytest.raises(InputError, match="package://__main__/rows\\.jsonl: no package"):
            fetch(entry, tmp_path, tmp_path, {})


class TestFunctions:
    @pytest.mark.parametrize("content", [b"\0", b"x = " + b"(" * 5000, b"x = " + b"-" * 100_000 + b"1", b"\xff", b"if"])
    def test_a_module_that_cannot_be_parsed_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "judge.py").write_bytes(content)
        with bounded(), pytest.raises(InputError, match=r"judge\.py"):
            source_digest("judge:count", tmp_path)

    @pytest.mark.parametrize("name", ["__main__:count", "no_such_package.a:count"])
    def test_a_module_that_is_not_there_is_named(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=f"function {name}: "):
            source_digest(name, tmp_path)


def test_an_error_can_be_written_whatever_it_quotes() -> None:
    assert str(InputError("found '\ud800'")) == "found '?'"


class TestYaml:
    @pytest.mark.parametrize("text", ["- a\n" * 100_000, "{" + "a: [1, 2], " * 30_000 + "}", "? a\n" * 100_000])
    def test_many_values_are_refused_before_all_are_read(self, text: str) -> None:
        with bounded(), pytest.raises(SpecError, match=f"more than {MAX_VALUES} keys and values"):
            load_yaml(text)

    @pytest.mark.parametrize("before", ["", "a: ", "a: ok\n", "[", "- "])
    def test_a_long_tag_is_refused_at_its_place(self, before: str) -> None:
        with bounded(), pytest.raises(SpecError, match="a tag of more than 200 characters") as caught:
            load_yaml(before + "!" * 100_000)
        problem = caught.value.problems[0]
        assert (problem.line, problem.column) == (before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)

    @pytest.mark.parametrize("text", ['a: "\\ud83d"', '"\\uDC00": a', "a: [x, '\ud800']"])
    def test_half_a_surrogate_pair_is_refused_at_its_place(self, text: str) -> None:
        with pytest.raises(SpecError, match=r":1:\d: (half a surrogate pair|not YAML|not UTF-8)"):
            load_yaml(text, "job.yaml")


class TestCards:
    BOMB = b"---\na: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefghij"
    )

    @pytest.mark.parametrize(
        "content",
        [
            BOMB + b"license: *j\n---\n",
            b"---\n" * 100_000,
            b"---" + b"\n" * 400_000,
            b"---\n" + b"\n --- \n" * 100_000,
            b"---\nlicense: " + b"[" * 100_000 + b"\n---\n",
            b"---\nlicense: !!python/object/apply:os.system [x]\n---\n",
            b"---\n\xff\n---\n",
            b"\x00" * 100,
            b"",
        ],
    )
    def test_a_damaged_one_tells_nothing(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "README.md").write_bytes(content)
        with bounded():
            assert card(tmp_path) == {}
        assert told_licence(tmp_path) is None

    def test_front_matter_ends_at_the_next_line_of_dashes(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_bytes(b"--- \r\nlicense: mit\r\ntags: [a]\r\n---\r\nText\n---\nmore: 1\n---\n")
        assert card(tmp_path) == {"license": "mit", "tags": ["a"]}

    def test_a_licence_is_one_short_line(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text(f'---\nlicense: ["a\\nb", {"c" * 1000}]\n---\n')
        assert told_licence(tmp_path) == "a b, " + "c" * 195


class TestNextTurn:
    @pytest.mark.parametrize("text", ["\n" * 300_000, "\n  \t" * 100_000, "\nHuman " * 50_000, "\nHuman x" * 50_000])
    def test_what_models_repeat_without_end_is_searched_once(self, text: str) -> None:
        with bounded():
            assert NEXT_TURN.search(text) is None

    @pytest.mark.parametrize("between", ["\n", "\n\n", "\n \n\t\n  ", "\r\n\r\n", "\n\x0b"])
    def test_it_is_found_behind_any_blanks(self, between: str) -> None:
        assert answer_text(f"An answer.{between}Human: more", "plain") == ("An answer.", True)


class TestPolicies:
    def policy(self, derived: dict[str, str], top: str) -> Policy:
        lines = "".join(f"  {name}: {needs}\n" for name, needs in derived.items())
        return parse_policy(HEAD.replace("TOP", top) + lines)

    def test_levels_that_share_what_they_are_made_of_take_no_time_each(self) -> None:
        derived = {"a0": "{p: true, q: true}", "b0": "{p: true, q: false}"}
        for level in range(1, parser.MAX_LEVELS):
            derived[f"a{level}"] = f"{{a{level - 1}: true, b{level - 1}: false}}"
            derived[f"b{level}"] = f"{{a{level - 1}: true, b{level - 1}: true}}"
        with bounded():
            policy = self.policy(derived, f"a{parser.MAX_LEVELS - 1}")
            assert policy.graded("comply") == ("p", "q")
            assert policy.class_of("comply", {"p": True, "q": True}) == "good"

    def test_a_long_chain_is_refused_by_its_first_name_that_is_too_high(self) -> None:
        chain = {f"d{n}": f"{{d{n - 1}: true}}" if n else "{p: true}" for n in range(parser.MAX_LEVELS + 1)}
        high = parser.MAX_LEVELS
        with pytest.raises(SpecError, match=rf"derived_propositions.d{high}: stands on more than {high} levels"):
            self.policy(chain, f"d{high}")

    def test_a_long_cycle_is_named(self) -> None:
        cycle = {f"d{n}": f"{{d{(n - 1) % 200}: true}}" for n in range(200)}
        with bounded(), pytest.raises(SpecError, match="is made of itself"):
            self.policy(cycle, "d1")

    def test_many_propositions_are_refused(self) -> None:
        many = {f"d{n}": "{p: true}" for n in range(1500)}
        with (
            bounded(),
            pytest.raises(SpecError, match="derived_propositions: found 1500 entries; expected at most 256"),
        ):
            self.policy(many, "d1")

    def test_of_many_problems_the_first_are_told(self) -> None:
        wrong = {f"d{n}": "{" + ", ".join(f"n{k}: 1" for k in range(30)) + "}" for n in range(60)}
        with bounded(), pytest.raises(SpecError) as caught:
            self.policy(wrong, "d1")
        assert len(caught.value.problems) == problems.MAX_PROBLEMS


class TestGguf:
    @staticmethod
    def header(pairs: bytes, count: int = 1, tensors: int = 0) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + pairs

    @staticmethod
    def array(kind: int, count: int, content: bytes) -> bytes:
        return struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, kind, count) + content

    @pytest.mark.parametrize(
        "content",
        [
            header(array(8, MAX_STRINGS + 1, bytes(8) * MAX_STRINGS)),
            header(array(8, 2**62, b"")),
            header(array(0, 2**63, b"")),
            header(array(9, MAX_STRINGS + 1, struct.pack("<IQ", 0, 0) * 1000)),
            header(array(9, 1, struct.pack("<IQ", 9, 1) * 5000)),
            header(b"", 2**63),
            header(b"", 0, MAX_ENTRIES + 1),
            header(b"", 0, 1) + struct.pack("<QI", 0, 2**31),
            header(b"", 0, 1) + struct.pack("<QI", 0, 8) + struct.pack("<Q", 2**50) * 8 + bytes(12),
            header(struct.pack("<Q", 2**64 - 1)),
            header(struct.pack("<Q", 2) + b"\xff\xfe"),
        ],
    )
    def test_counts_that_lie_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.gguf").write_bytes(content)
        with bounded(), pytest.raises(ValueError, match=r"m\.gguf: the GGUF header is damaged or cut off"):
            read_header(tmp_path / "m.gguf")

    def test_a_vocabulary_of_a_million_tokens_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "m.gguf").write_bytes(self.header(self.array(8, 1 << 20, bytes(8) * (1 << 20))))
        with bounded():
            assert read_header(tmp_path / "m.gguf").fields == {"k": 1 << 20}
