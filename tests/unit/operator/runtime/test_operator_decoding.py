"""JSON of any depth is read and written; what is too deep loses its depths alone."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.runtime.decoding import DEEPEST, decode, encode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def nested(depth: int) -> bytes:
    """As text: no reader of Python's builds it."""
    return b'{"a":' * depth + b"1" + b"}" * depth


def depth_of(value: Any) -> int:
    depth = 0
    while isinstance(value, dict):
        depth, value = depth + 1, value.get("a")
    return depth


@given(VALUES)
def test_what_is_shallow_is_read_as_it_is(value: Any) -> None:
    assert decode(json.dumps(value).encode()) == value
    assert orjson.loads(encode(value)) == value


@given(VALUES)
def test_what_stands_beside_something_too_deep_is_read_as_it_is(value: Any) -> None:
    text = json.dumps({"before": value, "text": '{"[\\', "after": value}).encode()
    assert decode(text[:-1] + b', "deep": ' + nested(1100) + b"}") == {
        "before": value,
        "text": '{"[\\',
        "after": value,
        "deep": orjson.loads(nested(DEEPEST - 2).replace(b"1", b"{}")),
    }


@pytest.mark.parametrize("depth", [100, 260, 1000, 1100, 9999])
def test_any_depth_that_an_api_server_stores_is_read_and_written(depth: int) -> None:
    value = decode(nested(depth))
    assert depth_of(value) == (depth if depth <= 1024 else DEEPEST)
    assert depth_of(orjson.loads(encode({"a": value}))) == (depth + 1 if depth < 253 else DEEPEST + 1)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": }', b'{"a": "\xff"}', nested(1100)[:-1], b"}" * 2000, b"[" * 2000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        decode(text)
