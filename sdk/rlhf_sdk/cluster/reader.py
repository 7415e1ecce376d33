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
from rlhf_sdk.cluster.stream_process import Broken, Piped, piped
from rlhf_sdk.exits import CommandError

READ = "import sys; i = sys.stdin.buffer; exec(compile(i.read(int(i.readline())), 'reader', 'exec'))"
"""Reads the program from its input: a command line would be part of a URL, which proxies cut."""
SILENCE_SECONDS = 2.0
"""Of a log that is followed, after which is asked whether more can come."""
LAST_SECONDS = 60.0
"""For its last lines, once the other end was told to stop; after so long it is gone."""
STRANGE = "what answers is not the reader: nothing more is read from this pod"
MAX_LISTING = 64 << 20
"""Bytes of a listing."""
MAX_FILES = 200_000
"""That it names."""
MAX_LOG = 1 << 30
"""Bytes of a log that are read at once."""
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
        """Size of every file below those folders, by path.

        Raises:
            CommandError: what answers is not the reader: a path leads elsewhere, a size is none.
        """
        with self._asked(verb="list", folders=folders) as process:
            line = process.line(MAX_LISTING)
        return _sizes(line, folders)

    def lines(self, file: str, count: int | None = None) -> list[str]:
        """A text file's lines, or its last ones."""
        with self._asked(verb="tail", file=file, lines=count, follow=False) as process:
            text = process.exactly(_length(process.line()))
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
            write(process.exactly(_length(process.line())))
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
    def _receive(  # of what was asked for only, and of that no byte more: the pod may be anyone's
        process: Piped, parts: Mapping[str, tuple[int, int]], into: Path, tell: Callable[[int], None]
    ) -> None:
        missing = dict(parts)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", process), mode="r|") as tar:
                for entry in tar:
                    content = tar.extractfile(entry) if entry.isreg() else None
                    start, end = missing.pop(entry.name, (0, -1))
                    if content is None or entry.size != end - start:
                        raise CommandError(f"{entry.name}: was not asked for so; {STRANGE}")
                    _append(into / entry.name, content, tell)
        except (tarfile.TarError, ValueError, RecursionError) as error:
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


def _sizes(line: bytes, folders: Sequence[str]) -> dict[str, int]:
    """What a listing says: paths below the folders, each as it is written, and sizes."""
    try:
        sizes = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"the listing of {', '.join(folders)} is no JSON; {STRANGE}") from error
    if not isinstance(sizes, dict) or len(sizes) > MAX_FILES:
        raise CommandError(f"the listing of {', '.join(folders)} is none; {STRANGE}")
    for name, size in sizes.items():
        if not name.startswith(tuple(f"{folder}/" for folder in folders)) or not _is_plain(name):
            raise CommandError(f"{name[:200]}: a path that leads elsewhere; {STRANGE}")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 50:
            raise CommandError(f"{name[:200]}: a size of {str(size)[:40]}; {STRANGE}")
    return sizes


def _length(line: bytes) -> int:
    """Bytes of a log that are to come."""
    if not line.isdigit() or len(line) > 12 or int(line) > MAX_LOG:
        raise CommandError(
            f"found {line[:40]!r} as the length of a log; expected at most {MAX_LOG}. Set --tail for a part"
        )
    return int(line)


def _is_plain(name: str) -> bool:
    """Whether a path stays below where it begins, and has one way to be written."""
    parts = name.split("/")
    return name.isprintable() and not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)


def _append(path: Path, content: Any, tell: Callable[[int], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        while block := content.read(1 << 20):
            file.write(block)
            tell(len(block))


def _have(path: Path) -> int:
    """Bytes that are here; -1: not even an empty file."""
    return path.stat().st_size if path.exists() else -1
