"""A process with pipes: what it was asked, what it answers, why it ended."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from subprocess import PIPE
from typing import IO, cast

BLOCK = 1 << 20
MOST_LEFT = 4096
"""Reads of what a process prints after its answer."""


class Broken(Exception):
    """A process did not say, or read, all that it should have."""


class Piped:
    """A process whose input and output are pipes, read without a buffer of Python's: it could not be waited for."""

    def __init__(self, command: Sequence[str], words: IO[bytes]) -> None:
        self._process = subprocess.Popen(command, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=words)
        self._stdin = cast("IO[bytes]", self._process.stdin)  # pipes, so they are there
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._read = b""

    def say(self, content: bytes) -> None:
        """Write to it.

        Raises:
            Broken: it has ended.
        """
        try:
            while content:
                content = content[os.write(self._stdin.fileno(), content) :]
        except BrokenPipeError as error:
            raise Broken("it ended early") from error

    def read(self, count: int) -> bytes:
        """Some of what it prints next, at most so many bytes; none: it has ended."""
        if not self._read:
            return os.read(self._stdout.fileno(), min(count, BLOCK))
        content, self._read = self._read[:count], self._read[count:]
        return content

    def waited(self, seconds: float) -> bytes | None:
        """The same, if there is any by then; else None."""
        if not self._read and not select.select([self._stdout], [], [], seconds)[0]:
            return None
        return self.read(BLOCK)

    def exactly(self, count: int) -> bytes:
        """The bytes it prints next.

        Raises:
            Broken: it prints fewer.
        """
        content = bytearray()
        while len(content) < count:
            more = self.read(count - len(content))
            if not more:
                raise Broken(f"the stream broke after {len(content)} of {count} bytes")
            content += more
        return bytes(content)

    def line(self, most: int = BLOCK) -> bytes:
        """The line it prints next.

        Raises:
            Broken: it prints none, or one of more than so many bytes.
        """
        blocks = [self._read]
        size = len(self._read)
        while b"\n" not in blocks[-1]:
            more = os.read(self._stdout.fileno(), BLOCK)
            if not more:
                raise Broken("it ended without an answer")
            blocks.append(more)
            size += len(more)
            if size > most + BLOCK:
                raise Broken(f"its answer is longer than {most} bytes")
        line, _, self._read = b"".join(blocks).partition(b"\n")
        return line

    def finish(self) -> int:
        """Close its input, leave what it still prints, but not without end; gives its exit code."""
        self._stdin.close()
        blocks = 0
        while self.read(BLOCK):
            blocks += 1
            if blocks > MOST_LEFT:
                self._process.kill()
                raise Broken("it prints without end")
        return self._process.wait()

    def end(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        self._stdin.close()


@contextmanager
def piped(command: Sequence[str], refusal: Callable[[str], Exception]) -> Iterator[Piped]:
    """Run a process for the time of a block; it is ended when the block fails.

    Args:
        command: its command line.
        refusal: the error to raise when it ends badly, made of its words on stderr.
    """
    with tempfile.TemporaryFile() as words:
        process = Piped(command, words)
        broken = ""
        try:
            try:
                yield process
            except Broken as error:  # its own words, read below, say why
                broken = str(error)
            try:
                code = process.finish()
            except Broken as error:
                code, broken = -1, broken or str(error)
        finally:
            process.end()
        if code != 0 or broken:
            words.seek(0)
            raise refusal(words.read().decode(errors="replace").strip() or broken)
