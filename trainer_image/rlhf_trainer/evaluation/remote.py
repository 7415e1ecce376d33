"""Questions to a judge behind an OpenAI-compatible URL: asked once each, however often the stage is started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson

from rlhf_api.digest import digest_of
from rlhf_api.stages.judges import JudgeUrl
from rlhf_api.store import write_atomically
from rlhf_trainer.exits import InputError, StageError

TRIES = 8
"""Of a request, before the stage fails; the job's restarts go on from there."""
LONGEST_WAIT = 60.0
"""Seconds between two tries."""
TIMEOUT = 120.0
"""Seconds until a request counts as lost."""
MOST_BYTES = 1 << 20
"""Of a response."""
NEW_TOKENS = 16
"""Of a reply: what is asked for is one letter or digit."""
SHOWN = 200
"""Characters of a refusal that are shown."""


@dataclass(frozen=True)
class Usage:
    """What was asked and read; tokens as the server counts them, 0 where it does not."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, more: Usage) -> Usage:
        return Usage(
            self.requests + more.requests,
            self.prompt_tokens + more.prompt_tokens,
            self.completion_tokens + more.completion_tokens,
        )


class Unanswered(StageError):
    """The judge's server does not answer now: trying again may help."""

    reason = "JudgeUnreachable"


@dataclass
class Remote:
    """One judge; used by one process.

    Args:
        where: Of the spec.
        cache: Folder in which each reply is kept under the digest of its request.
        clock: Seconds that only rise.
        sleep: Waits for seconds.
    """

    where: JudgeUrl
    cache: Path
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    usage: Usage = field(default_factory=Usage)
    """Of all replies since it was last set to nothing, whether they were asked for now or kept."""
    _next: float = 0.0

    def __post_init__(self) -> None:
        headers = {}
        if self.where.token_key is not None:
            token = os.environ.get(self.where.token_key, "")
            if not token:
                raise InputError(
                    f"judges: url.tokenKey: the environment variable {self.where.token_key} is not set; expected the "
                    "server's token (on a cluster a key of the Secret that spec.credentials names)"
                )
            headers["Authorization"] = f"Bearer {token}"
        proxies = urlsplit(self.where.base).scheme == "https"  # loopback is never another machine's
        self._client = httpx2.Client(headers=headers, timeout=TIMEOUT, follow_redirects=False, trust_env=proxies)

    def reply(self, text: str) -> str:
        """What the judge says to a question.

        Raises:
            InputError: the server refuses the request.
            Unanswered: it does not answer.
        """
        request = {
            "model": self.where.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
        }
        path = self.cache / f"{digest_of({'base': self.where.base, **request})}.json"
        if path.exists():
            kept_reply = orjson.loads(path.read_bytes())
        else:
            kept_reply = parsed(self._ask(orjson.dumps(request)))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, orjson.dumps(kept_reply))
        self.usage += Usage(1, kept_reply["prompt_tokens"], kept_reply["completion_tokens"])
        return str(kept_reply["text"])

    def _ask(self, body: bytes) -> bytes:
        why = ""
        for attempt in range(TRIES):
            self._wait_turn()
            try:
                status, retry_after, content = self._post(body)
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                why, pause = type(error).__name__, 2.0**attempt
            else:
                if status == httpx2.codes.OK:
                    return content
                why, pause = f"status {status}", max(2.0**attempt, retry_after)
                if status not in (408, 429) and status < 500:
                    words = content[:SHOWN].decode(errors="replace")
                    raise InputError(f"judges: {self.where.base}: found {why} ({words!r}); expected an answer")
            if attempt + 1 < TRIES:
                self.sleep(min(LONGEST_WAIT, pause))
        raise Unanswered(f"judges: {self.where.base} did not answer in {TRIES} tries; the last ended with {why}")

    def _post(self, body: bytes) -> tuple[int, float, bytes]:
        """Status, seconds after which the server wants to be asked again, and the content as far as it is bounded."""
        address = f"{self.where.base.rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json"}
        with self._client.stream("POST", address, content=body, headers=headers) as response:
            content = b""
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MOST_BYTES:
                    raise InputError(f"judges: {self.where.base}: found a response above {MOST_BYTES} bytes")
            after = response.headers.get("retry-after", "")
            return response.status_code, float(after) if after.isdecimal() else 0.0, content

    def _wait_turn(self) -> None:
        """Keep below the requests a minute, counted from start to start."""
        now = self.clock()
        if now < self._next:
            self.sleep(self._next - now)
        self._next = max(now, self._next) + 60 / self.where.max_requests_per_minute


def parsed(content: bytes) -> dict[str, Any]:
    """`{text, prompt_tokens, completion_tokens}` of a chat completion.

    Raises:
        InputError: it is none.
    """
    try:
        document = orjson.loads(content)
        text = document["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        begins = content[:SHOWN].decode(errors="replace")
        raise InputError(f"judges: found {begins!r}; expected a chat completion with choices[0].message") from error
    usage = document.get("usage")
    counts = {
        name: count if isinstance(count := (usage or {}).get(name), int) and count >= 0 else 0
        for name in ("prompt_tokens", "completion_tokens")
        if isinstance(usage, dict) or usage is None
    }
    return {"prompt_tokens": 0, "completion_tokens": 0, **counts, "text": text if isinstance(text, str) else ""}
