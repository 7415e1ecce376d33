"""What runs in the reader pod, sent there as text: the standard library alone, whatever is in the image.

A request is one line of JSON on stdin: root, verb and what the verb takes. The answer goes to stdout. Then it waits
for a byte, which says that the answer has arrived: `kubectl exec` cuts off what is on its way when a process ends.
"""

import json
import os
import select
import sys
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 16
END = b"\0"
"""Of a log that was followed, which is text."""


def listing(root: Path, out: BinaryIO, request: dict[str, Any]) -> None:
    """Size of every file below some folders, by path, as one line of JSON; a folder that is not there has none."""
    sizes = {}
    for folder in request["folders"]:
        for parent, _, files in os.walk(root / folder):
            for path in (Path(parent) / name for name in files):
                sizes[path.relative_to(root).as_posix()] = path.stat().st_size
    out.write(json.dumps(sizes).encode() + b"\n")


def tail(root: Path, out: BinaryIO, request: dict[str, Any]) -> None:
    """A file, or its last lines: their length in a line, then they. With `follow` what is appended comes after, until
    a byte is sent, and then END.
    """
    with (root / request["file"]).open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        start = 0 if request["lines"] is None else last_lines(file, request["lines"])
        out.write(b"%d\n" % (length - start))
        copy(file, out, start, length)
        streaming = following = request["follow"]
        while streaming:
            if select.select([sys.stdin.fileno()], [], [], 0.5)[0]:
                os.read(sys.stdin.fileno(), 1)  # or nobody is there any more
                streaming = False
            start, length = length, file.seek(0, os.SEEK_END)
            copy(file, out, start, length)
        if following:
            out.write(END)
    out.flush()


def copy(file: BinaryIO, out: BinaryIO, start: int, end: int) -> None:
    """Those bytes of a file."""
    file.seek(start)
    while start < end and (block := file.read(min(BLOCK, end - start))):
        out.write(block)
        start += len(block)
    out.flush()


def last_lines(file: BinaryIO, count: int) -> int:
    """Where the last so many lines of a file begin."""
    position = length = file.seek(0, os.SEEK_END)
    newlines = 0
    while position > 0:
        start = max(0, position - BLOCK)
        file.seek(start)
        block = file.read(position - start)
        end = len(block)
        if position == length and block.endswith(b"\n"):
            end -= 1  # the end of the last line begins no other
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            newlines += 1
            if newlines == count:
                return start + end + 1
        position = start
    return 0


def send(root: Path, out: BinaryIO, request: dict[str, Any]) -> None:
    """Files as a tar stream: the bytes of each {path: [start, end]}."""
    with tarfile.open(fileobj=out, mode="w|") as tar:
        for name, (start, end) in request["files"].items():
            with (root / name).open("rb") as file:
                file.seek(start)
                entry = tarfile.TarInfo(name)
                entry.size = end - start
                tar.addfile(entry, file)


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.readline())
    verbs = {"list": listing, "tail": tail, "send": send}
    verbs[request["verb"]](Path(request["root"]), sys.stdout.buffer, request)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read(1)


if __name__ == "__main__":
    main()
