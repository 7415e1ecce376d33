"""The grammar of `inputs[].source`: what an input may be and how it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from rlhf_api.base import Cel
from rlhf_api.error_messages import nearest
from rlhf_api.errors import Finding
from rlhf_api.scalars import RENDER, UNRENDERED

Kind = Literal["hub-model", "hub-data", "claim", "package", "url", "path"]

FSSPEC_SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "oss", "hdfs", "https")
"""Remote file systems that `prepare` may read through fsspec."""
SCHEMES = ("hf", "pvc", "package", *FSSPEC_SCHEMES)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PLACEHOLDER = re.compile(r"<[^<>]+>|\$\{[^{}]*\}|(?i:^(?:todo|fixme|tbd|change[-_]?me|replace[-_]?me|x{3,}|\.{3})$)")
"""What stands in examples for a value of the reader's own."""
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Source:
    """A source, taken apart."""

    kind: Kind
    """What it is."""
    location: str
    """Repository of a hub, name of a claim, module of a package, the whole URL or path."""
    path: str = ""
    """Path inside a claim or package."""
    revision: str = ""
    """Branch, tag or commit of a hub's repository."""


def parse_source(text: str) -> Source:
    """Take a source apart.

    Raises:
        ValueError: it is none; the message says what was found and expected.
    """
    if text != text.strip() or any(ord(character) < 32 for character in text):
        raise ValueError("found blanks or control characters around or in it; expected none")
    if UNRENDERED.search(text):
        raise ValueError(f"found {text}; expected a path or a URL ({RENDER})")
    placeholder = _PLACEHOLDER.search(text)
    if placeholder is not None:
        raise ValueError(f"found {text}; expected a path or a URL (write your own in place of {placeholder[0]})")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return _path(text)
    scheme, rest = match[1], match[2]
    if scheme == "hf":
        return _hub(text, rest)
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        if not _CLAIM.fullmatch(claim) or not _inner(path):
            raise ValueError(f"found {text}; expected pvc://claim/path, with no .. in the path")
        return Source("claim", claim, path)
    if scheme == "package":
        module, _, path = rest.partition("/")
        if not _MODULE.fullmatch(module) or not _inner(path):
            raise ValueError(f"found {text}; expected package://module/file, with no .. in the path")
        return Source("package", module, path)
    if scheme in FSSPEC_SCHEMES:
        return _url(text)
    raise ValueError(_unknown_scheme(scheme))


def source_findings(text: str) -> Iterator[Finding]:
    """What is wrong with a source, at the field that holds it."""
    try:
        parse_source(text)
    except ValueError as error:
        yield Finding(("source",), str(error))


def source_rules() -> tuple[Cel, ...]:
    """The grammar as far as the API server checks it."""
    schemes, remote = "|".join(SCHEMES), "|".join(FSSPEC_SCHEMES)
    hub = "hf://(datasets/)?[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?@[A-Za-z0-9][A-Za-z0-9._/-]*"
    return (
        Cel(
            f"!self.source.contains('://') || self.source.matches('^({schemes})://')",
            f"expected {schemes}, or a path",
            ".source",
        ),
        Cel(
            f"!self.source.startsWith('hf://') || self.source.matches('^{hub}$')",
            "expected hf://org/model@revision or hf://datasets/org/name@revision",
            ".source",
        ),
        Cel(
            "!self.source.startsWith('pvc://') || self.source.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[^/]')",
            "expected pvc://claim/path",
            ".source",
        ),
        Cel(
            "!self.source.startsWith('package://') || self.source.matches('^package://[A-Za-z_][A-Za-z0-9_.]*/[^/]')",
            "expected package://module/file",
            ".source",
        ),
        Cel(
            "!self.source.matches('^(pvc|package)://.*/[.][.](/|$)')",
            "expected a path without ..",
            ".source",
        ),
        Cel(
            f"!self.source.matches('^({remote})://') || self.source.matches('^[a-z0-9]+://[^/]+/+[^/]')",
            "expected scheme://bucket-or-host/path",
            ".source",
        ),
        Cel(
            "!self.source.matches('^[^/]*://[^/]*@') || self.source.matches('^(hf|abfss?)://')",
            "a user or password in a URL: credentials belong in spec.credentials",
            ".source",
        ),
        Cel(
            "!self.source.matches('^(~|[ \\\\t\\\\r\\\\n])|[ \\\\t\\\\r\\\\n]$|^[A-Za-z][A-Za-z0-9+.-]+:([^/]|/[^/]|/?$)')",
            "expected a scheme, or a path without blanks around it, a ~ or a scheme's colon before it",
            ".source",
        ),
        Cel(
            "!has(self.split) || self.source.startsWith('hf://datasets/')",
            "only hub data sets have splits",
            ".split",
        ),
    )


def _inner(path: str) -> bool:
    """Whether a path stays below where it begins."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def _path(text: str) -> Source:
    if text.startswith("~"):
        raise ValueError(f"found {text}; expected an absolute path, or one relative to the job's file")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        scheme = text.partition(":")[0]
        raise ValueError(f"found {text}; expected {scheme}://... , or a path without a colon")
    return Source("path", text)


def _hub(text: str, rest: str) -> Source:
    kind: Kind = "hub-data" if rest.startswith("datasets/") else "hub-model"
    repository, at, revision = rest.removeprefix("datasets/").partition("@")
    shape = "hf://datasets/org/name@revision" if kind == "hub-data" else "hf://org/model@revision"
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"found {text}; expected {shape}")
    if not at:
        raise ValueError(f"found {text} without a revision; expected {shape}, such as @main or a commit")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ValueError(f"found the revision {revision!r}; expected a branch, a tag or a commit")
    return Source(kind, repository, revision=revision)


def _url(text: str) -> Source:
    parts = urlsplit(text)
    if "@" in parts.netloc and parts.scheme not in ("abfs", "abfss"):
        raise ValueError("found a user or password in the URL; credentials belong in spec.credentials")
    if not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"found {text}; expected {parts.scheme}://bucket-or-host/path")
    return Source("url", text)


def _unknown_scheme(scheme: str) -> str:
    if scheme == "file":
        return "found file://; expected the path alone"
    if scheme == "http":
        return "found http://, which anyone on the way can change; expected https://"
    close = nearest(scheme, SCHEMES)
    meant = f"; did you mean {close}://?" if close else ""
    return f"found {scheme}://; expected one of {', '.join(f'{name}://' for name in SCHEMES)}, or a path{meant}"
