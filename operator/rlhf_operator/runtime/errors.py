"""How a request to the API server fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from rlhf_operator.runtime.kinds import Object


class RequestFailed(Exception):
    """A request did not succeed."""


class Unreachable(RequestFailed):
    """No whole answer came: refused, cut, too late. A write may have been done all the same."""


class Silent(Unreachable):
    """A watch of which nothing came for so long that it may be dead; or nothing happened."""


class TooLong(RequestFailed):
    """An answer that has more bytes than it may have; it was not read to its end."""


class Fenced(RequestFailed):
    """A write that was not sent: this process does not lead any more."""


class ApiError(RequestFailed):
    """The API server said no.

    Args:
        status: the HTTP status.
        reason: the machine's word for it (`Invalid`, `Forbidden`...).
        message: the server's sentence.
        retry_after: seconds after which it asks to be tried again, if it does.
        body: its answer, a Status.
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after: float | None = None, body: Object | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.body = body or {}


class AlreadyExists(ApiError):
    """409: there is an object of that name."""


class Conflict(ApiError):
    """409: the object is not what the precondition says."""


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Forbidden(ApiError):
    """403: no right, or beyond a quota, or refused by admission."""


class Invalid(ApiError):
    """422: the object is against its schema or rules."""


class Gone(ApiError):
    """410, or a resourceVersion that the server has not come to yet: list anew."""


class TooManyRequests(ApiError):
    """429: the server sheds load."""


_BY_STATUS: dict[int, type[ApiError]] = {
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}
_AHEAD = "ResourceVersionTooLarge"


def of_response(status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
    """The error that a response with a status of 400 or more is; one that is no Status (a proxy's) is quoted."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or body.get("kind") != "Status":
        text = content[:200].decode(errors="replace").strip()
        body = {"message": text or "an empty answer", "reason": "NoStatus"}
    return of_status(body, status, _seconds(headers.get("Retry-After")))


def of_status(body: Object, status: int | None = None, retry_after: float | None = None) -> ApiError:
    """The error that a Status is: of a response, or in the middle of a watch."""
    code = int(status if status is not None else body.get("code") or 500)
    reason = str(body.get("reason") or "Unknown")
    details: dict[str, Any] = body.get("details") or {}
    cls = _BY_STATUS.get(code, ApiError)
    if reason == "AlreadyExists":
        cls = AlreadyExists
    elif any(cause.get("reason") == _AHEAD for cause in details.get("causes") or ()):
        cls = Gone
    elif cls is Invalid and any(cause.get("field") == "metadata.uid" for cause in details.get("causes") or ()):
        cls = Conflict  # a patch that names the UID of another object of that name
    if retry_after is None and code == 429:
        retry_after = _seconds(details.get("retryAfterSeconds"))
    return cls(code, reason, str(body.get("message") or reason), retry_after, body)


def _seconds(text: str | int | None) -> float | None:
    """Retry-After in seconds; the form with a date is not the API server's and counts as none."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
