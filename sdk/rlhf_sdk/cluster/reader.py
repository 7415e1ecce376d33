"""Reads a job's storage through a process beside it: in a pod, or for tests on this machine."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rlhf_sdk.cluster import remote
from rlhf_sdk.cluster.kubectl import Refused, refusal
from rlhf_sdk.cluster.pipes import Broken, Piped, piped
from rlhf_sdk.exits import CommandError

READ = "import sys; i = sys.stdin.buffer; exec(compile(i.read(int(i.readline())), 'reader', 'exec'))"
"""Reads the program from its input: a command line would be part of a URL, which proxies cut."""
SILENCE_SECONDS = 2.0
"""Of a log that is followed, after which is asked whether more can come."""
LAST_SECONDS = 60.0
"""For its last lines, once the other end was told to stop; after so long it is gone."""
TRIES = 5
"""Streams in a row that may bring nothing before it is given up."""


class Reader:
    """Files below one folder, somewhere else."""

    def __init__(self, command: Sequence[str], root: str) -> None:
        """Args:
        command: starts Python there.
        root: the folder.
        """
        self._command = [*command, "-I", "-S", "-c", READ]
        self._root = root

    def sizes(self, *folders: str) -> dict[str, int]:
        """Size of every file below those folders, by path."""
        with self._asked(verb="list", folders=folders) as process:
            found: dict[str, int] = json.loads(process.line())
        return found

    def lines(self, file: str, count: int | None = None) -> list[str]:
        """A text file's lines, or its last ones."""
        with self._asked(verb="tail", file=file, lines=count, follow=False) as process:
            text = process.exactly(int(process.line()))
        return text.decode(errors="replace").splitlines()

    def follow(self, file: str, count: int | None, write: Callable[[bytes], None], lasting: Callable[[], bool]) -> None:
        """Hand over a file, then what is appended to it.

        Args:
            file: its path.
            count: lines to begin with, counted from the end; None: all.
            write: takes what was read.
            lasting: asked every few seconds of silence whether more can come.
        """
        with self._asked(verb="tail", file=file, lines=count, follow=True) as process:
            write(process.exactly(int(process.line())))
            while (block := process.waited(SILENCE_SECONDS)) != b"":
                if block is not None:
                    write(block)
                elif not lasting():
                    break
            process.say(b"\n")
            while block := process.waited(LAST_SECONDS):
                write(block.removesuffix(remote.END))
                if block.endswith(remote.END):
                    return

    def fetch(self, sizes: Mapping[str, int], into: Path, tell: Callable[[int], None] = lambda _: None) -> None:
        """Copy files, by their paths, into a folder; what a broken stream has brought is not fetched again.

        Raises:
            CommandError: no stream brings them.
        """
        failed = 0
        while missing := {name: (have, size) for name, size in sizes.items() if (have := _have(into / name)) != size}:
            before = sum(max(0, have) for have, _ in missing.values())
            why = self._some({name: (max(0, have), size) for name, (have, size) in missing.items()}, into, tell)
            after = sum(max(0, _have(into / name)) for name in missing)
            failed = 0 if after > before else failed + 1
            if failed == TRIES:
                raise CommandError(f"{next(iter(missing))}: could not be copied: {why or 'the stream ends before it'}")

    def _some(self, parts: Mapping[str, tuple[int, int]], into: Path, tell: Callable[[int], None]) -> str:
        """One stream; why it broke, if it did."""
        try:
            with self._asked(verb="send", files=parts) as process:
                self._receive(process, parts, into, tell)
        except Refused as error:
            return str(error)
        return ""

    @staticmethod
    def _receive(
        process: Piped, wanted: Mapping[str, tuple[int, int]], into: Path, tell: Callable[[int], None]
    ) -> None:
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", process), mode="r|") as tar:
                for entry in tar:
                    content = tar.extractfile(entry)
                    if entry.name not in wanted or content is None:
                        raise CommandError(f"{entry.name}: it was not asked for; the stream is not the reader's")
                    _append(into / entry.name, content, tell)
        except tarfile.ReadError as error:
            raise Broken(str(error)) from error

    @contextmanager
    def _asked(self, **request: Any) -> Iterator[Piped]:
        """The process that answers a request."""
        program = Path(remote.__file__).read_bytes()
        line = json.dumps({"root": self._root, **request}).encode()
        with piped(self._command, refusal) as process:
            process.say(f"{len(program)}\n".encode() + program + line + b"\n")
            yield process
            process.say(b"\n")


def _append(path: Path, content: Any, tell: Callable[[int], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        while block := content.read(1 << 20):
            file.write(block)
            tell(len(block))


def _have(path: Path) -> int:
    """Bytes that are here; -1: not even an empty file."""
    return path.stat().st_size if path.exists() else -1
