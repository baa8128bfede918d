"""The measurements of `crossalign encoders SPEC --time` on this machine, in a file that users can read and remove."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossalign.store.files import write_atomically


def choice_file(folder: Path) -> Path:
    """Name the file beside a tower's exports."""
    return folder / "measured.json"


def read_choice(folder: Path, machine: Sequence[str]) -> tuple[str, str] | None:
    """Give the engine and precision that were the fastest on this machine; None if that was not measured here."""
    try:
        content = json.loads(choice_file(folder).read_text(encoding="utf-8"))
        if content["machine"] == list(machine):
            return str(content["fastest"]["engine"]), str(content["fastest"]["precision"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def write_choice(folder: Path, machine: Sequence[str], timings: Sequence[dict[str, Any]]) -> Path:
    """Store timings, the fastest first.

    Raises:
        InputError: the folder cannot be written.
    """
    content = {"machine": list(machine), "fastest": timings[0], "timings": list(timings)}
    write_atomically(choice_file(folder), json.dumps(content, indent=2).encode())
    return choice_file(folder)
