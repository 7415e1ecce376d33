"""`hf://`: a repository's files at a commit, by huggingface_hub (HF_ENDPOINT, HF_TOKEN and proxies are its own)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rlhf_api.sources import Source
from rlhf_trainer.exits import InputError, StageError
from rlhf_trainer.sources.cache import CachedInput, InputCache
from rlhf_trainer.sources.choose import card, choose, is_data

COMMIT = re.compile(r"[0-9a-f]{40}")
CARD = "README.md"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".onnx", ".tflite", ".ot")
MODEL_TEXT = (".json", ".txt", ".model", ".jinja", ".md")


class Unreachable(StageError):
    """The hub does not answer: trying again may help."""

    reason = "HubUnreachable"


@dataclass(frozen=True)
class HubFiles:
    """Files of a commit."""

    cached: CachedInput
    commit: str


def fetch_hub(source: Source, cache: InputCache, subset: str | None, split: str | None) -> HubFiles:
    """Fetch a repository's files (of a data set: those of its subset and split), or find them fetched before.

    Raises:
        InputError: no such repository, revision or file, or no right to read it.
        Unreachable: the hub does not answer.
    """
    from huggingface_hub import HfApi, snapshot_download

    text = written(source)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    kind = "dataset" if source.kind == "hub-data" else "model"
    key = {"kind": kind, "repository": source.location, "subset": subset, "split": split}
    commit = source.revision if COMMIT.fullmatch(source.revision) else None
    cached = cache.recall({**key, "commit": commit}) if commit is not None else None
    if commit is not None and cached is not None:
        return HubFiles(cached, commit)
    with _explained(source):
        info: Any = HfApi(endpoint=endpoint).repo_info(
            source.location, revision=source.revision or None, repo_type=kind
        )
    commit = str(info.sha)
    cached = cache.recall({**key, "commit": commit})
    if cached is not None:
        return HubFiles(cached, commit)
    names = [str(sibling.rfilename) for sibling in info.siblings or []]
    with cache.staging() as staging, _explained(source):

        def download(chosen: list[str]) -> None:
            patterns = [_exact(name) for name in chosen]
            snapshot_download(
                source.location,
                repo_type=kind,
                revision=commit,
                local_dir=staging,
                allow_patterns=patterns,
                endpoint=endpoint,
            )

        if CARD in names:
            download([CARD])
        if kind == "dataset":
            data = [name for name in names if is_data(Path(name))]
            chosen = choose(text, data, card(staging), subset, split)
        else:
            chosen = model_files(text, names, subset)
        download(chosen)
        shutil.rmtree(staging / ".cache", ignore_errors=True)  # huggingface_hub's notes
        missing = [name for name in chosen if not (staging / name).is_file()]
        if missing:
            raise Unreachable(f"{text}: {missing[0]} was listed but not fetched")
        cached = cache.adopt(staging)
    cache.remember({**key, "commit": commit}, cached.digest)
    return HubFiles(cached, commit)


def written(source: Source) -> str:
    """A hub source as its user wrote it."""
    kind = "datasets/" if source.kind == "hub-data" else ""
    return f"hf://{kind}{source.location}" + (f"@{source.revision}" if source.revision else "")


def model_files(text: str, names: list[str], subset: str | None) -> list[str]:
    """A model's files: safetensors (or one GGUF file), configuration and tokenizer of the root folder; never pickles.

    Args:
        text: the source, for messages.
        names: all files of the repository.
        subset: a glob that picks one of several GGUF files.

    Raises:
        InputError: the repository has no weights of these kinds, or several GGUF files and none is picked.
    """
    flat = [name for name in names if "/" not in name]
    weights = [name for name in flat if name.endswith(".safetensors")]
    if not weights or (subset is not None and ".gguf" in subset):
        weights = [name for name in names if name.endswith(".gguf") and (subset is None or fnmatch(name, subset))]
        if len(weights) > 1:
            raise InputError(f"{text}: has several GGUF files ({_some(weights)}); set input.subset to one's name")
        return weights or _no_weights(text, flat)
    return sorted({*weights, *(name for name in flat if name.endswith(MODEL_TEXT))})


def _no_weights(text: str, names: list[str]) -> list[str]:
    pickles = [name for name in names if name.endswith(PICKLES)]
    what = f"its weights are {_some(pickles)}, which are never loaded" if pickles else f"it has {_some(names)}"
    raise InputError(f"{text}: has no safetensors and no fitting GGUF file; {what}")


def _exact(name: str) -> str:
    """A pattern that matches this name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:6]) or "no file"


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turn the hub's errors into ours, in words."""
    from huggingface_hub import errors

    text, token = written(source), "Set HF_TOKEN in the job's credentials to one that may read it"
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(f"{text}: the repository is gated. Accept its terms on the hub. {token}") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{text}: the repository has no revision {source.revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{text}: no such repository, or no right to read it. {token}") from error
    except errors.HFValidationError as error:
        raise InputError(f"{text}: {error}") from error
    except StageError:
        raise
    except Exception as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            raise InputError(f"{text}: the hub refuses ({error.response.status_code}). {token}") from error
        if isinstance(error, errors.LocalEntryNotFoundError | errors.HfHubHTTPError) or _of_transport(error):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Unreachable(f"{text}: the hub does not answer ({reason}). Trying again may help") from error
        raise


def _of_transport(error: BaseException) -> bool:
    """Whether an error is the HTTP library's: huggingface_hub has changed which one it uses."""
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")
