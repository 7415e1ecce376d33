"""YAML 1.2 to plain values, with line and column of every one of them.

Stricter than YAML on purpose: what could be read in two ways is refused here, so that the laptop and the API server
see the same job. The parser is ruamel.yaml's; only its events are used, never a constructor of Python objects.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.scanner import Scanner

from rlhf_api.errors import Loc, SpecError, SpecProblem, format_path
from rlhf_api.scalars import RENDER, UNRENDERED, Ambiguous, resolve

MAX_BYTES = 1 << 19
"""Larger files are no job: they would be read for seconds, and etcd takes no object above 1.5 MiB."""
MAX_DEPTH = 48
"""Nesting of lists and mappings, aliases expanded."""
MAX_VALUES = 10_000
"""Keys and values of a file, and values once aliases are expanded: a bomb ends here, after half a second's reading."""

_LONG_TAG = re.compile(r"(?:^|[\s\[{,])!\S{200}")
"""The parser's time for a tag grows with the square of its length."""
_HALF = re.compile("[\ud800-\udfff]")
"""What escapes (`\\ud800`) can write and UTF-8 cannot."""

Position = tuple[int, int]
"""Line and column, both from 1."""


@dataclass
class _Node:
    at: Position
    text: str | None = None
    plain: bool = False
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None


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
        root = _Composer(source).compose(_parser().parse(text))
    except _TooDeep as error:
        mark = error.problem_mark
        raise SpecError([SpecProblem("", str(error.problem), None, mark.line + 1, mark.column + 1)], source) from error
    except (MarkedYAMLError, ReaderError) as error:
        raise SpecError([_syntax(error, text)], source) from error
    except YAMLError as error:
        raise SpecError([SpecProblem("", f"not YAML: {error}")], source) from error
    document = Document(None, source)
    document.value = _Builder(document).build(root, (), 0)
    return document


class _TooDeep(MarkedYAMLError):
    """Lists and mappings in brackets are nested too deep."""


class _Scanner(Scanner):
    """Looks no further where brackets are nested too deep: it reads a kilobyte ahead, and checks all open ones for each token."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        if len(self.flow_context) >= MAX_DEPTH:
            raise _TooDeep(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=self.reader.get_mark())
        super().fetch_flow_collection_start(TokenClass, to_push)


def _parser() -> YAML:
    parser = YAML(typ="safe", pure=True)
    parser.Scanner = _Scanner
    return parser


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


def _position(event: Event) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


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


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    node: _Node
    anchor: str | None
    key: _Node | None = None
    """Of a mapping: the key whose value has not come yet."""

    def add(self, node: _Node) -> None:
        if self.node.items is not None:
            self.node.items.append(node)
        elif self.key is None:
            self.key = node
        else:
            assert self.node.pairs is not None  # a list or a mapping
            self.node.pairs.append((self.key, node))
            self.key = None


class _Composer:
    """Turns events into the node tree of the one document."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.root: _Node | None = None
        self.anchors: dict[str, _Node] = {}
        self.open: list[_Open] = []
        self.count = 0
        """Of keys and values, aliases counted once."""

    def compose(self, events: Iterator[Event]) -> _Node:
        for event in events:
            if isinstance(event, DocumentStartEvent):
                self._start(event)
            elif isinstance(event, CollectionEndEvent):
                self._end()
            elif isinstance(event, AliasEvent):
                if event.anchor not in self.anchors:
                    raise self._stop(f"*{event.anchor} refers to no anchor before it", event)
                self._add(self.anchors[event.anchor])
            elif isinstance(event, NodeEvent):
                self._node(event)
        if self.root is None or (self.root.plain and not self.root.text):
            raise SpecError([SpecProblem("", "the file is empty; expected an RLHFJob", None, 1, 1)], self.source)
        return self.root

    def _start(self, event: DocumentStartEvent) -> None:
        if self.root is not None:
            hint = "put each job in its own file"
            raise self._stop("a second document begins here; a job is one document", event, hint)
        if event.version or event.tags:
            hint = "leave it out: the file is read as YAML 1.2"
            raise self._stop("a % directive stands before the document", event, hint)

    def _node(self, event: NodeEvent) -> None:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self._stop(f"more than {MAX_VALUES} keys and values", event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._stop(
                f"the tag {str(tag)[:60]} is not allowed", event, "leave it out; quote the value if it is text"
            )
        if isinstance(event, ScalarEvent) and _HALF.search(event.value):
            raise self._stop("half a surrogate pair, which no text holds", event, "write the character itself")
        node = _Node(_position(event))
        self._add(node)
        if isinstance(event, ScalarEvent):
            node.text, node.plain = event.value, event.style in (None, "")
            if event.anchor is not None:
                self.anchors[event.anchor] = node
            return
        if len(self.open) >= MAX_DEPTH:
            raise self._stop(f"nested more than {MAX_DEPTH} deep", event)
        if isinstance(event, SequenceStartEvent):
            node.items = []
        else:
            node.pairs = []
        self.open.append(_Open(node, event.anchor))

    def _end(self) -> None:
        closed = self.open.pop()
        if closed.anchor is not None:
            self.anchors[closed.anchor] = closed.node  # only now: an alias inside would never end

    def _add(self, node: _Node) -> None:
        if self.open:
            self.open[-1].add(node)
        else:
            self.root = node

    def _stop(self, message: str, event: Event, hint: str | None = None) -> SpecError:
        return SpecError([SpecProblem("", message, hint, *_position(event))], self.source)


class _Builder:
    """Turns nodes into values, writing positions and problems into the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def build(self, node: _Node, loc: Loc, depth: int) -> Any:
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

    def _scalar(self, node: _Node, loc: Loc) -> Any:
        text = node.text or ""
        value = resolve(text) if node.plain else text
        if isinstance(value, Ambiguous):
            self._problem(loc, node.at, value.message, value.hint)
            return text
        return value

    def _mapping(self, pairs: list[tuple[_Node, _Node]], loc: Loc, depth: int) -> dict[str, Any]:
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

    def _key(self, node: _Node, loc: Loc) -> str | None:
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
