"""The child of `trial`: renders templates within limits and writes a line of JSON for each. Imports Jinja alone."""

import contextlib
import json
import resource
import signal
import sys
from typing import Any


def main() -> None:
    """Read the work from standard input; a template that takes too long ends this process."""
    templates, variables, dialogues, seconds, memory, longest = json.load(sys.stdin)
    sys.path[:] = sys.argv[1:]
    environment = sandbox()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for template in templates:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict = render(environment, template, variables, dialogues, longest)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


def sandbox() -> Any:
    """The environment in which transformers renders chat templates, as far as a template can tell."""
    from jinja2 import ext, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: Any) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = str
    return environment


def render(
    environment: Any, template: str, variables: dict[str, str], dialogues: list[dict[str, Any]], longest: int
) -> str | None:
    """What is wrong with a template: it takes too much, or writes too much. What else it raises is no matter here."""
    try:
        if folds_too_much(environment, template):
            raise MemoryError
        program = environment.from_string(template)
        for dialogue in dialogues:
            for generation in (False, True):
                with contextlib.suppress(RefusalError):
                    length = len(attempt(program, variables | dialogue | {"add_generation_prompt": generation}))
                    if length > longest:
                        return f"writes {length:,} characters of a dialogue of a few words"
    except MemoryError:
        return "takes too much memory to render a dialogue of a few words"
    except Exception:  # noqa: BLE001 - it cannot be compiled: told where it is rendered in earnest
        return None
    return None


def folds_too_much(environment: Any, template: str) -> bool:
    """Whether a constant takes more memory than there is: it is computed when the template is compiled, also where no
    dialogue reaches it, and the compiler passes over the error."""
    from jinja2 import nodes

    context = nodes.EvalContext(environment)
    for node in environment.parse(template).find_all(nodes.Expr):
        error: BaseException | None = None
        try:
            node.as_const(context)
        except Exception as impossible:  # noqa: BLE001 - no constant, for whatever reason
            error = impossible
        while error is not None:
            if isinstance(error, MemoryError):
                return True
            error = error.__cause__
    return False


class RefusalError(Exception):
    """A template raised what it likes: told where it is rendered in earnest."""


def attempt(program: Any, variables: dict[str, Any]) -> str:
    """A rendering.

    Raises:
        RefusalError: the template raised something.
        MemoryError: it took more than there is.
    """
    try:
        return str(program.render(variables))
    except MemoryError:
        raise
    except Exception as error:
        raise RefusalError from error


if __name__ == "__main__":
    main()
