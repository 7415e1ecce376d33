"""User functions: `module:function(prompts, responses) -> list[float]`, one exact score an answer.

`prompts` is a list of lists of messages ({"role", "content"}), `responses` a list of strings of the same length. The
module is an installed one, or a file in the job file's folder.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_api.bounded import Unreadable, exists, read_bytes
from rlhf_api.digest import digest_file, short_digest
from rlhf_trainer.data.rows import Message
from rlhf_trainer.exits import InputError

SIGNATURE = "function(prompts, responses) -> list[float]"
PROBE: tuple[list[list[Message]], list[str]] = (
    [[{"role": "user", "content": "How are you?"}], [{"role": "user", "content": "How are you?"}]],
    ["Well, thank you.", ""],
)
"""What `prepare` calls a function with: an answer, and the empty one, which every policy gives sooner or later."""


@dataclass(frozen=True)
class UserFunction:
    """A user's function whose results are checked."""

    name: str
    """`module:function`."""
    call: Callable[[list[list[Message]], list[str]], Any]

    def __call__(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """One score an answer.

        Raises:
            InputError: it raised, or gave something else than one finite number an answer; says for which answer.
        """
        try:
            scores = self.call([[*prompt] for prompt in prompts], [*responses])
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            raise InputError(
                f"function {self.name}: raised {type(error).__name__}: {error} ({where})", reason="UserFunction"
            ) from error
        return self._checked(scores, len(responses))

    def _checked(self, scores: Any, expected: int) -> list[float]:
        if isinstance(scores, str | bytes | dict) or not hasattr(scores, "__len__") or not hasattr(scores, "__iter__"):
            raise self._wrong(f"returned {type(scores).__name__}, expected a list of {expected} numbers")
        if len(scores) != expected:
            raise self._wrong(f"returned {len(scores)} scores for {expected} answers, expected one an answer")
        checked = []
        for index, score in enumerate(scores):
            try:
                number = float(score) if not isinstance(score, str) else math.nan
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise self._wrong(f"returned {score!r} for answer {index}, expected a finite number")
            checked.append(number)
        return checked

    def _wrong(self, what: str) -> InputError:
        return InputError(f"function {self.name}: {what}", reason="UserFunction")


def load(name: str, folder: Path | None) -> UserFunction:
    """Import a user's function; `folder` is the job file's.

    Raises:
        InputError: no such module or function, it cannot be imported, or cannot be called with two arguments.
    """
    module_name, _, attribute = name.partition(":")
    module = _import(name, module_name, folder)
    function = getattr(module, attribute, None)
    if not callable(function):
        listed = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise InputError(
            f"function {name}: {module_name} has no function {attribute!r}; it has {', '.join(listed) or 'none'}"
        )
    try:
        inspect.signature(function).bind([], [])
    except (TypeError, ValueError) as error:
        raise InputError(f"function {name}: cannot be called as {SIGNATURE} ({error})") from error
    return UserFunction(name, function)


def probe(function: UserFunction) -> None:
    """Call a function once, also with an empty answer.

    Raises:
        InputError: it raises or gives no finite numbers.
    """
    function(*PROBE)


def source_digest(name: str, folder: Path | None) -> str:
    """Digest of a function's source: its module's file and every module that it imports from beside it, transitively.

    Installed packages that it imports from elsewhere, and files it reads, are not covered.

    Raises:
        InputError: no such module.
    """
    sources = {module: digest_file(path) for module, path in _sources(name, folder).items()}
    return short_digest({"function": name, "sources": sources})


def packages(name: str, folder: Path | None) -> set[str]:
    """Top-level packages that a function's source beside the job may import; `importlib`, where it may import any.
    Of a function in an installed package, that package.

    Raises:
        InputError: no such module.
    """
    module_name = name.partition(":")[0]
    if _find(name, module_name, folder)[0] != folder:
        return {module_name.partition(".")[0]}
    files = _sources(name, folder)
    imported = {dependency.partition(".")[0] for module, file in files.items() for dependency in _imports(file, module)}
    return imported - {module.partition(".")[0] for module in files} - (sys.stdlib_module_names - {"importlib"})


def names(spec: Any) -> set[str]:
    """Every function that a stage's spec names."""
    if isinstance(spec, dict):
        called = {spec["function"]} if spec.get("function") else set()
        return called.union(*map(names, spec.values()))
    return set().union(*map(names, spec)) if isinstance(spec, list) else set()


def _sources(name: str, folder: Path | None) -> dict[str, Path]:
    """The file of a function's module, and of every module that it imports from beside it, transitively."""
    module_name = name.partition(":")[0]
    root, file = _find(name, module_name, folder)
    files = {module_name: file}
    waiting = [module_name]
    while waiting:
        current = waiting.pop()
        for imported in _imports(files[current], current):
            beside = _beside(root, imported)
            if beside is not None and imported not in files:
                files[imported] = beside
                waiting.append(imported)
    return files


def _find(name: str, module: str, folder: Path | None) -> tuple[Path, Path]:
    """(folder of the top-level module, file of the module); a job's own file comes before an installed module."""
    top = module.partition(".")[0]
    if folder is not None and _beside(folder, top) is not None:
        file = _beside(folder, module)
        if file is None:
            hint = f" (write {module.removesuffix('.py')}:...)" if module.endswith(".py") else ""
            raise InputError(f"function {name}: no module {module!r} in {folder}{hint}")
        return folder, file
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # parents of the module run
        raise InputError(f"function {name}: {module} cannot be found: {type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(
            f"function {name}: no module {module!r}; expected {module.replace('.', '/')}.py beside the job file, or an "
            "installed package"
        )
    file = Path(spec.origin)
    return file.parents[module.count(".") + (file.name == "__init__.py")], file


def _import(name: str, module: str, folder: Path | None) -> Any:
    root, file = _find(name, module, folder)
    entry = str(root)
    if entry not in sys.path:
        sys.path.append(entry)  # last: a file beside the job never hides an installed module
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # SystemExit: a script that runs when it is imported
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _users(frame.filename)]
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        raise InputError(f"function {name}: cannot be imported: {type(error).__name__}: {error}{where}") from error
    origin = Path(getattr(imported, "__file__", None) or "")
    if origin.resolve() != file.resolve():
        raise InputError(f"function {name}: {file} is hidden by another module of that name ({origin}). Rename yours")
    return imported


def _users(filename: str) -> bool:
    """Whether a frame is not of this module or the import system's."""
    return filename != __file__ and "importlib" not in filename


def _beside(root: Path, module: str) -> Path | None:
    """File of a module below `root`."""
    base = root.joinpath(*module.split("."))
    for candidate in (base / "__init__.py", base.with_name(base.name + ".py")):
        if exists(candidate) and candidate.is_file():
            return candidate
    return None


def _imports(file: Path, module: str) -> set[str]:
    """Names of all modules that a file may import, absolute; also those inside functions."""
    try:
        tree = ast.parse(read_bytes(file))
    except Unreadable as error:
        raise InputError(str(error)) from error
    except SyntaxError as error:
        raise InputError(f"{file.name}:{error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL, or nested too deep for the parser
        raise InputError(f"{file.name}: cannot be parsed ({error or type(error).__name__})") from error
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parent = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{parent}.{base}".strip(".") if base else parent
            imported.add(base)
            imported.update(f"{base}.{alias.name}" for alias in node.names)
    return {".".join(name.split(".")[: size + 1]) for name in imported if name for size in range(name.count(".") + 1)}
