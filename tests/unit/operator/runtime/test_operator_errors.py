"""What an answer of the API server is taken for."""

from __future__ import annotations

import orjson
import pytest

from rlhf_operator.runtime.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    of_response,
    of_status,
)


def status(code: int, reason: str, **details: object) -> bytes:
    return orjson.dumps({"kind": "Status", "code": code, "reason": reason, "message": "why", "details": details})


@pytest.mark.parametrize(
    ("code", "reason", "cls"),
    [
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (410, "Gone", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ApiError),
        (503, "ServiceUnavailable", ApiError),
    ],
)
def test_status_and_reason_say_which_error_it_is(code: int, reason: str, cls: type[ApiError]) -> None:
    error = of_response(code, {}, status(code, reason))
    assert type(error) is cls
    assert (error.status, error.reason, error.message) == (code, reason, "why")


def test_a_version_that_the_server_has_not_come_to_is_listed_anew_like_one_it_forgot() -> None:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    assert type(of_response(504, {}, status(504, "Timeout", causes=causes))) is Gone


def test_a_patch_that_names_anothers_uid_is_a_conflict() -> None:
    causes = [{"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "field is immutable"}]
    assert type(of_response(422, {}, status(422, "Invalid", causes=causes))) is Conflict


def test_an_error_in_the_middle_of_a_watch_carries_its_own_code() -> None:
    assert type(of_status({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})) is Gone


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("0", 0.0), ("-1", 0.0), ("inf", None), ("soon", None)])
def test_retry_after_is_read_in_seconds(header: str, seconds: float | None) -> None:
    assert of_response(503, {"Retry-After": header}, status(503, "ServiceUnavailable")).retry_after == seconds


def test_load_that_is_shed_says_in_its_details_when_to_come_again() -> None:
    assert of_response(429, {}, status(429, "TooManyRequests", retryAfterSeconds=2)).retry_after == 2
    assert of_response(500, {}, status(500, "InternalError", retryAfterSeconds=2)).retry_after is None


def test_what_is_not_the_api_servers_answer_is_quoted() -> None:
    error = of_response(502, {}, b"<html>Bad Gateway</html>")
    assert str(error) == "502 NoStatus: <html>Bad Gateway</html>"
    assert of_response(502, {}, b"").message == "an empty answer"
