"""kubectl as a process: whoever uses a cluster has it, with the login that the cluster asks for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import complain

ANSWER_SECONDS = 30
"""A question that is not answered by then has failed; streams have no bound."""
LOGIN_SECONDS = 5
"""After which kubectl may be waiting for a login that it asks for on stderr."""
FIELD_MANAGER = "rlhf"
_AWAY = (
    "Unable to connect to the server",
    "The connection to the server",
    "(ServiceUnavailable)",
    "(InternalError)",
    "(Timeout)",
    "(TooManyRequests)",
    "etcdserver:",
    "i/o timeout",
    "context deadline exceeded",
    "unexpected EOF",
    "connection reset by peer",
)
"""Words of a cluster that does not answer now and may soon."""
_UNSERVED = (
    "the server doesn't have a resource type",
    "no matches for kind",
    "the server could not find the requested resource",
)
_LIBRARY = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d")
"""Begin of lines that kubectl's library logs, of the same thing that kubectl says last."""


class Refused(CommandError):
    """kubectl failed; the message has its words."""


class NotFound(Refused):
    """There is no such object."""


class Away(Refused):
    """The cluster does not answer now."""


class Unserved(Refused):
    """The cluster has no RLHFJobs; an API server that has just started has none for a moment."""


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace are meant; what is not given, kubeconfig says."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None
    program: str = "rlhf"
    """How the user called this command."""

    @property
    def flags(self) -> list[str]:
        """For kubectl."""
        options = {"--kubeconfig": self.kubeconfig, "--context": self.context, "--namespace": self.namespace}
        return [f"{flag}={value}" for flag, value in options.items() if value is not None]

    def within(self, namespace: str | None) -> Target:
        """The same cluster, in that namespace where none was given."""
        return replace(self, namespace=self.namespace or namespace)

    def command(self, *words: str) -> str:
        """A command that the user may type next, about the same place."""
        options = {"-n": self.namespace, "--context": self.context, "--kubeconfig": self.kubeconfig}
        flags = [f"{flag} {value}" for flag, value in options.items() if value is not None]
        return " ".join([self.program, *words, *flags])


class Kubectl:
    """Asks one cluster."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._program = _program()

    def command(self, *arguments: str) -> list[str]:
        """The whole command line."""
        return [self._program, *self.target.flags, *arguments]

    def run(self, *arguments: str, stdin: bytes | None = None, alone: bool = False) -> bytes:
        """What it prints.

        Args:
            arguments: a verb of kubectl's, and so on.
            stdin: what it reads.
            alone: whether Ctrl-C must not reach it: it makes or removes something.

        Raises:
            Refused: it failed.
        """
        command = self.command(*arguments, f"--request-timeout={ANSWER_SECONDS}s")
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=alone) as process:
            try:
                out, err = _communicated(process, stdin or b"")
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise refusal(err.decode(errors="replace"))
        return out

    def json(self, *arguments: str, stdin: bytes | None = None, alone: bool = False) -> Any:
        """The object that it prints; None: none, with --ignore-not-found.

        Raises:
            Refused: it failed, or printed something else.
        """
        output = self.run(*arguments, "--output=json", stdin=stdin, alone=alone)
        try:
            return json.loads(output) if output.strip() else None
        except (ValueError, RecursionError) as error:
            verb = " ".join(arguments[:2])
            raise Refused(f"kubectl {verb}: found output that cannot be read ({error}); expected JSON") from error

    def namespace(self) -> str:
        """The namespace that is meant."""
        if self.target.namespace is not None:
            return self.target.namespace
        return self.run("config", "view", "--minify", "--output=jsonpath={..namespace}").decode() or "default"


def refusal(stderr: str) -> Refused:
    """The error of this command for what kubectl wrote to stderr."""
    lines = stderr.strip().splitlines()
    text = (
        "\n".join(line for line in lines if not _LIBRARY.match(line))
        or stderr.strip()
        or "kubectl failed without a word"
    )
    if any(words in text for words in _UNSERVED):
        hint = "the operator is not installed there (helm install), or another --context is meant"
        return Unserved(f"this cluster has no RLHFJobs: {hint}", Exit.FAILED)
    if "(NotFound)" in text:
        return NotFound(text, Exit.INVALID)
    if any(words in text for words in _AWAY):
        return Away(text, Exit.FAILED)
    invalid = "is invalid:" in text or "(Invalid)" in text or "(BadRequest)" in text
    return Refused(text, Exit.INVALID if invalid else Exit.FAILED)


def _communicated(process: subprocess.Popen[bytes], stdin: bytes | None) -> tuple[bytes, bytes]:
    """What it says. Its words on stderr are shown while that takes long: a login may wait for the user."""
    shown = 0
    while True:
        try:
            return process.communicate(stdin, timeout=LOGIN_SECONDS)
        except subprocess.TimeoutExpired as waiting:
            stdin = None  # it has it
            words = waiting.stderr or b""
            if len(words) > shown:
                complain(words[shown:].decode(errors="replace").rstrip())
                shown = len(words)


def _program() -> str:
    path = shutil.which("kubectl")
    if path is None:
        raise CommandError(
            "kubectl is not on the PATH: commands about a cluster run it, with its contexts and login. "
            "Install it, or run the job on this machine: rlhf run"
        )
    return path
