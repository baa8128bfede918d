"""JPEGs unpacked by a decoder that fills a batch at once: the pixels, turns and errors of `read_image`.

One call of torchvision's stands for nvJPEG and for libjpeg-turbo, PIL's own decoder: on a CPU the pixels are nearly PIL's.
"""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from conftest import PHOTOS
from crossalign.cli import main
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.evaluation.ablation import ablate
from crossalign.evaluation.evaluate import evaluate
from crossalign.features.pipeline import encode_pictures, image_features
from crossalign.images import unpacking
from crossalign.images.crops import ViewRecipe
from crossalign.images.decoding import Fetched, read_image
from crossalign.images.unpacking import Packed, check_nvjpeg, read_packed, unpack
from crossalign.methods.registry import METHODS
from crossalign.store.shards import Store, digest_of
from crossalign.text.descriptions import load_descriptions

pytestmark = pytest.mark.filterwarnings(
    "error::UserWarning", "ignore:The image decoding:DeprecationWarning", "ignore::PIL.Image.DecompressionBombWarning"
)
SCRIPT = Path(sys.executable).with_name("crossalign")
CPU = torch.device("cpu")
PIL = ViewRecipe(2, (0.3, 0.9), seed=5)
NVJPEG = replace(PIL, decoder="nvjpeg")
SHOWN = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")


@cache
def opened(number):
    with Image.open(PHOTOS / SHOWN[number]) as image:
        return image.convert("RGB")


def photo(number=0, size=(67, 45)):
    return opened(number).resize(size)


def jpeg(image, orientation=None, **options):
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def written(file, content):
    file.write_bytes(content)
    return file


def unpacked(*sources, together=8):
    return [image for image, _ in unpack(((read_packed(source), None) for source in sources), CPU, together)]


def outcome(read, source):
    try:
        return read(source)
    except InputError as error:
        return str(error)


def close(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and (one.int() - other.int()).abs().max() <= 3


# Pixels


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["RGB", "L"]),
    orientation=st.none() | st.integers(0, 9),
    progressive=st.booleans(),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
)
def test_a_plain_jpeg_is_the_picture_that_is_seen(size, mode, orientation, progressive, subsampling):
    image = photo(size=size).convert(mode)
    content = jpeg(image, orientation, quality=90, progressive=progressive, subsampling=subsampling)
    source = Fetched("a.jpg", lambda: content)
    assert isinstance(read_packed(source), Packed)
    (seen,) = unpacked(source)
    assert seen.is_contiguous()
    assert close(seen, read_image(source))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_stands_upright(orientation):
    """Whatever its EXIF says: a red corner, which no turn or mirror image puts in the same place."""
    image = Image.new("RGB", (48, 32))
    image.paste((255, 0, 0), (0, 0, 16, 16))
    content = jpeg(image, orientation, quality=95)
    (seen,) = unpacked(Fetched("a.jpg", lambda: content))
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert seen.shape == ((3, 32, 48) if orientation < 5 else (3, 48, 32))
    red = {corner: int(seen[0, corner[0], corner[1]]) for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    assert max(red, key=red.get) == corners[orientation]
    assert sorted(red.values())[-2] < 30


def test_broken_exif_says_nothing(tmp_path):
    # With a resolution in its head PIL has not met the EXIF when it has opened the file.
    content = jpeg(photo(), 6, dpi=(72, 72))
    at = content.index(b"Exif")
    path = written(tmp_path / "a.jpg", content[: at + 6] + b"XX" + content[at + 8 :])
    assert isinstance(read_packed(path), Packed)
    assert close(*unpacked(path), read_image(path))
    assert read_image(path).shape == (3, 45, 67)


# What goes PIL's way


def others():
    two = io.BytesIO()
    photo().save(two, "MPO", save_all=True, append_images=[photo(1)])
    png = io.BytesIO()
    photo().convert("RGBA").save(png, "PNG")
    whole, cmyk = jpeg(photo()), jpeg(photo().convert("CMYK"))
    mark = cmyk.index(b"\xff\xee")
    return {
        "cmyk": cmyk,
        "cmyk without Adobe's mark": cmyk[:mark] + cmyk[mark + 16 :],
        "other colours": jpeg(photo(), keep_rgb=True),
        "two in one": two.getvalue(),
        "more behind": whole + b"more",
        "png": png.getvalue(),
        "cut in half": whole[: len(whole) // 2],
        "cut at its end": whole[:-2],
        "cut in its head": whole[:200],
        "half a png": png.getvalue()[:-200],
        "no picture": b"<html></html>",
        "empty": b"",
    }


@pytest.mark.parametrize("kind", others())
def test_what_is_no_plain_jpeg_is_read_as_ever(tmp_path, kind):
    path = written(tmp_path / "a.jpg", others()[kind])
    for source in (path, str(path), Fetched(str(path), path.read_bytes)):
        found, expected = outcome(read_packed, source), outcome(read_image, source)
        assert not isinstance(found, Packed)
        assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected


def test_what_is_no_file_is_read_as_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")

    def gone():
        raise FileNotFoundError

    for source in (tmp_path, tmp_path / "none.jpg", tmp_path / "pipe.jpg", Fetched("gone.jpg", gone)):
        found = outcome(read_packed, source)
        assert isinstance(found, str)
        assert found == outcome(read_image, source)
    for source in (photo(), np.asarray(photo())):
        assert torch.equal(read_packed(source), read_image(source))


def test_a_network_that_fails_is_asked_once():
    asked = []

    def far():
        asked.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        read_packed(Fetched("far.jpg", far))
    assert asked == [1]


@pytest.mark.parametrize("limit", [67])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    path = written(tmp_path / "a.jpg", jpeg(photo()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert outcome(read_packed, path) == outcome(read_image, path)
    assert "cannot be read" in outcome(read_packed, path)


# What the decoder refuses


def broken():
    """Give a JPEG that shows how broken it is only when it is unpacked: its tables of codes are none."""
    content = bytearray(jpeg(photo()))
    at = content.index(b"\xff\xc4") + 5
    content[at : at + 16] = b"\xff" * 16
    return bytes(content)


def test_a_broken_file_is_named(tmp_path):
    files = [written(tmp_path / f"{name}.jpg", jpeg(photo())) for name in "abc"]
    files[1].write_bytes(broken())
    assert isinstance(read_packed(files[1]), Packed)
    expected = outcome(read_image, files[1])
    assert "b.jpg" in expected
    assert outcome(lambda file: unpacked(files[0], file, files[2]), files[1]) == expected


def refusing(monkeypatch, *refused):
    """Let the decoder refuse files, as nvJPEG does rare ways to thin out colours; tell the sizes of its batches."""
    decode, batches = unpacking._decode, []

    def strict(contents, device):
        batches.append(len(contents))
        if any(content.numpy().tobytes() in refused for content in contents):
            raise RuntimeError("Unknown chroma subsampling\nand a trace")
        return decode(contents, device)

    monkeypatch.setattr(unpacking, "_decode", strict)
    return batches


def test_a_whole_batch_is_unpacked_at_once(tmp_path, monkeypatch):
    files = [written(tmp_path / f"{number}.jpg", jpeg(photo(number % 4))) for number in range(5)]
    files.insert(2, PHOTOS / "coffee.png")
    batches = refusing(monkeypatch)
    found = unpacked(*files, together=3)
    assert batches == [2, 3]
    assert all(close(image, read_image(file)) for image, file in zip(found, files, strict=True))


def test_what_the_decoder_refuses_is_unpacked_by_pil_and_told(tmp_path, monkeypatch):
    files = [written(tmp_path / f"{number}.jpg", jpeg(photo(number), 6)) for number in range(4)]
    batches = refusing(monkeypatch, files[2].read_bytes())
    with pytest.warns(UserWarning, match=r"2.jpg', which nvjpeg refuses \(Unknown chroma subsampling\)$") as told:
        found = unpacked(*files)
    assert [one.category for one in told if one.category is not DeprecationWarning] == [UserWarning]
    assert batches == [4, 1, 1, 1, 1, 1], "all, each by itself, and one that every decoder reads"
    assert all(close(image, read_image(file)) for image, file in zip(found, files, strict=True))


def test_a_broken_decoder_is_no_broken_picture(tmp_path, monkeypatch):
    path = written(tmp_path / "a.jpg", jpeg(photo()))
    refusing(monkeypatch, path.read_bytes(), unpacking._small_jpeg())
    with pytest.raises(InputError, match=r"^decoder nvjpeg does not work on cpu \(Unknown chroma subsampling\); install"):
        unpacked(path)


# Features


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "pictures"
    root.mkdir()
    root.with_name("texts.json").write_text(json.dumps({"cat": ["A cat has whiskers."], "cup": ["A cup is round."]}))
    for number, name in enumerate(["cat/0.jpg", "cat/1.jpg", "cup/2.png", "cup/3.jpg", "cup/4.jpg"]):
        (root / name).parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            photo(number % 4).save(root / name)
        else:
            (root / name).write_bytes(jpeg(photo(number % 4, (90, 70 + number)), 1 + number, quality=95))
    return load_dataset(load_config("folder"), root)


@pytest.fixture
def on_any_device(monkeypatch):
    """Let everything but the check go its way on a CPU."""
    monkeypatch.setattr("crossalign.features.pipeline.check_nvjpeg", lambda device: None)


def features(encoder, pictures, recipe, **options):
    return torch.stack(list(encode_pictures(pictures, encoder, recipe, **{"batch_size": 2, "num_workers": 2} | options)))


def test_features_are_those_of_the_pictures_in_their_order(builtin, dataset, on_any_device):
    pictures = list(zip(dataset.paths, range(10, 15), strict=True))
    expected = features(builtin, pictures, PIL)
    for options in ({}, {"batch_size": 5, "num_workers": 0}):
        found = features(builtin, pictures, NVJPEG, **options)
        # The embedded encoder names the most probable of 1000 classes: a level here or there may swap two of them.
        assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.99
    assert torch.nn.functional.cosine_similarity(expected, expected.roll(1, 0), dim=-1).max() < 0.99


def test_without_a_gpu_nothing_is_encoded(builtin, dataset, tmp_path):
    with pytest.raises(InputError, match=r"^decoder nvjpeg needs a CUDA GPU, but the device is cpu; .* take pil$"):
        image_features(dataset, builtin, NVJPEG, Store(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="nvJPEG may be there")
def test_where_nvjpeg_is_lacking_it_says_so():
    with pytest.raises(InputError, match=r"^decoder nvjpeg does not work on cuda \(.+\); install .* take pil$"):
        check_nvjpeg(torch.device("cuda"))


def test_each_decoder_has_features_of_its_own(builtin, dataset, tmp_path, on_any_device):
    some, store = dataset.limit(2), Store(tmp_path)
    shards = [image_features(some, builtin, recipe, store, num_workers=0).shards for recipe in (PIL, NVJPEG)]
    # Written out, so that features from before there was a choice are found whatever becomes of the code.
    key = {
        "kind": "views",
        "version": 1,
        "encoder": builtin.fingerprint,
        "pictures": some.pictures_fingerprint,
        "recipe": {"count": 2, "crop_scale": [0.3, 0.9], "seed": 5},
        "shard_images": 256,
        "dtype": "float16",
    }
    assert shards[0].digest == digest_of(key)
    key["recipe"]["decoder"] = "nvjpeg"
    assert shards[1].digest == digest_of(key)
    assert image_features(some, builtin, NVJPEG, store).encoded == 0


def test_another_decoder_is_unknown():
    with pytest.raises(InputError, match="decoder 'dali' is unknown; take pil or nvjpeg"):
        ViewRecipe(60, (0.1, 0.9), 0, "dali")


def test_results_say_the_decoder(builtin, dataset, tmp_path, on_any_device):
    config, store = replace(load_config("folder"), views=2, sampled_views=2, runs=1), Store(tmp_path)
    options = {"store": store, "num_workers": 0}
    for decoder in ("pil", "nvjpeg", "nvjpeg"):
        done = evaluate(dataset, builtin, config, [METHODS["clip"]], decoder=decoder, **options)
        assert done.to_dict()["views"]["decoder"] == decoder
    assert (done.encoded, done.kept) == (0, 5), "the last found those of the one before"
    options["descriptions"] = [load_descriptions(dataset.root.with_name("texts.json"))]
    found = ablate(dataset, builtin, config, METHODS["wca"], axes=["views"], decoder="nvjpeg", **options)
    assert found.to_dict()["decoder"] == "nvjpeg"
    assert len(list(tmp_path.glob("views/*"))) == 3


# The command line


def test_the_command_says_that_there_is_no_gpu(dataset, tmp_path):
    command = ["features", "--dataset", "folder", "--data-path", dataset.root, "--encoder", "builtin", "--views", "2"]
    command += ["--device", "cpu", "--decoder", "nvjpeg", "--store", tmp_path]
    done = subprocess.run([SCRIPT, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    said = "decoder nvjpeg needs a CUDA GPU, but the device is cpu; name one with --device, or take pil"
    assert done.stderr == f"Error: {said}\n"
    assert not list(tmp_path.iterdir())


NO_GPU = "needs a CUDA GPU, but the device is cpu;"
NO_GPUS = "needs workers with a CUDA GPU; add --num-gpus-per-worker 1, or take pil"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate --device cpu --methods clip", NO_GPU),
        ("ablate --device cpu --descriptions texts.json", NO_GPU),
        ("features --executor ray", NO_GPUS),
        ("evaluate --methods clip --executor ray --num-gpus-per-worker 0", NO_GPUS),
        ("features --executor ray --num-gpus-per-worker 1 --device cpu", NO_GPU),
    ],
)
def test_every_command_says_so_before_long_work(dataset, monkeypatch, words, said):
    monkeypatch.chdir(dataset.root.parent)
    words += " --dataset folder --data-path pictures --encoder builtin --store new --decoder nvjpeg"
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: decoder nvjpeg {said}")
    assert not Path("new").exists()
