"""Feed mutated image files to `read_image`: whatever it does but read one or raise an InputError is a finding.

    pip install atheris
    python benchmarks/fuzz_images.py --minutes 5

It starts from the readable and the broken files of tests/zoo.py. Each new kind of finding goes, shortened, into
tests/fuzzed.py, which the tests read from then on. The last line tells how many inputs were tried.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
FUZZED = TESTS / "fuzzed.py"
MAX_PIXELS = 1_000_000
SECONDS_AN_INPUT = 20
MEGABYTES = 2000
HEAD = '''"""Bytes that `read_image` once failed on, found by benchmarks/fuzz_images.py; zlib, base85."""

FOUND = {
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.child:
        _fuzz(options.child, rest)
        return
    if rest:
        parser.error(f"unknown arguments {' '.join(rest)}")
    with tempfile.TemporaryDirectory() as name:
        _run(Path(name), options.minutes, options.seed)


def _run(folder: Path, minutes: float, seed: int) -> None:
    """Fuzz in a process of its own, since one that hangs or eats memory is killed."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(_seeds()):
        (corpus / f"{number:04d}").write_bytes(content)
    limits = (f"-max_total_time={60 * minutes:.0f}", f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEGABYTES}")
    words = (*limits, f"-seed={seed}", "-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={folder}/stopped-")
    command = [sys.executable, __file__, "--child", str(folder), *words, str(corpus)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    found = {}
    if (folder / "found.json").exists():
        found = {name: base64.b85decode(text) for name, text in json.loads((folder / "found.json").read_text()).items()}
    for file in sorted(folder.glob("stopped-*")):
        found[f"{file.name.split('-')[1]} of {file.stat().st_size} bytes"] = file.read_bytes()
    if found:
        _save(found)
    if "stat::number_of_executed_units" not in done.stdout:
        raise SystemExit(done.stdout[-3000:])
    executions = re.findall(r"number_of_executed_units: *(\d+)", done.stdout) or ["?"]
    covered = re.findall(r"cov: (\d+)", done.stdout) or ["?"]
    for kind in found:
        print(f"finding: {kind}")
    print(f"{executions[-1]} inputs tried, {covered[-1]} edges, {len(found)} findings")


def _seeds() -> list[bytes]:
    zoo = runpy.run_path(str(TESTS / "zoo.py"))
    return [case.make for case in zoo["zoo"]() if isinstance(case.make, bytes) and len(case.make) < 65536]


def _fuzz(folder: Path, words: list[str]) -> None:
    """Fuzz until the time is over."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        raise SystemExit("fuzzing needs atheris; run `pip install atheris`") from None

    import torch  # before instrumentation, which would take minutes for it

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=["PIL"]):
        from PIL import Image

        Image.init()
    from crossalign.images.decoding import read_image

    found: dict[str, str] = {}

    def once(content: bytes) -> None:
        kind = _failure(read_image, content)
        if kind and kind not in found:
            found[kind] = base64.b85encode(_shortened(content, lambda less: _failure(read_image, less) == kind)).decode()
            (folder / "found.json").write_text(json.dumps(found))

    atheris.Setup([sys.argv[0], *words], once)
    atheris.Fuzz()


def _failure(read: Callable[..., Any], content: bytes) -> str:
    """Name what goes wrong and where, or nothing."""
    from crossalign.errors import InputError

    try:
        image = read(io.BytesIO(content), max_pixels=MAX_PIXELS)
    except InputError as error:
        cause, said = error.__context__, str(error)
        place = traceback.extract_tb(cause.__traceback__)[-1] if cause else None
        # PIL may fail in any way, but what fails in our own lines is a fault of these.
        if place and place.filename.endswith("views.py"):
            return f"{type(cause).__name__} in views.py:{place.name}"
        return "" if re.match(r"the image .+; .+", said) and len(said) < 500 and "\n" not in said else f"words: {said}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {os.path.basename(place.filename)}:{place.name}"
    return "" if str(image.dtype) == "torch.uint8" and image.shape[0] == 3 and image.numel() else "no image came out"


def _shortened(content: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Leave out what the failure does not need, larger pieces first, within some 500 tries."""
    tries, size = 500, len(content) // 2
    while size and tries:
        start = 0
        while start < len(content) and tries:
            less, tries = content[:start] + content[start + size :], tries - 1
            if fails(less):
                content = less
            else:
                start += size
        size //= 2
    return content


def _save(found: dict[str, bytes]) -> None:
    known: dict[str, str] = runpy.run_path(str(FUZZED))["FOUND"] if FUZZED.exists() else {}
    for kind, content in found.items():
        known.setdefault(kind, base64.b85encode(zlib.compress(content, 9)).decode())
    lines = "".join(f"    {json.dumps(kind)}: (\n{_wrapped(text)}    ),\n" for kind, text in sorted(known.items()))
    FUZZED.write_text(f"{HEAD}{lines}}}\n", encoding="utf-8")


def _wrapped(text: str) -> str:
    return "".join(f"        {json.dumps(text[at : at + 110])}\n" for at in range(0, len(text), 110))


if __name__ == "__main__":
    main()
