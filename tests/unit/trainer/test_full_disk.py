"""A full disk, as every library says it."""

from __future__ import annotations

import errno
import os

import pytest

from rlhf_trainer.exits import StorageFull, explain_full_disk, no_space


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"),
        RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file data/0"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_it_is_told_with_folder_and_free_space(tmp_path, error):
    assert no_space(error)
    folder = tmp_path / "not" / "yet"
    words = rf"no space left while saving in {folder}: [0-9.]+ MiB free\. Nothing half-written is used"
    with pytest.raises(StorageFull, match=words), explain_full_disk(folder, "saving"):
        raise error


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, os.strerror(errno.EACCES)), RuntimeError("a bug"), KeyError(1)]
)
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught, explain_full_disk(tmp_path, "saving"):
        raise error
    assert caught.value is error
