"""Argo CD's and Flux's health checks, run as they run them: a Lua 5.1 of few libraries, and CEL that is not type-checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cel_expr_python import cel
from lupa.lua51 import LuaRuntime

from rlhf_api.yaml import load_yaml

HEALTH = Path(__file__).parents[3] / "docs" / "health"
CLOSED = ("string", "math", "io", "debug", "coroutine")
"""Lua's libraries that Argo CD does not open."""


class Argo:
    """`health(object)` gives status and message."""

    def __init__(self, script: Path = HEALTH / "argocd.lua") -> None:
        self._lua = LuaRuntime(register_eval=False, register_builtins=False)
        self._lua.execute("getmetatable('').__index = nil")
        for library in CLOSED:
            self._lua.globals()[library] = None
        self._script = self._lua.eval(f"function(obj)\n{script.read_text()}\nend")

    def health(self, resource: dict[str, Any]) -> tuple[str, str]:
        """As Argo CD shows it.

        Raises:
            lupa.LuaError: the script failed.
        """
        verdict = self._script(self._lua.table_from(resource, recursive=True))
        assert verdict.status in ("Healthy", "Progressing", "Degraded", "Suspended"), verdict.status
        return str(verdict.status), str(verdict.message)


class Flux:
    """`health(object)`: first the generation, then inProgress, failed, current, in this order, as Flux asks them."""

    def __init__(self, name: str) -> None:
        document = load_yaml((HEALTH / name).read_bytes())
        assert not document.problems
        (checks,) = document.value["spec"]["healthCheckExprs"]
        assert {checks.pop("apiVersion"), checks.pop("kind")} == {"rlhf.dev/v1alpha1", "RLHFJob"}
        assert "current" in checks, "Flux demands it"
        environment = cel.NewEnv()
        order = {"inProgress": "InProgress", "failed": "Failed", "current": "Current"}
        assert checks.keys() <= order.keys()
        self._checks = [
            (environment.compile(checks[name], disable_check=True), outcome)
            for name, outcome in order.items()
            if name in checks
        ]

    def health(self, resource: dict[str, Any]) -> str:
        """As Flux counts it; Unknown, and waited for, where an expression has nothing to read."""
        observed = resource.get("status", {}).get("observedGeneration")
        if observed is not None and observed != resource["metadata"].get("generation", observed):
            return "InProgress"
        for expression, outcome in self._checks:
            result = expression.eval(data=resource)
            if result.type() == cel.Type.ERROR:
                return "Unknown"
            assert result.type() == cel.Type.BOOL
            if result.value():
                return outcome
        return "InProgress"
