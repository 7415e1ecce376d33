"""How long a test waits for a process before it takes it for hung: a bound on hanging, never a measure of speed."""

from __future__ import annotations

PATIENCE = 1200
"""Seconds. Machines are shared; a gang that needs half a minute alone may need ten beside others."""
