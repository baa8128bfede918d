"""The command, in a process of its own or in this one."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from crossalign.cli import main

SCRIPT = Path(sys.executable).with_name("crossalign")


def run(*arguments, stdin=None, cwd=None, env=None):
    words = [SCRIPT, *map(str, arguments)]
    environment = {**os.environ, **env} if env else None
    return subprocess.run(words, input=stdin, capture_output=True, text=True, cwd=cwd, timeout=300, env=environment)


def fails(*arguments, stdin=None):
    """What a command says that ends with 2, in this process, where torch is imported already."""
    done = CliRunner().invoke(main, [*map(str, arguments)], input=stdin, prog_name="crossalign")
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr


def shows(*arguments):
    """What a command prints, in this process, where torch is imported already."""
    done = CliRunner().invoke(main, [*map(str, arguments)], prog_name="crossalign")
    assert done.exit_code == 0, done.output
    return done.stdout
