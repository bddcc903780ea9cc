"""`tfgpt serve` as a process for tests."""
import contextlib
import re
import subprocess
import sys
import threading
from dataclasses import dataclass


@dataclass
class Served:
    """A running server: its REST address, its gRPC address as HOST:PORT, and its process."""

    rest: str
    grpc: str
    process: subprocess.Popen


@contextlib.contextmanager
def serving(*options):
    command = [sys.executable, "-m", "tfgpt", "serve", *options, "--port", "0", "--grpc-port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("serving http"):
            break
    text = "".join(lines)
    assert "serving http" in text, text
    threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for a reader
    try:
        yield Served(re.search(r"serving (https?://[^/\s]+)", text)[1], re.search(r"serving grpcs?://(\S+)", text)[1], process)
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
