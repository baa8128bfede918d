"""`crossalign store`: on real shards, some of them damaged."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from crossalign.cli import main
from crossalign.cli.store import show_bytes
from crossalign.store.shards import Store

SCRIPT = Path(sys.executable).with_name("crossalign")
VIEWS = {
    "kind": "views",
    "version": 1,
    "encoder": "e" * 32,
    "pictures": "a" * 32,
    "recipe": {"count": 3, "crop_scale": [0.1, 0.9], "seed": 0},
    "shard_images": 4,
    "dtype": "float16",
}
TEXTS = {"kind": "texts", "version": 1, "encoder": "e" * 32, "texts": "b" * 32}
SIZES = (4, 4, 2)


@pytest.fixture
def store(tmp_path):
    """Views of ten pictures in three shards, and a set of texts."""
    opened = Store(tmp_path / "store")
    views = opened.open(VIEWS)
    numbers = torch.Generator().manual_seed(0)
    for shard, rows in enumerate(SIZES):
        shapes = {"global_view": (rows, 5), "views": (rows, 3, 5)}
        tensors = {name: torch.randn(shape, generator=numbers) for name, shape in shapes.items()}
        views.write(shard, {name: tensor.half() for name, tensor in tensors.items()})
    opened.open(TEXTS).write(0, {"texts": torch.randn(6, 5, generator=numbers)})
    return opened


def run(store, *words, typed=None):
    return CliRunner().invoke(main, ["store", *map(str, words), "--store", str(store.root)], input=typed)


def views_of(store):
    return store.open(VIEWS)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def files_in(store):
    return {path for path in store.root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_real_process_names_the_damaged_shard(store):
    flip_a_bit(views_of(store).path(1))
    command = [SCRIPT, "store", "verify", "--store", store.root, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == {"sets": 2, "shards": 4, "damaged": [str(views_of(store).path(1))]}
    assert done.returncode == 1
    assert re.fullmatch(r"4 of 4 shards verified, [\d.]+/s\n", done.stderr)


def test_list_prints_json(store):
    listed = json.loads(run(store, "list", "--json").stdout)
    assert [(one["kind"], one["shards"], one["key"]) for one in listed] == [("texts", 1, TEXTS), ("views", 3, VIEWS)]
    assert sum(one["bytes"] for one in listed) == sum(file.stat().st_size for file in files_in(store))


def test_list_tells_what_made_each_set(store):
    done = run(store, "list")
    lines = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines()}
    digest = views_of(store).digest[:12]
    assert f"views {digest} encoder eeeeeeeeeeee, pictures aaaaaaaaaaaa" in lines["views"]
    assert "recipe (count 3, crop_scale 0.1-0.9, seed 0) 3 " in lines["views"]
    assert lines["views"].endswith(" 0 min")
    assert "2 sets" in done.stderr


def test_towers_and_sets_without_a_manifest_are_listed_too(store):
    tower = store.root / "towers" / ("c" * 32)
    tower.mkdir(parents=True)
    (tower / "float32.xml").write_text("<net/>")
    (tower / "check-0123456789abcdef.json").write_text("{}")
    (views_of(store).folder / "manifest.json").write_text("{")
    done = run(store, "list")
    assert re.search(r"towers +c{12} +float32.xml +0 +8 bytes", done.stdout)
    assert re.search(r"views +\w{12} +unknown +3 ", done.stdout)
    done = run(store, "verify")
    assert (done.exit_code, done.stdout) == (1, f"{views_of_manifest(store)}: damaged\n")


def views_of_manifest(store):
    return next((store.root / "views").glob("*/manifest.json"))


def test_a_shard_of_another_set_is_damage(store):
    other = store.open({**VIEWS, "encoder": "f" * 32})
    other.path(0).write_bytes(views_of(store).path(0).read_bytes())
    done = run(store, "verify")
    assert (done.exit_code, done.stdout) == (1, f"{other.path(0)}: damaged\n")


def test_a_whole_store_verifies(store):
    done = run(store, "verify")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "4 shards of 2 sets verified, 0 files damaged" in done.stderr


def test_gc_removes_damage_and_strays_and_nothing_else(store):
    before = files_in(store)
    folder = views_of(store).folder
    flip_a_bit(views_of(store).path(2))
    old, young = (folder / f".shard-00009.safetensors.{digit * 32}.part" for digit in "01")
    for part in (old, young):
        part.write_bytes(b"1234")
    os.utime(old, (time.time() - 3700,) * 2)
    (folder / "notes.txt").write_text("mine")
    gone = views_of(store).path(2)
    freed = gone.stat().st_size + 4
    refused = run(store, "gc", typed="n\n")
    assert refused.exit_code == 1
    assert gone.exists()
    assert old.exists()
    done = run(store, "gc", typed="y\n")
    assert done.exit_code == 0
    assert f"{show_bytes(freed)} freed" in done.stdout
    assert files_in(store) == before - {gone} | {young, folder / "notes.txt"}
    done = run(store, "gc")
    assert done.stderr.endswith("nothing to remove\n")
    assert done.stdout == "0 bytes freed\n"


def test_gc_removes_whole_sets_by_age(store):
    folder = views_of(store).folder
    for file in folder.iterdir():
        os.utime(file, (time.time() - 3 * 86400,) * 2)
    texts = {file for file in files_in(store) if file.parent.parent.name == "texts"}
    assert json.loads(run(store, "gc", "--older-than", 4, "--yes", "--json").stdout or '{"bytes": 0}')["bytes"] == 0
    freed = sum(file.stat().st_size for file in folder.iterdir())
    content = json.loads(run(store, "gc", "--older-than", 2, "--yes", "--json").stdout)
    assert (content["bytes"], len(content["removed"])) == (freed, 4)
    assert files_in(store) == texts
    assert not folder.exists()


def test_gc_all_leaves_foreign_files(store):
    mine = store.root / "views" / ("d" * 32) / "photo.jpg"
    mine.parent.mkdir()
    mine.write_text("x")
    (store.root / "readme.txt").write_text("x")
    assert run(store, "gc", "--all", "--yes").exit_code == 0
    assert files_in(store) == {mine, store.root / "readme.txt"}


def expected(store, name):
    return np.concatenate([views_of(store).read(shard)[name].numpy() for shard in range(len(SIZES))])


def test_export_writes_arrays_in_order(store, tmp_path):
    output = tmp_path / "features.npz"
    done = run(store, "export", views_of(store).digest[:9].upper(), "--output", output)
    assert done.exit_code == 0, done.output
    assert "global_view (10, 5), views (10, 3, 5)" in done.stdout
    with np.load(output) as arrays:
        assert set(arrays) == {"global_view", "views"}
        for name in arrays:
            assert arrays[name].dtype == np.float16
            np.testing.assert_array_equal(arrays[name], expected(store, name))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["features.npz"]


def test_export_without_local_views(store, tmp_path):
    alone = store.open({**VIEWS, "recipe": {"count": 0}})
    alone.write(0, {"global_view": torch.ones(2, 5), "views": torch.empty(2, 0, 5)})
    run(store, "export", alone.digest, "--output", tmp_path / "f.npz")
    assert np.load(tmp_path / "f.npz")["views"].shape == (2, 0, 5)


def refused(done):
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr


def test_export_refuses_what_is_not_whole(store, tmp_path):
    output = tmp_path / "f.npz"
    digest = views_of(store).digest
    flip_a_bit(views_of(store).path(1))
    assert re.search(r"shard '.*shard-00001.*' is damaged", refused(run(store, "export", digest, "--output", output)))
    views_of(store).path(1).unlink()
    assert "lacks shard 1" in refused(run(store, "export", digest, "--output", output))
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"store"}


def test_wrong_use_is_one_sentence(store, tmp_path):
    output = ("--output", tmp_path / "f.npz")
    digest = views_of(store).digest
    assert "no set's digest begins with 'zz'" in refused(run(store, "export", "zz", *output))
    assert "no set's digest begins with ''" in refused(run(store, "export", "", *output))
    assert "does not end in .npz; rename it" in refused(run(store, "export", digest, "--output", tmp_path / "f.txt"))
    assert "cannot be written" in refused(run(store, "export", digest, "--output", tmp_path / "none" / "f.npz"))
    assert "exclude each other" in refused(run(store, "gc", "--all", "--older-than", 1))
    tower = store.root / "towers" / ("e" * 32)
    tower.mkdir(parents=True)
    (tower / "float32.bin").write_bytes(b"1")
    assert "exported encoder tower" in refused(run(store, "export", "e" * 32, *output))
    starts = [cached.shards.digest for cached in store.sets()]
    for start in range(40):  # sets enough that two begin alike
        store.open({**TEXTS, "texts": str(start)}).write(0, {"texts": torch.zeros(1, 1)})
        starts = [cached.shards.digest[0] for cached in store.sets()]
        if starts.count(digest[0]) > 1:
            break
    said = refused(run(store, "export", digest[0], *output))
    assert f"matches {starts.count(digest[0])} sets" in said
    assert digest[:12] in said


@pytest.mark.parametrize("command", ["list", "verify", "gc"])
def test_an_empty_store_says_so(tmp_path, command):
    done = run(Store(tmp_path / "none"), command)
    assert done.exit_code == 0
    assert "none' is empty; `crossalign evaluate` fills it" in done.stderr
    assert "is empty" in refused(run(Store(tmp_path / "none"), "export", "ab", "--output", tmp_path / "f.npz"))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB (1,000 bytes)"), (999_960, "1.0 MB (999,960 bytes)")],
)
def test_sizes_are_for_people(count, text):
    assert show_bytes(count) == text


def test_gc_to_a_size_removes_what_was_not_used_for_the_longest_time(tmp_path):
    store = Store(tmp_path)
    shards = store.open({"kind": "images", "views": "test"})
    names = [f"{number:032x}" for number in range(4)]
    for age, name in enumerate(reversed(names)):
        shards.write(name, {"features": torch.zeros(1, 1000)})
        os.utime(shards.path(name), (1000 - age, 1000 - age))
    size = shards.path(names[0]).stat().st_size
    done = run(store, "gc", "--max-size", f"{3.5 * size / 1000:.3f}kB", "--yes")
    assert done.exit_code == 0, done.output
    assert shards.names() == names[1:]
    assert "not used for the longest time" in done.stderr
    assert run(store, "gc", "--max-size", "1TB", "--yes").stderr == "nothing to remove\n"
    wrong = run(store, "gc", "--max-size", "much")
    assert (wrong.exit_code, "'much' is no size; give one such as 500MB" in wrong.stderr) == (2, True)
