"""A dataset's features: the same however they are cut up, kept, interrupted; with the real built-in encoder."""

import math
import os
import shutil
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from conftest import PHOTOS
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.features.pipeline import DamagedShardError, encode_views, image_features, text_features
from crossalign.images.crops import ViewRecipe
from crossalign.store.shards import ShardFolder, Store

RECIPE = ViewRecipe(3, (0.1, 0.9), seed=5)
IMAGES = 7


@pytest.fixture(autouse=True)
def _one_thread():
    """Kernels sum in another order on another number of threads; the other process of these tests uses one, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven small pictures of different shapes, in two class folders."""
    root = tmp_path_factory.mktemp("pictures with spaces, Größe")
    names = ["chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"]
    for number in range(IMAGES):
        file = root / ("animal" if number % 2 else "thing") / f"{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        with Image.open(PHOTOS / names[number % 4]) as photo:
            photo.convert("RGB").resize((90 + 17 * number, 120 - 9 * number)).save(file)
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return load_dataset(load_config("folder"), folder)


def features_of(dataset, encoder, store, **options):
    """(N, 1 + M, D), and how many pictures were encoded."""
    found = image_features(dataset, encoder, options.pop("recipe", RECIPE), store, **options)
    parts, start = [], 0
    for rows, whole, views in found:
        assert rows == slice(start, start + len(whole))
        assert whole.dtype == views.dtype == torch.float16
        start = rows.stop
        parts.append(torch.cat([whole[:, None], views], dim=1))
    assert found.images == start == len(dataset.paths)
    return torch.cat(parts), found.encoded


@pytest.fixture(scope="module")
def reference(dataset, builtin, tmp_path_factory):
    torch.set_num_threads(1)
    features, encoded = features_of(dataset, builtin, Store(tmp_path_factory.mktemp("reference")))
    assert encoded == IMAGES
    assert features.shape == (IMAGES, 1 + RECIPE.count, builtin.width)
    assert len(features.flatten(0, 1).unique(dim=0)) == features.shape[0] * features.shape[1]
    return features


# The same features, to the bit


@pytest.mark.parametrize(("num_workers", "shard_images"), [(0, 256), (1, 1), (3, 2), (0, 3), (3, 7), (1, 6)])
@pytest.mark.slow
def test_features_do_not_depend_on_workers_and_shards(dataset, builtin, reference, tmp_path, num_workers, shard_images):
    options = {"num_workers": num_workers, "shard_images": shard_images}
    features, encoded = features_of(dataset, builtin, Store(tmp_path), **options)
    assert encoded == IMAGES
    assert torch.equal(features, reference)
    assert len(list(tmp_path.rglob("*.safetensors"))) == math.ceil(IMAGES / shard_images)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_part_of_a_dataset_has_the_features_of_the_whole(dataset, builtin, reference, tmp_path, count):
    some = dataset.limit(count)
    features, encoded = features_of(some, builtin, Store(tmp_path))
    assert encoded == count
    assert torch.equal(features, reference[list(some.indices)])


def test_features_do_not_depend_on_order(dataset, builtin, reference, tmp_path):
    order = [4, 0, 6, 2, 5, 1, 3]
    turned = replace(
        dataset,
        paths=tuple(dataset.paths[row] for row in order),
        labels=tuple(dataset.labels[row] for row in order),
        indices=tuple(dataset.indices[row] for row in order),
    )
    features, _ = features_of(turned, builtin, Store(tmp_path), shard_images=2)
    assert torch.equal(features, reference[order])


def test_a_longer_list_of_views_begins_with_the_shorter(dataset, builtin, reference, tmp_path):
    recipe = replace(RECIPE, count=5)
    features, _ = features_of(dataset.limit(2), builtin, Store(tmp_path), recipe=recipe)
    assert torch.equal(features[:, :4], reference[list(dataset.limit(2).indices)])


def test_no_views_are_an_empty_tensor(dataset, builtin, reference, tmp_path):
    features, _ = features_of(dataset.limit(2), builtin, Store(tmp_path), recipe=replace(RECIPE, count=0))
    assert features.shape == (2, 1, builtin.width)
    assert torch.equal(features[:, 0], reference[[0, 3], 0])


def test_a_picture_is_encoded_alike_whatever_is_beside_it(builtin):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 2, 3, *builtin.preprocessing.size), dtype=torch.uint8, generator=generator)
    together = torch.stack(list(encode_views(builtin, pixels)))
    assert together.shape == (3, 2, builtin.width)
    for row in range(3):
        (alone,) = encode_views(builtin, [pixels[row]])
        assert torch.equal(alone, together[row])


@given(st.lists(st.integers(0, 20), max_size=6))
@settings(max_examples=20, deadline=None)
def test_passes_have_one_size_and_lose_no_view(counts):
    class Means:
        """Encodes a view to its mean; notes the sizes of the passes."""

        device, width = torch.device("cpu"), 1
        passes: ClassVar[list[int]] = []

        def encode_images(self, pixels):
            self.passes.append(len(pixels))
            return pixels.float().mean((1, 2, 3))[:, None]

    encoder = Means()
    numbers = iter(range(1000))
    images = [torch.tensor([next(numbers) for _ in range(count)]).view(-1, 1, 1, 1).expand(-1, 3, 1, 1) for count in counts]
    features = list(encode_views(encoder, images))
    assert [feature[:, 0].tolist() for feature in features] == [image[:, 0, 0, 0].tolist() for image in images]
    assert set(encoder.passes[-math.ceil(sum(counts) / 8) :] if sum(counts) else []) <= {8}


# What the features depend on


def test_another_seed_recipe_encoder_or_picture_has_features_of_its_own(dataset, builtin, reference, folder, tmp_path):
    store = Store(tmp_path / "store")
    some = dataset.limit(1)
    first, _ = features_of(some, builtin, store)
    assert features_of(some, builtin, store)[1] == 0
    for recipe in (replace(RECIPE, seed=6), replace(RECIPE, crop_scale=(0.5, 0.9)), replace(RECIPE, count=2)):
        other, encoded = features_of(some, builtin, store, recipe=recipe)
        assert encoded == 1
        assert not torch.equal(other, first)
    shutil.copytree(folder, tmp_path / "copy")
    copy = load_dataset(load_config("folder"), tmp_path / "copy").limit(1)
    assert features_of(copy, builtin, store)[1] == 0, "the same pictures in another place are the same"
    shutil.copy(dataset.paths[1], copy.paths[0])
    copy = load_dataset(load_config("folder"), tmp_path / "copy").limit(1)
    found, encoded = features_of(copy, builtin, store)
    assert encoded == 1
    assert not torch.equal(found, first)


def test_another_encoder_does_not_take_the_features(dataset, builtin, tmp_path):
    store = Store(tmp_path)
    features_of(dataset.limit(1), builtin, store)
    stranger = SimpleNamespace(fingerprint="another", preprocessing=builtin.preprocessing, device=builtin.device, width=3)
    with pytest.raises(AttributeError, match="encode_images"):
        image_features(dataset.limit(1), stranger, RECIPE, store)


# Kept, damaged, streamed


@pytest.mark.slow
def test_damaged_foreign_and_missing_shards_are_made_again_and_no_others(dataset, builtin, reference, tmp_path):
    store = Store(tmp_path)
    assert features_of(dataset, builtin, store, shard_images=1)[1] == IMAGES
    shards = sorted(tmp_path.rglob("*.safetensors"))
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    shutil.copy(shards[0], shards[4])
    shards[6].unlink()
    untouched = {path: path.stat().st_mtime_ns for row, path in enumerate(shards) if row in (0, 3, 5)}
    features, encoded = features_of(dataset, builtin, store, shard_images=1)
    assert encoded == 4
    assert torch.equal(features, reference)
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert features_of(dataset, builtin, store, shard_images=1)[1] == 0


def test_a_shard_damaged_between_encoding_and_reading_is_no_silent_gap(dataset, builtin, reference, tmp_path):
    features = image_features(dataset.limit(2), builtin, RECIPE, Store(tmp_path), shard_images=1)
    shard = sorted(tmp_path.rglob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(b"")
    with pytest.raises(DamagedShardError, match=r"shard 1 in .* was damaged or removed while it was in use; run again"):
        replace(features, encode_again=None).read(1)
    assert torch.equal(features.read(1)[1], reference[dataset.limit(2).indices[1:], 0])
    assert (features.encoded, shard.read_bytes() == content) == (3, True)


def test_headers_tell_what_is_missing_and_values_are_read_once(dataset, builtin, reference, tmp_path, monkeypatch):
    features_of(dataset, builtin, Store(tmp_path), shard_images=2)
    reads = []
    read = ShardFolder.read
    monkeypatch.setattr(ShardFolder, "read", lambda folder, shard: reads.append(shard) or read(folder, shard))
    features = image_features(dataset, builtin, RECIPE, Store(tmp_path), shard_images=2)
    assert (features.encoded, reads) == (0, [])
    assert torch.equal(torch.cat([views for _, _, views in features]), reference[:, 1:])
    assert reads == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_replaced_image_costs_its_shard_alone_and_both_datasets_stay_cached(folder, builtin, reference, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    before = load_dataset(load_config("folder"), tmp_path / "copy")
    store = Store(tmp_path / "store")
    assert features_of(before, builtin, store, shard_images=2)[1] == IMAGES
    content = before.paths[3].read_bytes()
    shutil.copy(before.paths[0], before.paths[3])
    after = load_dataset(load_config("folder"), tmp_path / "copy")
    features, encoded = features_of(after, builtin, store, shard_images=2)
    assert encoded == 2
    others = [row for row in range(IMAGES) if row != 3]
    assert torch.equal(features[others], reference[others])
    assert not torch.equal(features[3], reference[3])
    alone, _ = features_of(after, builtin, Store(tmp_path / "alone"), shard_images=2)
    assert torch.equal(features, alone)
    before.paths[3].write_bytes(content)
    again, encoded = features_of(load_dataset(load_config("folder"), tmp_path / "copy"), builtin, store, shard_images=2)
    assert encoded == 0
    assert torch.equal(again, reference)


def test_a_damaged_shard_of_another_set_is_not_copied(folder, builtin, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    store = Store(tmp_path / "store")
    features_of(load_dataset(load_config("folder"), tmp_path / "copy"), builtin, store, shard_images=1)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:-2] + b"??")
    dataset = load_dataset(load_config("folder"), tmp_path / "copy")
    shutil.copy(dataset.paths[0], dataset.paths[3])
    _, encoded = features_of(load_dataset(load_config("folder"), tmp_path / "copy"), builtin, store, shard_images=1)
    assert encoded == 2


def test_shards_are_read_one_at_a_time(dataset, builtin, tmp_path):
    found = image_features(dataset.limit(4), builtin, RECIPE, Store(tmp_path), shard_images=1)
    before = []
    for _, whole, views in found:
        assert [tensor for tensor in before if tensor() is not None] == []
        before += [weakref.ref(whole), weakref.ref(views)]
        del whole, views
    assert len(before) == 8


class Bars:
    """A progress that remembers: [how many, of what, how many were reported]."""

    def __init__(self):
        self.told = []

    @contextmanager
    def __call__(self, total, what):
        bar = [total, what, 0]
        self.told.append(bar)
        yield SimpleNamespace(update=lambda n: bar.__setitem__(2, bar[2] + n))


def test_progress_counts_the_pictures_that_are_encoded(dataset, builtin, tmp_path):
    store, bars, some = Store(tmp_path), Bars(), dataset.limit(3)
    features_of(some, builtin, store, shard_images=2, progress=bars)
    sorted(tmp_path.rglob("*.safetensors"))[0].unlink()
    features_of(some, builtin, store, shard_images=2, progress=bars)
    features_of(some, builtin, store, shard_images=2, progress=bars)
    assert bars.told == [[3, "images encoded", 3], [2, "images encoded", 2]]


def test_a_broken_picture_is_named_and_finished_shards_stay(folder, builtin, reference, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    dataset = load_dataset(load_config("folder"), tmp_path / "copy")
    broken = dataset.paths[5]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 3])
    store, bars = Store(tmp_path / "store"), Bars()
    options = {"shard_images": 2, "progress": bars}
    for workers in (2, 0):
        with pytest.raises(InputError, match=r"^image '.*' cannot be read .*; replace it or leave it out$") as caught:
            image_features(dataset, builtin, RECIPE, store, num_workers=workers, **options)
        assert str(broken) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert bars.told == [[7, "images encoded", 4], [3, "images encoded", 0]]
    files = sorted(path for path in (tmp_path / "store").rglob("*.*") if path.is_file())
    assert [path.name for path in files] == ["manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"]
    assert torch.equal(load_file(files[2])["views"], reference[2:4, 1:])


def test_a_missing_picture_is_named_before_anything_is_encoded(folder, builtin, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    dataset = load_dataset(load_config("folder"), tmp_path / "copy")
    dataset.paths[6].unlink()
    with pytest.raises(InputError, match=r"cannot be read .No such file.*the dataset lists it"):
        image_features(dataset, builtin, RECIPE, Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


# Texts


def test_texts_are_encoded_once_and_kept_as_they_are(builtin, tmp_path):
    texts = ["a photo of a cat.", "a dog", "a photo of a cat.", "naïve café, 猫"]
    plain = text_features(texts, builtin, None)
    assert plain.shape == (4, builtin.width)
    assert torch.equal(plain[0], plain[2])
    assert torch.equal(text_features(texts, builtin, Store(tmp_path)), plain)
    idle = SimpleNamespace(fingerprint=builtin.fingerprint)
    assert torch.equal(text_features(texts, idle, Store(tmp_path)), plain)
    [shard] = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-4])
    assert torch.equal(text_features(texts, builtin, Store(tmp_path)), plain)
    for other in (texts[::-1], texts[:3], [*texts, "a dog"]):
        with pytest.raises(AttributeError, match="encode_texts"):
            text_features(other, idle, Store(tmp_path))


# Another process on the same store, and its end

OTHER = """
import os, sys
import torch
torch.set_num_threads(1)
from crossalign.datasets.configs import load_config
from crossalign.datasets import load_dataset
from crossalign.encoders import load_encoder
from crossalign.features.pipeline import image_features
from crossalign.store.shards import Store
from crossalign.images.crops import ViewRecipe

dataset = load_dataset(load_config("folder"), sys.argv[1])
encoder = load_encoder("builtin", "cpu", runtime="torch", precision="f32")
os.nice(10)  # the test, which watches it, comes first
for line in sys.stdin:
    found = image_features(dataset, encoder, ViewRecipe(3, (0.1, 0.9), seed=5), Store(line[:-1]), shard_images=1)
    print(found.encoded, flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def other_process(folder):
    """A real process that encodes the pictures into each store it is told of; it loads while other tests run."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)], env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes
    ) as other:

        def tell(store):
            other.stdin.write(f"{store}\n")
            other.stdin.flush()

        yield other, tell
        other.kill()


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_two_processes_at_once_both_end_right(dataset, builtin, reference, tmp_path, other_process):
    other, tell = other_process
    tell(tmp_path)
    wait_for(lambda: list(tmp_path.rglob("*.safetensors")))
    features, encoded = features_of(dataset, builtin, Store(tmp_path), shard_images=1)
    assert torch.equal(features, reference)
    assert 0 < encoded < IMAGES
    assert int(other.stdout.readline()) == IMAGES
    again, encoded = features_of(dataset, builtin, Store(tmp_path), shard_images=1)
    assert encoded == 0
    assert torch.equal(again, reference)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_killed_process_is_continued_at_the_next_shard(dataset, builtin, reference, tmp_path, other_process):
    other, tell = other_process
    tell(tmp_path)
    wait_for(lambda: len(list(tmp_path.rglob("*.safetensors"))) >= 1)
    other.kill()
    assert other.wait() < 0
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert 1 <= len(done) < IMAGES
    features, encoded = features_of(dataset, builtin, Store(tmp_path), shard_images=1)
    assert encoded == IMAGES - len(done)
    assert torch.equal(features, reference)
    assert {path: path.stat().st_mtime_ns for path in done} == done
