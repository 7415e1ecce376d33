"""YAML 1.2 to plain values, with line and column of every one of them.

Stricter than YAML on purpose: what could be read in two ways is refused here, so that the laptop and the API server
see the same job. The parser is ruamel.yaml's; only its events are used (`rlhf_api.yaml_nodes`), never a constructor of
Python objects.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from rlhf_api.errors import Loc, SpecError, SpecProblem, format_path
from rlhf_api.scalars import RENDER, UNRENDERED, Ambiguous, resolve
from rlhf_api.yaml_nodes import MAX_DEPTH, MAX_VALUES, Composer, Node, Position, TooDeep, make_parser

MAX_BYTES = 1 << 19
"""Larger files are no job: they would be read for seconds, and etcd takes no object above 1.5 MiB."""

_LONG_TAG = re.compile(r"(?:^|[\s\[{,])!\S{200}")
"""The parser's time for a tag grows with the square of its length."""


@dataclass
class Document:
    """A YAML document: its values, where they stand, and what is wrong with its YAML."""

    value: Any
    """dicts with string keys, lists, str, int, float, bool, None."""
    source: str | None = None
    """Name of the file, for messages."""
    problems: list[SpecProblem] = field(default_factory=list)
    """What YAML versions disagree about, duplicate keys; the values are still there, to be checked further."""
    keys: dict[Loc, Position] = field(default_factory=dict)
    """Where the key of each path stands."""
    values: dict[Loc, Position] = field(default_factory=dict)
    """Where the value of each path begins."""

    def position(self, loc: Loc, *, on_key: bool = False) -> Position:
        """Where a path stands; of one that is not there, where what should hold it stands."""
        places = (self.keys, self.values) if on_key else (self.values, self.keys)
        for positions in places:
            if loc in positions:
                return positions[loc]
        return self.position(loc[:-1], on_key=True) if loc else (1, 1)


def load_yaml(content: bytes | str, source: str | None = None) -> Document:
    """Read one YAML 1.2 document.

    Raises:
        SpecError: not UTF-8, too large, not YAML, empty, several documents, tags, a bomb. What leaves the values
            readable (duplicate keys, ambiguous scalars) is in `Document.problems` instead.
    """
    text = _decode(content, source)
    tag = _LONG_TAG.search(text)
    if tag is not None:
        start = tag.end() - 201
        line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
        message = "a tag of more than 200 characters"
        raise SpecError([SpecProblem("", message, "quote it, if it is text", line, column)], source)
    try:
        root = Composer(source).compose(make_parser().parse(text))
    except TooDeep as error:
        mark = error.problem_mark
        raise SpecError([SpecProblem("", str(error.problem), None, mark.line + 1, mark.column + 1)], source) from error
    except (MarkedYAMLError, ReaderError) as error:
        raise SpecError([_syntax(error, text)], source) from error
    except YAMLError as error:
        raise SpecError([SpecProblem("", f"not YAML: {error}")], source) from error
    document = Document(None, source)
    document.value = _Builder(document).build(root, (), 0)
    return document


def dump_yaml(value: Any) -> str:
    """A JSON value as YAML that every version of YAML reads back as the same value, keys in their order."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.width = 110
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # annotated as None there
    stream = io.StringIO()
    writer.dump(value, stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Quotes every text that some version of YAML would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # ruamel's signature
        return True


def _represent_text(representer: SafeRepresenter, text: str) -> ScalarNode:
    if not text.isprintable():
        style: str | None = '"'  # escapes what YAML would fold: line breaks, NEL among them
    else:
        style = None if resolve(text) == text else "'"
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _represent_text)


def _decode(content: bytes | str, source: str | None) -> str:
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(raw) > MAX_BYTES:
        message = f"found more than the at most {MAX_BYTES} bytes that are read"
        raise SpecError([SpecProblem("", message, "data belongs in files of its own, named as inputs")], source)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise SpecError([SpecProblem("", message, "save the file as UTF-8", line, column)], source) from error


def _syntax(error: MarkedYAMLError | ReaderError, text: str) -> SpecProblem:
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        character = chr(error.character) if isinstance(error.character, int) else error.character
        return SpecProblem("", f"not YAML: the character {character!r} is not allowed", None, line, column)
    what = " ".join(str(part) for part in (error.context, error.problem) if part)
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    hint = "indent with spaces" if "\\t" in what else None
    if any(UNRENDERED.search(written) for written in text.split("\n")[line - 1 : line]):
        hint = RENDER
    return SpecProblem("", f"not YAML: {what}", hint, line, column)


class _Builder:
    """Turns nodes into values, writing positions and problems into the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def build(self, node: Node, loc: Loc, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            message = f"more than {MAX_VALUES} values or {MAX_DEPTH} levels once aliases are written out"
            raise SpecError([SpecProblem(format_path(loc), message, None, *node.at)], self.document.source)
        self.document.values[loc] = node.at
        if node.items is not None:
            return [self.build(item, (*loc, index), depth + 1) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self._mapping(node.pairs, loc, depth)
        return self._scalar(node, loc)

    def _scalar(self, node: Node, loc: Loc) -> Any:
        text = node.text or ""
        value = resolve(text) if node.plain else text
        if isinstance(value, Ambiguous):
            self._problem(loc, node.at, value.message, value.hint)
            return text
        return value

    def _mapping(self, pairs: list[tuple[Node, Node]], loc: Loc, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in pairs:
            key = self._key(key_node, loc)
            if key is None:
                continue
            path = (*loc, key)
            if key in result:
                first = self.document.keys[path][0]
                self._problem(path, key_node.at, f"the key {key} is given twice, first in line {first}", "remove one")
                continue
            self.document.keys[path] = key_node.at
            if value_node.plain and not value_node.text:
                value_node.at = key_node.at  # an empty value has no place of its own
            result[key] = self.build(value_node, path, depth + 1)
        return result

    def _key(self, node: Node, loc: Loc) -> str | None:
        if node.text is None:
            self._problem(loc, node.at, "a list or mapping stands as a key; keys are text", RENDER)
            return None
        value = resolve(node.text) if node.plain else node.text
        if isinstance(value, Ambiguous):
            self._problem((*loc, node.text), node.at, f"as a key, {value.message}", f"quote it: '{node.text}'")
        elif not isinstance(value, str):
            shown = node.text or "nothing"
            self._problem(
                (*loc, node.text), node.at, f"found {shown} as a key; keys are text", f"quote it: '{node.text}'"
            )
        return node.text

    def _problem(self, loc: Loc, at: Position, message: str, hint: str | None) -> None:
        self.document.problems.append(SpecProblem(format_path(loc), message, hint, *at))
