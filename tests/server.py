"""A real `crossalign serve` process on a free port of this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

SCRIPT = Path(sys.executable).with_name("crossalign")


@dataclass
class Running:
    process: subprocess.Popen
    url: str = ""
    said: list = field(default_factory=list)
    complained: list = field(default_factory=list)


@contextmanager
def serving(*options, **environment):
    """Start a server, wait until it answers, and end it."""
    command = [SCRIPT, "serve", "--port", "0", *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "2"} | environment, **pipes)
    running = Running(process)
    for stream, lines in ((process.stdout, running.said), (process.stderr, running.complained)):
        threading.Thread(target=lambda stream=stream, lines=lines: lines.extend(stream), daemon=True).start()
    try:
        running.url = _address(running)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()


def _address(running):
    for _ in range(1200):
        if running.process.poll() is not None:
            raise RuntimeError(f"the server ended: {''.join(running.complained)}")
        found = re.search(r"listens on (\S+)", "".join(running.said))
        if found:
            httpx.get(found[1] + "/v1/health", timeout=60)
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {''.join(running.complained)}")


def wait_for(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true")
