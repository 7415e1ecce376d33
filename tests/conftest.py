"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# An example's seconds say how busy the machine is, and nothing about the code.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# Begun in a script's background (`make test &`), a process ignores Ctrl-C, and so does all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
