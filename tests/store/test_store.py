"""Shards on disk: whole or absent, whoever is killed, whatever is damaged, however many write at once."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from crossalign.errors import InputError
from crossalign.store import files
from crossalign.store.files import cache_root, write_atomically
from crossalign.store.shards import SCHEMA, Store
from systems import needs_permissions, needs_posix

KEY = {"kind": "views", "encoder": "abc", "recipe": {"count": 3, "crop_scale": [0.1, 0.9]}}
TENSORS = {
    "global_view": torch.arange(10, dtype=torch.float16).view(2, 5),
    "views": torch.linspace(-1, 1, 30, dtype=torch.float16).view(2, 3, 5),
}


def same(found, expected):
    return (
        found is not None
        and found.keys() == expected.keys()
        and all(found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected)
    )


def files_in(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def shards(tmp_path):
    return Store(tmp_path / "store").open(KEY)


@pytest.fixture
def shard_file(shards):
    shards.write(0, TENSORS)
    [file] = Path(shards.folder).glob("*.safetensors")
    return file


@pytest.mark.parametrize(
    "tensors",
    [
        TENSORS,
        {"texts": torch.randn(4, 6, generator=torch.Generator().manual_seed(0))},
        {"global_view": torch.ones(2, 5).half(), "views": torch.empty(2, 0, 5).half()},
        {"turned": torch.arange(6).view(2, 3).T},
    ],
)
def test_what_was_written_is_read(shards, tensors):
    assert shards.read(7) is None
    shards.write(7, tensors)
    assert same(shards.read(7), tensors)
    assert shards.read(6) is None


def test_a_key_finds_its_shards_again_and_no_others(tmp_path):
    store = Store(tmp_path)
    store.open(KEY).write(0, TENSORS)
    turned = dict(reversed(KEY.items()))
    assert same(Store(tmp_path).open(turned).read(0), TENSORS)
    for other in ({**KEY, "encoder": "abd"}, {**KEY, "kind": "texts"}, {**KEY, "recipe": {**KEY["recipe"], "count": 4}}):
        assert store.open(other).read(0) is None


def test_the_header_tells_the_source_of_a_shard(shards, shard_file):
    assert (shards.source(0), shards.source(1)) == ("", None)
    shards.write(0, TENSORS, "a digest")
    assert (shards.source(0), same(shards.read(0), TENSORS)) == ("a digest", True)
    content = shard_file.read_bytes()
    shutil.copy(shard_file, shards.path(1))
    assert shards.source(1) is None, "it belongs to number 0"
    shard_file.write_bytes(content[:-1])
    assert shards.source(0) is None
    shard_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert (shards.source(0), shards.read(0)) == ("a digest", None)
    shard_file.write_bytes(content.replace(b"a digest", b"o digest"))
    assert (shards.source(0), shards.read(0)) == ("o digest", None)


def test_sets_are_listed_whose_keys_differ_in_one_entry_alone(tmp_path):
    store = Store(tmp_path)
    key = {**KEY, "images": "a", "recipe": {"count": 3, "crop_scale": (0.1, 0.9)}}
    for other in (key, {**key, "images": "b"}, {**key, "images": "b", "encoder": "abd"}, {**KEY, "more": 1}):
        store.open(other)
    damaged = store.open({**key, "images": "c"}).folder
    (damaged / "manifest.json").write_text("{")
    assert store.others(key, "images") == [store.open({**key, "images": "b"})]
    assert Store(tmp_path / "empty").others(key, "images") == []


def test_a_store_is_plain_files(tmp_path, shard_file):
    assert [file.name for file in files_in(tmp_path)] == ["manifest.json", shard_file.name]
    manifest = json.loads((shard_file.parent / "manifest.json").read_text())
    assert manifest == {"schema": SCHEMA, "key": KEY}
    assert shard_file.suffix == ".safetensors"


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "Größe 写真 🐈", "a" * 200])
def test_any_folder_name_will_do(tmp_path, name):
    Store(tmp_path / name / name).open(KEY).write(0, TENSORS)
    assert same(Store(str(tmp_path / name / name)).open(KEY).read(0), TENSORS)


# Where it lies


def test_the_given_folder_goes_before_the_variable_and_that_before_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSALIGN_CACHE", str(tmp_path / "variable"))
    assert Store(tmp_path / "given").root == tmp_path / "given"
    assert Store().root == cache_root() == tmp_path / "variable"


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have their cache elsewhere")
@pytest.mark.parametrize("variable", [None, ""])
def test_without_the_variable_it_is_the_users_cache(tmp_path, monkeypatch, variable):
    monkeypatch.delenv("CROSSALIGN_CACHE")
    if variable is not None:
        monkeypatch.setenv("CROSSALIGN_CACHE", variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "crossalign"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "crossalign"


# Damage


def test_no_flipped_bit_of_a_shard_goes_unseen(shards, shard_file):
    """Read it as written or not at all: only the padding of its header may change."""
    content = shard_file.read_bytes()
    seen = 0
    for place in range(len(content)):
        bit = 1 << place % 8
        shard_file.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        found = shards.read(0)
        assert found is None or same(found, TENSORS), place
        seen += found is None
    assert seen > len(content) - 16


def test_no_cut_or_lengthened_shard_goes_unseen(shards, shard_file):
    content = shard_file.read_bytes()
    for length in range(len(content)):
        shard_file.write_bytes(content[:length])
        assert shards.read(0) is None, length
    for more in (b"\0", b"x" * 1000, content):
        shard_file.write_bytes(content + more)
        assert shards.read(0) is None
    shard_file.write_bytes(b"<html>502 Bad Gateway</html>" * 40)
    assert shards.read(0) is None
    shards.write(0, TENSORS)
    assert same(shards.read(0), TENSORS)


def test_a_foreign_shard_is_not_taken(tmp_path, shards, shard_file):
    shutil.copy(shard_file, shard_file.with_name("shard-00001.safetensors"))
    assert shards.read(1) is None
    other = Store(tmp_path / "store").open({**KEY, "encoder": "other"})
    shutil.copy(shard_file, other.folder / shard_file.name)
    assert other.read(0) is None
    assert same(shards.read(0), TENSORS)


def test_a_folder_in_place_of_a_shard_is_no_shard(shards, shard_file):
    shard_file.unlink()
    shard_file.mkdir()
    assert shards.read(0) is None


@pytest.mark.parametrize("content", ["", "{", '{"key": 1}', "[1]", "null", "\x00\x01"])
def test_a_damaged_manifest_is_made_again_and_hides_no_shard(tmp_path, shards, shard_file, content):
    (shards.folder / "manifest.json").write_text(content)
    assert same(Store(tmp_path / "store").open(KEY).read(0), TENSORS)
    assert json.loads((shards.folder / "manifest.json").read_text())["schema"] == SCHEMA


def test_a_newer_schema_is_refused_and_left_alone(tmp_path, shards, shard_file):
    manifest = shards.folder / "manifest.json"
    manifest.write_text(json.dumps({"schema": SCHEMA + 1, "key": KEY}))
    with pytest.raises(InputError, match=f"has schema {SCHEMA + 1}, this version reads {SCHEMA}; use another store folder"):
        Store(tmp_path / "store").open(KEY)
    assert json.loads(manifest.read_text())["schema"] == SCHEMA + 1
    assert shard_file.exists()


def test_leftovers_of_killed_writers_hide_nothing(shards, shard_file):
    content = shard_file.read_bytes()
    for name in (".shard-00000.safetensors.0f.part", ".manifest.json.0f.part", ".shard-00001.safetensors.0f.part"):
        (shards.folder / name).write_bytes(content[:50])
    assert same(shards.read(0), TENSORS)
    assert shards.read(1) is None
    shards.write(1, TENSORS)
    assert same(shards.read(1), TENSORS)


# Places that cannot be written


def check_refused(root):
    with pytest.raises(InputError, match=r"cannot be written .*; free disk space or choose another path") as caught:
        Store(root).open(KEY)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    check_refused(tmp_path / "file")
    check_refused(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no folders")
def test_a_file_system_that_takes_no_folders_is_refused():
    check_refused(Path("/proc/crossalign"))


@needs_permissions
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    check_refused(tmp_path / "locked" / "store")


def test_a_full_disk_leaves_what_was_there_and_no_half_file(tmp_path, shards, shard_file):
    """The system's limit of a file's size stands for a disk that fills up in the middle of a write."""
    resource = pytest.importorskip("resource", reason="needs the limits of POSIX")
    before = files_in(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for shard in (0, 1):
            with pytest.raises(InputError, match=f"shard-0000{shard}.safetensors' cannot be written .File too large"):
                shards.write(shard, {"views": torch.zeros(200_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(shards.read(0), TENSORS)
    assert files_in(tmp_path) == before


def test_write_atomically_replaces_a_file_and_makes_its_folder(tmp_path):
    file = tmp_path / "new" / "results.json"
    for content in (b"first, and longer", b"second"):
        write_atomically(file, content)
        assert file.read_bytes() == content
    assert files_in(tmp_path) == [file]


def test_a_file_that_others_read_is_replaced_as_soon_as_they_close_it(tmp_path, monkeypatch):
    """As on Windows, which refuses to replace an open file."""
    replace, refusals = os.replace, [PermissionError(13, "in use"), PermissionError(13, "in use")]

    def busy(source, target):
        if refusals:
            raise refusals.pop()
        replace(source, target)

    monkeypatch.setattr(files, "_REPLACE_TRIES", 3)
    monkeypatch.setattr(files, "_REPLACE_PAUSE", 0)
    monkeypatch.setattr(os, "replace", busy)
    write_atomically(tmp_path / "results.json", b"new")
    assert (tmp_path / "results.json").read_bytes() == b"new"
    refusals += [PermissionError(13, "in use")] * 3
    with pytest.raises(InputError, match=r"results.json' cannot be written \(in use\)"):
        write_atomically(tmp_path / "results.json", b"newer")
    assert files_in(tmp_path) == [tmp_path / "results.json"]


@pytest.mark.parametrize(("number", "is_written"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_flush_folders_still_takes_files(tmp_path, monkeypatch, number, is_written):
    flush = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with nullcontext() if is_written else pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / "results.json", b"new")


# Killed writers, and many writers: real processes, forked off one that has imported torch

PROLOGUE = """
import os, random, signal, sys, time
import torch
from crossalign.store.shards import Store

def content(shard):
    return {"global_view": torch.full((300, 500), float(shard)).half(), "views": torch.arange(shard, shard + 900_000).half()}

def open_shards():
    return Store(sys.argv[1]).open({"kind": "views", "encoder": "abc"})
"""
KILLED = """
hits, whole = 0, 0
for trial in range(300):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        shards = open_shards()
        os.write(writer, b"!")
        while True:
            for shard in range(4):
                shards.write(shard, content(shard))
    os.read(reader, 1)
    time.sleep(random.Random(trial).uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader), os.close(writer)
    shards = open_shards()
    names = os.listdir(shards.folder)
    hits += any(name.endswith(".part") for name in names)
    for shard in range(4):
        found, there = shards.read(shard), f"shard-{shard:05d}.safetensors" in names
        assert (found is not None) == there, (trial, shard)
        whole += there
        assert not there or all(torch.equal(found[name], tensor) for name, tensor in content(shard).items())
    for name in names:
        if name.endswith(".part") or trial % 3 == 2 and name.startswith("shard"):
            os.remove(shards.folder / name)
    if trial >= 15 and hits >= 8 and whole >= 8:
        break
print(hits, whole)
"""
AT_ONCE = """
children = []
go = time.time() + 0.2
for process in range(3):
    child = os.fork()
    if child == 0:
        time.sleep(max(0, go - time.time()))
        shards = open_shards()
        for shard in range(12):
            if shards.read(shard) is None:
                shards.write(shard, content(shard))
            found = shards.read(shard)
            assert all(torch.equal(found[name], tensor) for name, tensor in content(shard).items())
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
print(*codes)
"""


def run(script, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROLOGUE + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
@needs_posix
def test_a_shard_is_whole_or_absent_whenever_its_writer_is_killed(tmp_path):
    hits, whole = run(KILLED, tmp_path)
    # Else no kill fell into a write, or none behind one, and nothing was tried.
    assert hits >= 8
    assert whole >= 8


@pytest.mark.slow
@needs_posix
def test_processes_that_write_one_store_at_once_all_end_right(tmp_path):
    assert run(AT_ONCE, tmp_path) == [0, 0, 0]
    assert not list(tmp_path.rglob("*.part"))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 12


def test_threads_that_write_one_shard_at_once_all_end_right(tmp_path, shards):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shards.write(0, TENSORS), range(200)))
    assert same(shards.read(0), TENSORS)
    assert not list(tmp_path.rglob("*.part"))


def test_where_folders_cannot_be_opened_files_are_written_all_the_same(tmp_path, monkeypatch):
    """As on Windows, which opens no folders."""

    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    file = tmp_path / "folder" / "file"
    monkeypatch.setattr("crossalign.store.files.os.open", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(file, b"content")
    monkeypatch.setattr("crossalign.store.files.os.name", "nt")
    write_atomically(file, b"content")
    monkeypatch.undo()
    assert file.read_bytes() == b"content"
