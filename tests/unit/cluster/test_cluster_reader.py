"""What the reader pod does, done by the same program on this machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rlhf_sdk.cluster import remote
from rlhf_sdk.cluster.kubectl import Refused
from rlhf_sdk.cluster.reader import LAST_SECONDS, TRIES, Reader
from rlhf_sdk.cluster.remote import last_lines
from rlhf_sdk.exits import CommandError

CUT = Path(__file__).parents[2] / "fakes" / "cut_stream.py"
LYING = CUT.with_name("lying_reader.py")


def reader(root: Path) -> Reader:
    return Reader([sys.executable], str(root))


def cut(root: Path, *bytes_that_come: int | str) -> Reader:
    """A reader whose streams break off."""
    plan = root / "cuts"
    plan.write_text("\n".join(str(count) for count in bytes_that_come))
    return Reader([sys.executable, str(CUT), str(plan), sys.executable], str(root / "storage"))


def written(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_it_lists_files_with_their_sizes_and_nothing_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path, {"a/one": b"1", "a/deep/two": b"22", "b/three": b"", "other/four": b"4"})
    assert reader(tmp_path).sizes("a", "b", "gone") == {"a/one": 1, "a/deep/two": 2, "b/three": 0}


@given(
    some.lists(some.text("ab\u00e9", max_size=5), max_size=12),
    some.booleans(),
    some.integers(min_value=1, max_value=14),
)
def test_the_last_lines_are_where_they_begin(lines: list[str], ended: bool, count: int) -> None:
    content = "\n".join(lines).encode() + (b"\n" if ended and lines else b"")
    tail = content[last_lines(io.BytesIO(content), count) :]
    assert tail == b"".join(content.splitlines(keepends=True)[-count:])


def test_the_last_lines_of_a_file_longer_than_a_block(tmp_path: Path) -> None:
    written(tmp_path, {"log": b"".join(b"line %d\n" % number for number in range(30_000))})
    assert reader(tmp_path).lines("log", 2) == ["line 29998", "line 29999"]
    assert len(reader(tmp_path).lines("log", 20_000)) == 20_000
    assert len(reader(tmp_path).lines("log")) == 30_000


def test_a_log_is_followed_to_its_last_line(tmp_path: Path) -> None:
    log = written(tmp_path, {"log": b"one\ntwo\n"}) / "log"
    came = bytearray()
    looks = 0

    def lasting() -> bool:
        nonlocal looks
        looks += 1
        with log.open("ab") as file:
            file.write(b"more %d\n" % looks)
        return looks < 2

    began = time.monotonic()
    reader(tmp_path).follow("log", 1, came.extend, lasting)
    assert bytes(came) == b"two\nmore 1\nmore 2\n"
    assert time.monotonic() - began < LAST_SECONDS, "it is told that these are the last"


def test_it_ends_when_nobody_is_there_any_more(tmp_path: Path) -> None:
    written(tmp_path, {"log": b"one\n"})
    request = {"root": str(tmp_path), "verb": "tail", "file": "log", "lines": None, "follow": True}
    process = subprocess.Popen([sys.executable, remote.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = process.communicate(json.dumps(request).encode() + b"\n", timeout=300)
    assert (process.returncode, out) == (0, b"4\none\n" + remote.END)


def test_files_are_copied_whole(tmp_path: Path) -> None:
    files = {"p/weights": bytes(range(256)) * 9000, "p/empty": b"", "p/deep/name with blanks": b"x"}
    written(tmp_path / "storage", files)
    counts: list[int] = []
    reader(tmp_path / "storage").fetch({name: len(content) for name, content in files.items()}, tmp_path, counts.append)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert sum(counts) == sum(len(content) for content in files.values())


def test_a_stream_that_breaks_off_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    written(tmp_path / "storage", {"weights": content, "after": b"last"})
    counts: list[int] = []
    cut(tmp_path, 300_000, 500_000, "all").fetch(
        {"weights": len(content), "after": 4}, tmp_path / "here", counts.append
    )
    assert (tmp_path / "here" / "weights").read_bytes() == content
    assert (tmp_path / "here" / "after").read_bytes() == b"last"
    assert sum(counts) == len(content) + 4, "nothing is fetched twice"


def test_streams_that_bring_nothing_are_given_up_in_kubectls_words(tmp_path: Path) -> None:
    written(tmp_path / "storage", {"weights": b"1" * 5000})
    with pytest.raises(CommandError, match="weights: could not be copied: error: unexpected EOF"):
        cut(tmp_path, *[100] * (TRIES + 1)).fetch({"weights": 5000}, tmp_path / "here")


def test_an_answer_that_does_not_come_is_told_in_the_words_of_what_should_have_given_it(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="unexpected EOF"):
        cut(tmp_path, 0).sizes("p")
    written(tmp_path / "storage", {"log": b"1" * 5000})
    with pytest.raises(Refused, match="unexpected EOF"):
        cut(tmp_path, 100).lines("log")
    with pytest.raises(Refused, match="no such interpreter"):
        Reader(["sh", "-c", "echo no such interpreter >&2; exit 1"], "/").sizes("p")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"No such file or directory: .*gone"):
        reader(tmp_path).lines("gone")


class Lying(Reader):
    """Of a pod that someone else has taken over."""

    def __init__(self, **plan: object) -> None:
        super().__init__([sys.executable], "/storage")
        self._command = [sys.executable, str(LYING), json.dumps(plan)]


@pytest.mark.parametrize(
    "name",
    ["a/../../out", "/etc/passwd", "b/file", "a//file", "a/./file", "a/", "a", "a/\x1b[2J", "a/" + "x" * 300, "a/.."],
)
def test_a_listing_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(CommandError, match="a path that leads elsewhere"):
        Lying(sizes={name: 1}).sizes("a")


@pytest.mark.parametrize("size", [-1, 1 << 60, 0.5, None, True, "1", [1]])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(CommandError, match="a/file: a size of"):
        Lying(sizes={"a/file": size}).sizes("a")


@pytest.mark.parametrize("listing", ["[]", "null", "1", "{", "[" * 100_000, "\x00"])
def test_a_listing_that_is_none_is_refused(listing: str) -> None:
    with pytest.raises(CommandError, match="the listing of a is"):
        Lying(sizes=listing).sizes("a")


@pytest.mark.parametrize(
    "entries",
    [
        [["out", 2, "0"]],
        [["../out", 2, "0"]],
        [["a/file", 3, "0"]],
        [["a/file", 1, "0"]],
        [["a/file", 2, "0"], ["a/file", 2, "0"]],
        [["a/file", 2, "2"]],
        [["a/file", 2, "1"]],
        [["a/file", 2, "6"]],
    ],
    ids=["other", "outside", "longer", "shorter", "twice", "symbolic link", "hard link", "pipe"],
)
def test_what_comes_otherwise_than_asked_for_is_refused(tmp_path: Path, entries: list[object]) -> None:
    into = tmp_path / "into"
    with pytest.raises(CommandError, match="was not asked for so; what answers is not the reader"):
        Lying(entries=entries).fetch({"a/file": 2}, into)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["into"])
    assert {path.relative_to(into).as_posix() for path in into.rglob("*")} <= {"a", "a/file"}


def test_a_stream_without_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"a/file: could not be copied|prints without end"):
        Lying(entries=[], endless=True).fetch({"a/file": 2}, tmp_path)


@pytest.mark.parametrize("length", ["x", "-1", "9" * 400, "1" + "0" * 11, ""])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(CommandError, match="as the length of a log"):
        Lying(length=length).lines("log")
