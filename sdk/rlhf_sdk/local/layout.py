"""Where everything of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf_api.digest import digest_of
from rlhf_api.stages import PREPARE

STORAGE = ".rlhf"
"""Storage of a job that is told no other: this folder beside the job file."""


def local_uid(namespace: str, job: str, folder: Path) -> str:
    """UID of a job run here: the same for the same name in the same folder, so that running again resumes.

    Args:
        namespace: the job's.
        job: its name.
        folder: where its file lies.
    """
    return f"{job[:40]}-{digest_of([namespace, job, str(folder.resolve())])[:10]}"


def ignore_in_git(storage: Path) -> None:
    """Make a storage of the default name ignore itself in git, once: models and checkpoints are no sources."""
    ignore = storage / ".gitignore"
    if storage.name == STORAGE and not ignore.exists():
        storage.mkdir(parents=True, exist_ok=True)
        ignore.write_text("*\n")


@dataclass(frozen=True)
class Layout:
    """Paths of one run below its storage."""

    storage: Path
    uid: str

    @property
    def root(self) -> Path:
        """Work of all its stages."""
        return self.storage / "work" / self.uid

    @property
    def state(self) -> Path:
        """What the runner remembers."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Held while someone runs it."""
        return self.root / "run.lock"

    @property
    def resolved(self) -> Path:
        """What prepare found."""
        return self.work(PREPARE) / "resolved.json"

    def work(self, stage: str) -> Path:
        """A stage's work directory."""
        return self.root / stage

    def logs(self, stage: str, attempt: int) -> Path:
        """Logs of one attempt."""
        return self.work(stage) / "logs" / f"a{attempt}"

    def product(self, name: str) -> Path:
        """A product's folder."""
        return self.storage / "products" / name
