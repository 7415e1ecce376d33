"""The YAML reader: YAML 1.2 values, where each stands, and what it refuses because readers disagree about it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_api.errors import SpecError
from rlhf_api.scalars import Ambiguous, resolve
from rlhf_api.yaml import MAX_BYTES, dump_yaml, load_yaml
from rlhf_api.yaml_nodes import MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("-.5", -0.5),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0x1F", 31),
        ("3.0", 3),
        ("1e3", 1000),
        ("9e17", 9 * 10**17),
        ("1e30", 1e30),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("hello", "hello"),
        ("nope", "nope"),
        ("1.2.3", "1.2.3"),
        ("4f2c9d1", "4f2c9d1"),
        ("16Gi", "16Gi"),
        ("8080:80", "8080:80"),
        ("1e", "1e"),
        ("-", "-"),
        (".", "."),
        ("v_1", "v_1"),
        ("1a_b", "1a_b"),
        ("_1", "_1"),
        ("gold:no_care", "gold:no_care"),
    ],
)
def test_a_plain_scalar_is_what_the_core_schema_says(text: str, value: object) -> None:
    scalar = resolve(text)
    assert scalar == value
    assert type(scalar) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF"),
        *("010", "-010", "+010", "00", "007", "08", "0o10", "0b11", "-0x1F", "0X1F", "0O7", "0B1"),
        *("1_000", "1_000.5", "-1_0", "0x_1F", "1_0e5", ".5_0", "1_", "+_7", "0b-0", "-_011", "0__xbb"),
        *("12:30:45", "1:30", "-1:30", "190:20:30.15"),
        *("2026-11-22", "2026-1-2", "2026-11-22T10:00:00Z", "2026-11-22 10:00:00"),
        *("<<", "=", ".inf", "-.inf", "+.Inf", ".nan", ".NaN", "1e400", "99999999999999999999", "0xFFFFFFFFFFFFFFFFF"),
    ],
)
def test_what_readers_of_yaml_disagree_about_is_refused(text: str) -> None:
    assert isinstance(resolve(text), Ambiguous)
    document = load_yaml(f"a: {text}\n")
    assert [(problem.path, problem.line, problem.column) for problem in document.problems] == [("a", 1, 4)]
    assert load_yaml(f"a: '{text}'\n").value == {"a": text}, "quoted, it is text to every reader"


def test_the_hint_for_a_truth_value_says_which_one_was_meant() -> None:
    problems = load_yaml("a: no\nb: ON\nc: off\n").problems
    assert [problem.hint for problem in problems] == [
        "write false, or quote it ('no') if the text is meant",
        "write true, or quote it ('ON') if the text is meant",
        "write false, or quote it ('off') if the text is meant",
    ]


def test_every_path_knows_where_its_key_and_its_value_stand() -> None:
    document = load_yaml("spec:\n  stages:\n  - name: sft\n    sft: {epochs: 3}\n  - name: ppo\n")
    assert document.position(("spec", "stages", 0, "sft", "epochs")) == (4, 19)
    assert document.position(("spec", "stages", 0, "sft", "epochs"), on_key=True) == (4, 11)
    assert document.position(("spec", "stages", 1)) == (5, 5)
    assert document.position(("spec", "stages", 1, "ppo", "kl")) == (5, 5), "what is not there: where it should be"
    assert document.position(("metadata",)) == (1, 1)


def test_positions_count_characters_not_bytes() -> None:
    document = load_yaml("{é: 'ü', b: no}")
    assert document.problems[0].column == 13


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "empty"),
        ("# only a comment\n", 1, 1, "empty"),
        ("---\n...\n", 1, 1, "empty"),
        ("a:\n\tb: 1\n", 2, 1, "not YAML"),
        ("a: [1, 2\n", 2, 1, "not YAML"),
        ("a: 'x\n", 2, 1, "not YAML"),
        ("a: b: c\n", 1, 5, "not YAML"),
        ("a: \x07\n", 1, 4, "is not allowed"),
        ("a: 1\n---\nb: 2\n", 2, 1, "second document"),
        ("a: !!python/object:os.system x\n", 1, 4, "tag"),
        ("a: !!int '3'\n", 1, 4, "tag"),
        ("%YAML 1.1\n---\na: 1\n", 2, 1, "directive"),
        ("a: *x\n", 1, 4, "no anchor"),
        ("a: &x [1, *x]\n", 1, 11, "no anchor"),
        ("[" * (MAX_DEPTH + 1), 1, MAX_DEPTH + 1, "deep"),
    ],
)
def test_what_is_no_single_plain_document_is_refused_at_its_place(
    text: str, line: int, column: int, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_yaml(text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (line, column)
    assert message in problem.message


def test_bytes_that_are_not_utf8_are_refused_at_their_place() -> None:
    with pytest.raises(SpecError, match=r"job.yaml:2:4: not UTF-8: byte 0xff at offset 8"):
        load_yaml(b"a: 1\nb: \xff\n", "job.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert load_yaml(b"\xef\xbb\xbfa: 1\n").value == {"a": 1}


def test_a_file_too_large_for_a_job_is_refused_unread() -> None:
    with pytest.raises(SpecError, match=f"at most {MAX_BYTES}"):
        load_yaml(b"#" * (MAX_BYTES + 1))


def test_a_duplicate_key_is_refused_where_it_stands_again() -> None:
    document = load_yaml("a: 1\nb: {c: 1, d: 2, c: 3}\na: 2\n")
    assert [(problem.path, problem.line, problem.column) for problem in document.problems] == [
        ("b.c", 2, 17),
        ("a", 3, 1),
    ]
    assert document.value == {"a": 1, "b": {"c": 1, "d": 2}}


@pytest.mark.parametrize("key", ["1", "true", "null", "1.5", "no", "~", "2026-11-22"])
def test_a_key_that_is_not_text_is_refused(key: str) -> None:
    document = load_yaml(f"{key}: 1\n")
    assert [(problem.line, problem.column) for problem in document.problems] == [(1, 1)]
    assert load_yaml(f"'{key}': 1\n").problems == []


def test_a_list_as_a_key_is_refused() -> None:
    assert load_yaml("? [1]\n: 2\n").problems[0].message.startswith("a list or mapping stands as a key")


def test_merge_keys_are_refused_for_yaml_1_2_has_none() -> None:
    document = load_yaml("a: &a {x: 1}\nb:\n  <<: *a\n")
    assert [(problem.path, problem.line, problem.column) for problem in document.problems] == [("b[<<]", 3, 3)]


def test_an_alias_stands_for_its_anchor() -> None:
    assert load_yaml("a: &a {x: [1]}\nb: *a\n").value == {"a": {"x": [1]}, "b": {"x": [1]}}


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SpecError, match="once aliases are written out"):
        load_yaml("\n".join(lines))


@settings(derandomize=True)
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = load_yaml(text)
    except SpecError as error:
        assert error.problems[0].message
    else:
        assert document.position(()) >= (1, 1)


@settings(derandomize=True)
@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        load_yaml(content)
    except SpecError as error:
        assert error.problems


@settings(derandomize=True)
@given(st.text("ab1_0.:-+ \n\t'\"[]{}#&*!|>%@`,?~=<ynofe", max_size=60))
def test_any_text_of_characters_that_mean_something_to_yaml_is_read_or_refused(text: str) -> None:
    try:
        load_yaml(text)
    except SpecError as error:
        assert error.problems[0].line is not None


@pytest.mark.parametrize(
    "text", ["no", "010", "1e-5", "", "~", "a\nb", "\x85", "a\u2028b", "\t", " a ", "'", '"', "#", "a: b", "- a"]
)
def test_text_is_dumped_so_that_it_reads_back_as_text(text: str) -> None:
    document = load_yaml(dump_yaml({"key": [text]}))
    assert document.value == {"key": [text]}
    assert document.problems == []


def test_a_dump_keeps_the_order_of_keys_and_makes_no_aliases() -> None:
    shared = [1]
    assert dump_yaml({"b": shared, "a": shared}) == "b:\n- 1\na:\n- 1\n"
