"""What the API server answers, decoded: objects, pages of a list, events of a watch."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from rlhf_operator.runtime import errors
from rlhf_operator.runtime.decoding import decode
from rlhf_operator.runtime.errors import ApiError
from rlhf_operator.runtime.kinds import Object, version_of
from rlhf_operator.runtime.transport import Response


@dataclass(frozen=True)
class Page:
    """A part of a list."""

    items: list[Object]
    version: str
    """The list's resourceVersion: a watch from it misses nothing."""


@dataclass(frozen=True)
class WatchEvent:
    """What a watch tells."""

    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK (of which only the resourceVersion says anything)."""
    object: Object


def decoded_object(response: Response) -> Object:
    """The object in an answer.

    Raises:
        ApiError: there is none.
    """
    try:
        decoded = decode(response.content)
    except orjson.JSONDecodeError as error:
        text = response.content[:200].decode(errors="replace")
        raise ApiError(response.status, "NoJSON", f"found {text!r}; expected JSON") from error
    if not isinstance(decoded, dict):
        raise ApiError(response.status, "NoObject", f"found a {type(decoded).__name__}; expected an object")
    return decoded


def watch_event(line: bytes) -> WatchEvent:
    """The event in a line of a watch.

    Raises:
        ApiError: there is none, or it tells of an error.
    """
    try:
        raw = decode(line)
        event = WatchEvent(raw["type"], raw["object"])
        if event.type != "ERROR":
            version_of(event.object)
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ApiError(200, "NoEvent", f"found {line[:200]!r}; expected an event of a watch") from error
    if event.type == "ERROR":
        raise errors.of_status(event.object)
    return event
