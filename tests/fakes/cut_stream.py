"""Runs a command whose output breaks off: `cut_stream.py FILE COMMAND...`; each run takes a line of FILE: how many bytes
come through, or `all`. What `kubectl exec` does on a bad day."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

plan = Path(sys.argv[1])
first, *rest = plan.read_text().split()
plan.write_text("\n".join(rest or [first]))
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE)
assert process.stdout is not None
bytes_left = 1 << 60 if first == "all" else int(first)
while bytes_left > 0 and (block := process.stdout.read1(min(bytes_left, 1 << 16))):
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    bytes_left -= len(block)
process.stdout.close()
if first != "all":
    process.kill()
    sys.stderr.write("error: unexpected EOF\n")
    sys.exit(1)
sys.exit(process.wait())
