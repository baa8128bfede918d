"""Faults of one machine: each ends right or in one sentence, and the next run goes on to the same bytes."""

import importlib
import json
import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from crossalign.cli import main
from crossalign.errors import InputError
from crossalign.store.shards import SCHEMA, Store
from crossalign.text.descriptions.answers import AnswerFile

resource = pytest.importorskip("resource", reason="needs the limits of POSIX")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
faults, fault_bench = (importlib.import_module(name) for name in ("faults", "fault_bench"))

# A store

KEY = {"kind": "views", "encoder": "abc", "recipe": {"crop_scale": (0.1, 0.9)}}
TENSORS = {"global_view": torch.arange(10, dtype=torch.float16).view(2, 5), "größe": torch.ones(2, 3).half()}
NESTED = "[" * 100_000


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    opened.open(KEY).write(0, TENSORS)
    return opened


def call(store, *words):
    done = CliRunner().invoke(main, ["store", *words, "--store", str(store.root)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def files_of(store):
    return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_a_shard_has_the_same_bytes_whenever_it_is_written(store):
    shards = store.open(KEY)
    written = set()
    for _ in range(20):
        shards.write(0, TENSORS)
        written.add(shards.path(0).read_bytes())
    assert len(written) == 1
    assert all(torch.equal(shards.read(0)[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("content", [NESTED, '{"schema": 1, "key": ' + NESTED, '{"schema": 1, "key": {"kind": "texts"}}'])
def test_a_manifest_of_nonsense_is_made_again_and_hides_no_shard(store, content):
    manifest = store.open(KEY).folder / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(content)
    assert [cached.key for cached in store.sets()] == [None]
    assert call(store, "list").exit_code == 0
    assert call(store, "verify").stdout == f"{manifest}: damaged\n"
    assert store.open(KEY).read(0) is not None
    assert manifest.read_text() == whole


@pytest.mark.parametrize("more", [{"key": KEY}, {"made of": "something"}, {"key": []}])
def test_what_a_newer_version_wrote_is_neither_judged_nor_exported_nor_removed(store, tmp_path, more):
    folder = store.open(KEY).folder
    (folder / "manifest.json").write_text(json.dumps({"schema": SCHEMA + 1, **more}))
    (folder / "shard-00000.safetensors").write_bytes(b"a layout of the future")
    before = files_of(store)
    said = f"has schema {SCHEMA + 1}, this version reads {SCHEMA}"
    verified = call(store, "verify")
    assert (verified.exit_code, verified.stdout) == (0, "")
    assert said in verified.stderr
    assert "nothing to remove" in call(store, "gc", "--yes").stderr
    exported = call(store, "export", folder.name, "--output", str(tmp_path / "f.npz"))
    assert (exported.exit_code, said in exported.stderr) == (2, True)
    with pytest.raises(InputError, match=f"{said}; use another store folder"):
        store.open(KEY)
    assert call(store, "list").exit_code == 0
    assert files_of(store) == before


def test_gc_finds_what_a_killed_process_left_before_the_clock_went_back(store):
    folder = store.open(KEY).folder
    stray, young = (folder / f".shard-00001.safetensors.{digit * 32}.part" for digit in "01")
    for part, seconds in ((stray, 86400), (young, 60)):
        part.write_bytes(b"1234")
        os.utime(part, (time.time() + seconds,) * 2)
    for file in folder.glob("shard*"):
        os.utime(file, (time.time() + 86400,) * 2)
    assert call(store, "gc", "--yes", "--older-than", "30").stdout == "4 bytes freed\n"
    assert {path.name for path in files_of(store)} == {"manifest.json", "shard-00000.safetensors", young.name}


def test_gc_finds_what_a_killed_export_left(store):
    tower = store.root / "towers" / ("e" * 32)
    old, young = tower / "tmp0a_bcdef", tower / "tmpzzzzzzzz"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "float32.bin").write_bytes(b"1234")
    os.utime(old / "float32.bin", (time.time() - 7200,) * 2)
    (tower / "tmpzzzzzzzz.txt").write_text("mine")
    assert "8 bytes" in call(store, "list").stdout
    assert call(store, "gc", "--yes").stdout == "4 bytes freed\n"
    assert not old.exists()
    assert {path.name for path in tower.rglob("*")} == {young.name, "float32.bin", "tmpzzzzzzzz.txt"}


def test_a_set_that_another_process_removes_meanwhile_is_empty(store):
    [cached] = store.sets()
    for file in cached.files():
        file.unlink()
    cached.shards.folder.rmdir()
    assert (cached.files(), cached.shards.names()) == ([], [])


@pytest.fixture
def nobody():
    """Whom the system refuses what it allows the superuser."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_store_that_may_not_be_read_is_not_taken_for_an_empty_one(store, nobody):
    with suppress(PermissionError):  # Another user's it is anyway.
        store.root.chmod(0)
    with pytest.raises(InputError, match=r"cannot be read .Permission denied.; choose another store folder"):
        store.sets()


def test_a_store_that_is_a_file_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "store").write_text("mine")
    done = call(Store(tmp_path / "store"), "list")
    assert (done.exit_code, "cannot be read (Not a directory); choose another store folder" in done.stderr) == (2, True)


# Descriptions in the making

SETTINGS = {"style": "descriptors", "model": "m"}


def answers(folder):
    return AnswerFile(folder / "texts.json", SETTINGS, {})


def kept_in(folder):
    return folder / "texts.json.partial"


@pytest.mark.parametrize("name", ["texts.json", "texts.json.partial"])
@pytest.mark.parametrize(
    "content",
    [
        NESTED,
        '{"a":' * 100_000,
        '{"settings": "x", "time": ""}\n{}',
        '{"settings": {"style": "descriptors", "model": "m"}, "time": ""}\n{"class": "cat", "texts": 5, "near": []}',
        '{"settings": {"style": "descriptors", "model": "m"}, "time": ""}\n{"class": "cat", "texts": [5], "near": []}',
        '{"style": "descriptors", "model": "m", "time": "", "failures": {}, "classes": {"cat": 5}}',
        '{"style": "descriptors", "model": "m", "time": "", "failures": {}, "classes": {"cat": []}, "near": {"cat": 1}}',
        "null",
        "[1]",
    ],
)
def test_nonsense_in_place_of_answers_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_text(content + "\n")
    with pytest.raises(
        InputError, match=r"is damaged; remove it|was not made by `crossalign describe`; remove it"
    ) as caught:
        answers(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / name).read_text() == content + "\n"


def test_a_disk_that_fills_up_leaves_no_half_answer_for_the_next_to_be_written_behind(tmp_path):
    file = answers(tmp_path)
    file.add("cat", ["a grey coat"])
    before = kept_in(tmp_path).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(InputError, match=r"partial' cannot be written .File too large.; free or name another"):
            file.add("dog", ["a brown coat"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept_in(tmp_path).read_bytes() == before
    file.add("hen", ["a red comb"])
    assert list(answers(tmp_path).classes) == ["cat", "hen"]


def test_two_processes_may_begin_the_same_file_at_once(tmp_path):
    one = answers(tmp_path)
    one.add("cat", ["a grey coat"])
    head = kept_in(tmp_path).read_bytes().splitlines(keepends=True)[0]
    with open(kept_in(tmp_path), "ab") as file:
        file.write(head)
    one.add("dog", ["a brown coat"])
    assert list(answers(tmp_path).classes) == ["cat", "dog"]
    with open(kept_in(tmp_path), "ab") as file:
        file.write(head.replace(b'"m"', b'"n"'))
    with pytest.raises(InputError, match='was made with another model "n", now "m"'):
        answers(tmp_path)


# Real processes: a short version of benchmarks/faults.py, below a folder with spaces and letters from far away


@pytest.fixture(scope="module")
def bench(tmp_path_factory, shared_cache):
    folder = tmp_path_factory.mktemp('Größe 写真 🐈 it\'s  "quoted"')
    (folder / "cache").symlink_to(shared_cache)
    with fault_bench.language_server() as url:
        yield fault_bench.Bench(folder, url, kills=1, seed=16, variants=2, seeds=2)


@pytest.mark.parametrize("fault", ["kill -9, extraction", "kill -9, describe", "SIGINT, describe", "2 processes, describe"])
@pytest.mark.slow
def test_a_broken_run_goes_on_to_the_same_bytes(bench, fault):
    faults.CASES[fault](bench)


@pytest.mark.slow
def test_a_flipped_bit_a_broken_manifest_and_another_process_change_nothing(bench):
    """What the harness tries one by one, in a single store, by two processes at once."""
    folder = bench.copy_of_store()
    first, second = sorted(folder.glob("store/views/*/*.safetensors"))
    content = bytearray(first.read_bytes())
    content[bench.random.randrange(len(content) // 2, len(content))] ^= 1
    first.write_bytes(content)
    (second.parent / "manifest.json").write_text(NESTED)
    processes = [bench.start(*bench.jobs["extraction"].words(folder)) for _ in range(2)]
    results = [fault_bench.ended(process, time.monotonic()) for process in processes]
    assert [done.code for done in results] == [0, 0]
    assert any("; 12 images encoded now, 12 cached before" in done.err for done in results)
    bench.same("extraction", folder)
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_a_full_disk_and_then_a_newer_schema_are_one_sentence(bench):
    """The system's limit of a file's size stands for the disk."""
    folder = bench.fresh()
    words = bench.jobs["extraction"].words(folder)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    said = bench.run(*words, before=limit).sentence
    assert "cannot be written (File too large); free disk space or choose another path" in said
    assert not list(folder.rglob("*.part"))
    bench.goes_on("extraction", folder)
    manifest = next(folder.glob("store/views/*/manifest.json"))
    manifest.write_text(json.dumps({"schema": SCHEMA + 1, "key": {}}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = bench.run(*words).sentence
    assert f"has schema {SCHEMA + 1}, this version reads {SCHEMA}; use another store folder" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
