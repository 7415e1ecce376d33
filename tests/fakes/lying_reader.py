"""Plays the reader in a pod that someone else has taken over. Its one argument: {"sizes": ..., "entries": ...}; an entry
is [name, size in the stream, type], or {"endless": true} for a stream that never ends."""

import io
import json
import sys
import tarfile

plan = json.loads(sys.argv[1])
stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
stdin.read(int(stdin.readline()))
request = json.loads(stdin.readline())
if request["verb"] == "list":
    stdout.write((plan["sizes"] if isinstance(plan["sizes"], str) else json.dumps(plan["sizes"])).encode() + b"\n")
elif request["verb"] == "tail":
    stdout.write(plan["length"].encode() + b"\n")
else:
    with tarfile.open(fileobj=stdout, mode="w|") as tar:
        for name, size, kind in plan["entries"]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind.encode(), size, "/etc/passwd"
            tar.addfile(entry, io.BytesIO(b"{}" + b"x" * size))
if plan.get("endless"):
    try:
        while True:
            stdout.write(bytes(1 << 20))
    except BrokenPipeError:
        sys.exit(1)
stdout.flush()
stdin.read(1)
