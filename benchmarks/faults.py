"""Inject faults into runs on this machine; each must succeed or end with one sentence, and then resume to the same bytes.

    python benchmarks/faults.py
    python benchmarks/faults.py --kills 5 --only manifest
    python benchmarks/faults.py --markdown

Real commands run on photos of scikit-image, and `describe` asks the server of tests/llm_server.py. Root on Linux mounts full
and read-only disks; otherwise limits and permissions replace them, and the table says so. The exit code is 1 if a case
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tabulate import tabulate

from fault_bench import Bench, NotHere, check, ended, language_server, read_only, small_disk

Outcome = tuple[str, str]
"""What was done, and the outcome; a failure is an AssertionError."""

SAME = "all resumed to the same bytes"
TEN_YEARS = 10 * 365 * 86400
GARBAGE = (b"[" * 100_000, b'{"schema": 1, "key": ' * 50_000, b"\xff\0 garbage", b"null", b"")


def killed(bench: Bench, name: str) -> Outcome:
    job, reference = bench.jobs[name], bench.reference(name)
    shares = sorted(bench.random.random() for _ in range(bench.kills))
    moments_of_kills: Counter[str] = Counter()
    seconds = reference.seconds
    for share in shares:
        while True:
            folder = bench.fresh()
            process = bench.start_working(name, folder)
            time.sleep(share * seconds)
            if process.poll() is None:
                break
            seconds *= share  # The process had ended: the machine was busier during the reference run.
        process.kill()
        process.communicate()
        if job.found(folder) == reference.results:
            moments_of_kills["after the last result"] += 1
        else:
            moments_of_kills["during the work" if any(folder.glob(job.kept)) else "before anything was saved"] += 1
        bench.goes_on(name, folder)
    moments = " ".join(f"{100 * share:.0f}" for share in shares)
    when = ", ".join(f"{count} {when}" for when, count in sorted(moments_of_kills.items()))
    return f"{len(shares)} kills, at {moments} % of {seconds:.1f} s of work", f"{when}; {SAME}"


def interrupted(bench: Bench, name: str) -> Outcome:
    reference = bench.reference(name)
    seconds = [0.0]
    for share in (bench.random.uniform(0, 0.8) for _ in range(max(1, bench.kills // 4))):
        folder = bench.fresh()
        process = bench.start_working(name, folder)
        time.sleep(share * reference.seconds)
        process.send_signal(signal.SIGINT)
        done = ended(process, time.monotonic())
        if done.code in (0, -signal.SIGINT):  # The work was done, and the interpreter was exiting.
            bench.same(name, folder)
        else:
            check(done.code == 130, f"it ended with {done.code}: {done.err}")
            check(done.err.count("interrupted; ") == 1 and " to resume\n" in done.err, f"it does not say how: {done.err}")
            check(done.seconds < 2, f"it took {done.seconds:.1f} s")
            seconds.append(done.seconds)
        bench.goes_on(name, folder)
    return f"Ctrl+C, {len(seconds) - 1} times", f"130 and how to resume, within {max(seconds):.1f} s; {SAME}"


def full_disk(bench: Bench, name: str) -> Outcome:
    sizes = [len(content) for content in bench.reference(name).results.values()]
    for share in (0.1, 0.5, 0.9):
        with small_disk(bench.fresh(), int(share * sum(sizes)), int(share * max(sizes))) as disk:
            reason = _reason(bench.run(*bench.jobs[name].words(disk.folder), before=disk.limit).sentence)
            disk.make_room()
            bench.goes_on(name, disk.folder)
    return f"{disk.what}, and two that are smaller", f"2, {reason}; with room, the same bytes"


def read_only_store(bench: Bench) -> Outcome:
    reasons = []
    for lacking in ("nothing", "a shard", "all"):
        folder, other = bench.copy_of_store(), bench.fresh()
        if lacking == "a shard":
            next(folder.glob("store/views/*/*.safetensors")).unlink()
        elif lacking == "all":
            shutil.rmtree(folder / "store")
            (folder / "store").mkdir()
        with read_only(folder / "store") as how:
            words = bench.jobs["extraction"].words(folder)
            done = bench.run(*words[:-1], other / "a.json")
            if lacking == "nothing":
                check(done.code == 0, f"a whole store that cannot be written cannot be read: {done.err}")
                shutil.copy(other / "a.json", folder)
                bench.same("extraction", folder)
            else:
                reasons.append(_reason(done.sentence))
        bench.goes_on("extraction", folder)
    return f"{how}: whole, less a shard, empty", f"the same results; 2, {reasons[0]}; the same"


def read_only_folder(bench: Bench, name: str) -> Outcome:
    bench.reference(name)
    folder = bench.fresh()
    with read_only(folder) as how:
        reason = _reason(bench.run(*bench.jobs[name].words(folder)).sentence)
    return how, f"2, {reason}"


def odd_path(bench: Bench) -> Outcome:
    folder = bench.fresh() / 'Größe 写真 🐈 it\'s  "quoted" $HOME'
    shutil.copytree(bench.photos, folder / "photos")
    words = [word.replace(str(bench.photos), f"{folder}/photos") for word in bench.jobs["extraction"].words(folder)]
    done = bench.run(*words)
    check(done.code == 0, done.err)
    bench.same("extraction", folder)
    return "store, photos and output below spaces, quotes, 写真, 🐈", "the same bytes"


def at_once(bench: Bench, name: str, count: int) -> Outcome:
    bench.reference(name)
    folder = bench.fresh()
    processes = [bench.start(*bench.jobs[name].words(folder)) for _ in range(count)]
    results = [ended(process, time.monotonic()) for process in processes]
    refused = [done.sentence for done in results if done.code]
    check(len(refused) < count and not (refused and name == "extraction"), f"refused: {refused}")
    bench.same(name, folder)
    check(not list(folder.rglob("*.part*")), "something half written is left")
    how = (
        f"one with the same bytes; 2, ... {refused[0][refused[0].index(';') + 2 :]}"
        if refused
        else "all with the same bytes"
    )
    return f"{count} processes on the same folder", how


def clock_set_back(bench: Bench) -> Outcome:
    folder = bench.copy_of_store()
    next(folder.glob("store/views/*/*.safetensors")).unlink()
    for place in (*folder.rglob("*"), *bench.photos.rglob("*")):
        os.utime(place, (time.time() + TEN_YEARS,) * 2)
    done = bench.goes_on("extraction", folder)
    images = len(list(bench.photos.rglob("*.jpg")))
    check(f"; {images} images encoded now" in done.err, f"not the one shard that lacked: {done.err}")
    before = _files(folder)
    check(bench.store("gc", folder, "--yes", "--older-than", 1).code == 0, "`store gc` failed")
    check(_files(folder) == before, "`store gc` removed files from the future")
    return (
        "store and photos dated ten years ahead, a shard missing",
        "the same bytes, the other shards unchanged; `store gc` removes nothing",
    )


def flipped_bits(bench: Bench) -> Outcome:
    count: Counter[str] = Counter()
    for _ in range(max(1, bench.kills // 4)):
        folder = bench.copy_of_store()
        shards = sorted(folder.glob("store/*/*/*.safetensors"))
        for shard in shards:
            content = bytearray(shard.read_bytes())
            header = 8 + int.from_bytes(content[:8], "little")
            parts = {"length": (0, 8), "header": (8, len(content[:header].rstrip())), "tensors": (header, len(content))}
            where = bench.random.choice(list(parts))
            content[bench.random.randrange(*parts[where])] ^= 1 << bench.random.randrange(8)
            shard.write_bytes(content)
            count[where] += 1
        verified = bench.store("verify", folder)
        check(verified.out == "".join(f"{shard}: damaged\n" for shard in shards), f"`store verify` says: {verified.out}")
        bench.goes_on("extraction", folder)
    flipped = ", ".join(f"{number} in the {where}" for where, number in sorted(count.items()))
    return (
        f"a bit in each of {sum(count.values())} shards: {flipped}",
        "`store verify` prints each; encoded again with the same bytes",
    )


def newer_schema(bench: Bench) -> Outcome:
    folder = bench.copy_of_store()
    manifest = next(folder.glob("store/views/*/manifest.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 2}))
    next(manifest.parent.glob("*.safetensors")).write_bytes(b"a layout of the future")
    before = _files(folder)
    said = bench.run(*bench.jobs["extraction"].words(folder)).sentence
    for command in (("list",), ("verify",), ("gc", "--yes")):
        check(bench.store(command[0], folder, *command[1:]).code == 0, f"`store {command[0]}` failed")
    check(_files(folder) == before, "what a newer version wrote was changed")
    return "a manifest with schema 2", f"2, ... {said[said.index('has schema') :]}; `store gc` leaves it alone"


def broken_manifests(bench: Bench) -> Outcome:
    folder = bench.copy_of_store()
    manifests = sorted(folder.glob("store/*/*/manifest.json"))
    whole = manifests[0].read_bytes()
    contents = (whole[: len(whole) // 2], *GARBAGE)
    for manifest, content in zip(manifests, contents, strict=False):
        manifest.write_bytes(content)
    verified = bench.store("verify", folder)
    damaged = min(len(manifests), len(contents))
    check((verified.code, verified.out.count(": damaged")) == (1, damaged), f"`store verify` says: {verified.out}")
    check(bench.store("list", folder).code == 0, "`store list` failed")
    done = bench.goes_on("extraction", folder)
    check("; 0 images encoded now" in done.err, f"whole shards were not found: {done.err}")
    return (
        "truncated, nested 100,000 deep (two ways), garbage, null, empty",
        "written again with the same bytes, all shards kept",
    )


def foreign_files(bench: Bench) -> Outcome:
    folder = bench.copy_of_store()
    first, second, third = sorted(folder.glob("store/*/*/*.safetensors"))[-3:]
    first.write_bytes(b"")
    shutil.copy(third, second)
    (third.parent / "notes.txt").write_text("mine")
    (third.parent / f".{third.name}.{'0' * 32}.part").write_bytes(b"half")
    (third.parent / "shard-99999.safetensors").mkdir()
    bench.goes_on("extraction", folder)
    check((third.parent / "notes.txt").read_text() == "mine", "the foreign file was touched")
    first.unlink()
    first.mkdir()
    reason = _reason(bench.run(*bench.jobs["extraction"].words(folder)).sentence)
    return "an empty shard, another set's, notes, half a file; a folder for a shard", f"the same bytes; 2, {reason}"


def broken_answers(bench: Bench) -> Outcome:
    folder = bench.fresh()
    for content in (*GARBAGE, b'{"settings": 1}', b"{}"):
        for file in ("a.json", "a.json.partial"):
            if not content and file.endswith("partial"):
                continue  # which is how one begins
            (folder / file).write_bytes(content + b"\n")
            said = bench.run(*bench.jobs["describe"].words(folder)).sentence
            check("; remove it" in said and (folder / file).read_bytes() == content + b"\n", f"changed, or said was: {said}")
            (folder / file).unlink()
    return "as above, for the output and for the saved answers", "2, ... is damaged; remove it to begin anew"


def _reason(said: str) -> str:
    check("cannot be written (" in said, said)
    return f"... {said[said.index('cannot be written') :]}"


def _files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


JOBS = ("extraction", "describe", "classify --output")
CASES: dict[str, Callable[[Bench], Outcome]] = {
    **{f"kill -9, {name}": partial(killed, name=name) for name in JOBS},
    **{f"SIGINT, {name}": partial(interrupted, name=name) for name in JOBS},
    **{f"full disk, {name}": partial(full_disk, name=name) for name in JOBS},
    **{f"read-only folder, {name}": partial(read_only_folder, name=name) for name in JOBS[1:]},
    "read-only store": read_only_store,
    "odd path": odd_path,
    **{f"{count} processes, extraction": partial(at_once, name="extraction", count=count) for count in (2, 4)},
    **{f"2 processes, {name}": partial(at_once, name=name, count=2) for name in JOBS[1:]},
    "clock set back": clock_set_back,
    "flipped bits": flipped_bits,
    "newer schema": newer_schema,
    "broken manifests": broken_manifests,
    "empty and foreign files": foreign_files,
    "broken answers": broken_answers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command; a quarter as many times Ctrl+C, and bits")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--only", default="", metavar="NAME", help="cases whose name holds this")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    chosen = {fault: case for fault, case in CASES.items() if options.only in fault}
    if not chosen:
        parser.error(f"no case's name holds {options.only!r}; the cases are {', '.join(CASES)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder, language_server() as url:
        bench = Bench(Path(folder), url, kills=options.kills, seed=options.seed)
        for fault, case in chosen.items():
            rows.append((fault, *_tried(case, bench)))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(tabulate(rows, ("fault", "done", "outcome", "verdict"), tablefmt="github" if options.markdown else "simple"))
    if any(verdict == "FAILED" for *_, verdict in rows):
        raise SystemExit(1)


def _tried(case: Callable[[Bench], Outcome], bench: Bench) -> tuple[str, str, str]:
    try:
        return *case(bench), "ok"
    except NotHere as error:
        return "", str(error), "skipped"
    except AssertionError as error:
        return "", " ".join(str(error).split())[-300:], "FAILED"


if __name__ == "__main__":
    main()
