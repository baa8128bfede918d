"""Set-up of benchmarks/faults.py: photos, commands with known results, full and read-only disks."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

SCRIPT = Path(sys.executable).with_name("crossalign")
SERVER = Path(__file__).parents[1] / "tests" / "llm_server.py"
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png", "brick.png")
VARY = ("timing", "command", "time")
"""Fields of results that differ between equal runs."""


class NotHere(Exception):
    """This machine cannot run a case."""


def check(holds: object, what: str) -> None:
    """Fail a case with a message."""
    if not holds:
        raise AssertionError(what)


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a process, and the seconds until it ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """The error: one sentence with the way out after a semicolon; only progress lines may come before it."""
        last = self.err.splitlines()[-1] if self.err else ""
        check(self.code == 2, f"it ended with {self.code}: {self.err}")
        check(last.startswith("Error: ") and self.err.count("Error") == 1 and "; " in last, f"no one sentence: {self.err}")
        return last.removeprefix("Error: ")


def ended(process: subprocess.Popen[str], since: float) -> Ended:
    """Wait for the end of a process; it must not print a traceback."""
    out, err = process.communicate(timeout=600)
    check("Traceback" not in err, f"a traceback: {err}")
    return Ended(process.returncode, out, err, time.monotonic() - since)


@dataclass(frozen=True)
class Job:
    """A command that writes to a folder.

    Attributes:
        words: the command line.
        begun: pattern of the files that exist once its work has begun.
        kept: pattern of the files with which a stopped run is resumed.
        results: patterns of the results.
    """

    words: Callable[[Path], list[str]]
    begun: str
    kept: str
    results: tuple[str, ...]

    def found(self, folder: Path) -> dict[str, Any]:
        """Read the results, without fields that differ between equal runs."""
        files = [file for pattern in self.results for file in folder.glob(pattern) if file.is_file()]
        return {str(file.relative_to(folder)): _content(file) for file in sorted(files)}


def _content(file: Path) -> object:
    if file.suffix != ".json" or file.name == "manifest.json":
        return file.read_bytes()
    content = {name: value for name, value in json.loads(file.read_text(encoding="utf-8")).items() if name not in VARY}
    if "dataset" in content:
        del content["dataset"]["root"]
    return json.dumps(content)


@dataclass(frozen=True)
class Reference:
    """A job without a fault: its folder, its results, and the seconds of its work."""

    folder: Path
    results: dict[str, Any]
    seconds: float


class Bench:
    """Photos, jobs, and a folder for each run.

    Args:
        folder: folder for everything.
        url: URL of a server that describes classes.
        kills: number of kills per job.
        seed: seed of the times and places of faults.
        variants: number of variants per photo.
        seeds: number of crop seeds; each has a set in the store.
    """

    def __init__(self, folder: Path, url: str, *, kills: int, seed: int = 0, variants: int = 5, seeds: int = 4):
        self.folder, self.kills, self.random = folder, kills, random.Random(seed)
        self.photos = folder / "photos"
        self._references: dict[str, Reference] = {}
        names = [Path(photo).stem for photo in PHOTOS]
        for name, photo in zip(names, PHOTOS, strict=True):
            _variants(Path(str(resources.files("skimage") / "data" / photo)), self.photos / name, variants)
        texts = folder / "descriptions.json"
        texts.write_text(json.dumps({name.replace("_", " "): [f"A {name} has a shape.", f"A {name}."] for name in names}))
        things = ",".join(f"thing {number}" for number in range(15 * variants))
        engine = ["--encoder", "builtin", "--runtime", "torch"]
        measure = ["evaluate", "--dataset", "folder", "--data-path", str(self.photos), "--descriptions", str(texts), *engine]
        measure += ["--views", "1", "--fresh-seeds", str(seeds), "--methods", "clip,wca"]
        ask = ["describe", "--base-url", url, "--model", "made-up", "--labels", things]
        label = ["classify", str(self.photos), "--labels", ",".join(names), "--views", "4", *engine]
        kept = {
            "extraction": "store/views/*/*.safetensors",
            "describe": "a.json.partial",
            "classify --output": "store/images/*/shard-*",
        }
        self.jobs = {
            "extraction": Job(
                lambda to: [*measure, "--store", f"{to}/store", "--output", f"{to}/a.json"],
                "store/*/*",
                kept["extraction"],
                ("store/*/*/manifest.json", "store/*/*/*.safetensors", "a.json"),
            ),
            "describe": Job(lambda to: [*ask, "--output", f"{to}/a.json"], kept["describe"], kept["describe"], ("a.json",)),
            "classify --output": Job(
                lambda to: [*label, "--output", f"{to}/a.csv", "--store", f"{to}/store"],
                kept["classify --output"],
                kept["classify --output"],
                ("a.csv",),
            ),
        }

    def fresh(self) -> Path:
        """Make an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def start(self, *words: object, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        """Start `crossalign`, with Ctrl+C as a terminal's shell leaves it."""

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if before is not None:
                before()

        env = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
        env |= {"OMP_NUM_THREADS": "1", "CROSSALIGN_CACHE": str(self.folder / "cache")}
        command = [str(word) for word in (SCRIPT, *words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env, preexec_fn=prepare)

    def start_working(self, name: str, folder: Path) -> subprocess.Popen[str]:
        """Start a job, and wait until its work begins."""
        process = self.start(*self.jobs[name].words(folder))
        while process.poll() is None and not any(folder.glob(self.jobs[name].begun)):
            time.sleep(0.005)
        return process

    def run(self, *words: object, before: Callable[[], object] | None = None) -> Ended:
        """Run `crossalign` to its end."""
        return ended(self.start(*words, before=before), time.monotonic())

    def store(self, command: str, folder: Path, *words: object) -> Ended:
        """Run `crossalign store` on a folder's store."""
        return self.run("store", command, "--store", folder / "store", *words)

    def reference(self, name: str) -> Reference:
        """Let a job run undisturbed, once."""
        if name == "classify --output" and "--output" not in self.run("classify", "--help").out:
            raise NotHere("classify has no --output here")
        if name not in self._references:
            folder = self.fresh()
            process = self.start_working(name, folder)
            done = ended(process, time.monotonic())
            check(done.code == 0, f"it ended with {done.code} though nothing befell it: {done.err}")
            self._references[name] = Reference(folder, self.jobs[name].found(folder), done.seconds)
        return self._references[name]

    def copy_of_store(self) -> Path:
        """Copy the store of a finished extraction into a folder of its own."""
        folder = self.fresh()
        shutil.copytree(self.reference("extraction").folder / "store", folder / "store")
        return folder

    def goes_on(self, name: str, folder: Path) -> Ended:
        """Run a job where another was broken: it must end with the very results of one that nothing befell."""
        done = self.run(*self.jobs[name].words(folder))
        check(done.code == 0, f"the next run ended with {done.code}: {done.err}")
        self.same(name, folder)
        return done

    def same(self, name: str, folder: Path) -> None:
        """Compare a job's results with those of the undisturbed one."""
        expected, found = self.reference(name).results, self.jobs[name].found(folder)
        differ = sorted(file for file in expected.keys() | found if expected.get(file) != found.get(file))
        check(not differ, f"other results in {', '.join(differ)}")


def _variants(photo: Path, folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    with Image.open(photo) as image:
        small = image.convert("RGB")
    small.thumbnail((256, 256))
    for number in range(count):
        ImageEnhance.Brightness(small.rotate(3 * number)).enhance(1 - 0.08 * number).save(folder / f"{number}.jpg")


@contextmanager
def language_server() -> Iterator[str]:
    """Run the server of the tests; gives its address."""
    command = [sys.executable, str(SERVER), "--delay", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


@dataclass(frozen=True)
class SmallDisk:
    """A disk that fills up: what it is, its folder, what limits a process to it, and what makes room."""

    what: str
    folder: Path
    limit: Callable[[], object] | None
    make_room: Callable[[], object]


@contextmanager
def small_disk(folder: Path, size: int, file_size: int) -> Iterator[SmallDisk]:
    """Mount a disk of that many bytes, or let a limit of a file's size stand for one."""
    if _mount("-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", folder):
        try:
            yield SmallDisk(f"tmpfs of {size:,} bytes", folder, None, lambda: _mount("-o", "remount,size=64m", folder))
        finally:
            subprocess.run(["umount", folder], check=True)
    else:
        import resource

        limits = (file_size, resource.RLIM_INFINITY)
        what = f"files of at most {file_size:,} bytes (RLIMIT_FSIZE)"
        yield SmallDisk(what, folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits), lambda: None)


@contextmanager
def read_only(folder: Path) -> Iterator[str]:
    """Take away the right to write below a folder; says how."""
    if _mount("--bind", folder, folder):
        try:
            check(_mount("-o", "remount,ro,bind", folder), "a mount that cannot be made read-only")
            yield "read-only mount"
        finally:
            subprocess.run(["umount", folder], check=True)
        return
    if os.geteuid() == 0:
        raise NotHere("root may write anywhere, and cannot mount here")
    folders = [folder, *(inside for inside in folder.rglob("*") if inside.is_dir())]
    try:
        for one in folders:
            one.chmod(0o500)
        yield "folders without permission to write"
    finally:
        for one in folders:
            one.chmod(0o700)


def _mount(*words: object) -> bool:
    try:
        return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode == 0
    except OSError:
        return False
