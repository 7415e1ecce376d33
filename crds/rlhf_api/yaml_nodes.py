"""The nodes of one YAML document, with the place of each: what the parser's events make, within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.scanner import Scanner

from rlhf_api.errors import SpecError, SpecProblem

MAX_DEPTH = 48
"""Nesting of lists and mappings, aliases expanded."""
MAX_VALUES = 10_000
"""Keys and values of a file, and values once aliases are expanded: a bomb ends here, after half a second's reading."""

_HALF = re.compile("[\ud800-\udfff]")
"""What escapes (`\\ud800`) can write and UTF-8 cannot."""

Position = tuple[int, int]
"""Line and column, both from 1."""


@dataclass
class Node:
    """A scalar (`text`), a list (`items`) or a mapping (`pairs`), and where it begins."""

    at: Position
    text: str | None = None
    plain: bool = False
    items: list[Node] | None = None
    pairs: list[tuple[Node, Node]] | None = None


class TooDeep(MarkedYAMLError):
    """Lists and mappings in brackets are nested too deep."""


class _Scanner(Scanner):
    """Looks no further where brackets are nested too deep: it reads a kilobyte ahead, and checks all open ones for each token."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        if len(self.flow_context) >= MAX_DEPTH:
            raise TooDeep(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=self.reader.get_mark())
        super().fetch_flow_collection_start(TokenClass, to_push)


def make_parser() -> YAML:
    """A parser of YAML 1.2 that gives events and bounds nesting."""
    parser = YAML(typ="safe", pure=True)
    parser.Scanner = _Scanner
    return parser


def _position(event: Event) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    node: Node
    anchor: str | None
    key: Node | None = None
    """Of a mapping: the key whose value has not come yet."""

    def add(self, node: Node) -> None:
        if self.node.items is not None:
            self.node.items.append(node)
        elif self.key is None:
            self.key = node
        else:
            assert self.node.pairs is not None  # a list or a mapping
            self.node.pairs.append((self.key, node))
            self.key = None


class Composer:
    """Turns events into the node tree of the one document."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.root: Node | None = None
        self.anchors: dict[str, Node] = {}
        self.open: list[_Open] = []
        self.count = 0
        """Of keys and values, aliases counted once."""

    def compose(self, events: Iterator[Event]) -> Node:
        """The root node.

        Raises:
            SpecError: empty, several documents, directives, tags, too many values or levels.
        """
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
        node = Node(_position(event))
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

    def _add(self, node: Node) -> None:
        if self.open:
            self.open[-1].add(node)
        else:
            self.root = node

    def _stop(self, message: str, event: Event, hint: str | None = None) -> SpecError:
        return SpecError([SpecProblem("", message, hint, *_position(event))], self.source)
