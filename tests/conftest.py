"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# An example's seconds say how busy the machine is, and nothing about the code.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
