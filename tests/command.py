"""The command, in a process of its own or in this one."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from crossalign.cli import main

SCRIPT = Path(sys.executable).with_name("crossalign")


def run(*arguments, stdin=None, cwd=None):
    return subprocess.run([SCRIPT, *map(str, arguments)], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=300)


def fails(*arguments, stdin=None):
    """What a command says that ends with 2, in this process, where torch is imported already."""
    done = CliRunner().invoke(main, [*map(str, arguments)], input=stdin, prog_name="crossalign")
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr
