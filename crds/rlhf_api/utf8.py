"""File names are UTF-8, whatever the locale says."""

from __future__ import annotations

import os
import sys


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where file names would be taken for another encoding.

    A job names files in UTF-8. In a locale of another encoding with the UTF-8 mode off, names that are not ASCII would
    be names of other files. Processes started from here inherit the mode.
    """
    if sys.getfilesystemencoding() != "utf-8":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606  # our own command again
