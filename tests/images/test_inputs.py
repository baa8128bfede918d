"""Whatever a user hands over as an image is the image of the file, or one sentence that says what to give."""

import io
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import PHOTOS
from crossalign import Classifier
from crossalign.errors import InputError
from crossalign.images.decoding import read_image

FILE = PHOTOS / "chelsea.png"
CONTENT = FILE.read_bytes()
PIXELS = np.asarray(Image.open(FILE).convert("RGB"))


class NoSeek(io.RawIOBase):
    """A pipe or a socket."""

    def __init__(self):
        self._inside = io.BytesIO(CONTENT)

    def readable(self):
        return True

    def read(self, size=-1):
        return self._inside.read(size)


class PathLike:
    def __fspath__(self):
        return str(FILE)


def spooled():
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(CONTENT)
    return file


SAME = {
    "path": FILE,
    "text": str(FILE),
    "path-like": PathLike(),
    "bytes": CONTENT,
    "bytearray": bytearray(CONTENT),
    "memoryview": memoryview(CONTENT),
    "BytesIO": io.BytesIO(CONTENT),
    "pipe": NoSeek(),
    "spooled file": spooled(),
    "PIL": Image.fromarray(PIXELS),
    "uint8": PIXELS,
    "float32": PIXELS.astype(np.float32) / 255,
    "float16": (PIXELS / 255).astype(np.float16),
    "uint16": PIXELS.astype(np.uint16) * 257,
    "tensor": torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
    "float tensor": torch.from_numpy(PIXELS / 255).permute(2, 0, 1),
    "undecoded row": {"bytes": CONTENT, "path": None},
    "row": {"image": Image.fromarray(PIXELS), "label": 3},
    "row of a row": {"label": 3, "img": {"bytes": CONTENT, "path": "a.png"}},
    "webdataset row": {"__key__": "1", "png": CONTENT, "cls": 1},
}


@pytest.mark.parametrize("kind", SAME)
def test_each_kind_is_the_image_of_the_file(kind):
    seen = read_image(SAME[kind]).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(seen - PIXELS).max() <= (kind == "float16")


FLOATS = PIXELS[:20, :30].astype(np.float32)
WRONG = {
    "floats to 255": (
        FLOATS,
        r"an array of floats from \d+ to \d+ is no image; .* \(divide it by 255\)",
    ),
    "standardised": ((FLOATS / 255 - 0.45) / 0.22, r"floats from -[\d.]+ to [\d.]+ is no image; .*undo its normalisation"),
    "not a number": (
        np.full((4, 4, 3), np.nan),
        "values that are no numbers is no image; replace NaN and",
    ),
    "channels first": (
        PIXELS.transpose(2, 0, 1),
        r"an array of shape \(3, 300, 451\) .*; move its channels to",
    ),
    "batch": (PIXELS[None].repeat(2, 0), r"shape \(2, 300, 451, 3\) is no image; .*for 2 images give a list of them"),
    "channels last": (torch.zeros(8, 9, 3), r"a tensor of shape \(8, 9, 3\) is no image; give \(3, H, W\), channels first"),
    "batch of tensors": (torch.zeros(2, 3, 8, 9), "for 2 images give a list of them"),
    "one channel": (np.zeros((8, 9, 1), np.uint8), "drop the axis of length 1"),
    "int32": (PIXELS.astype(np.int32), "an array of int32 is no image; give uint8, uint16 or floats"),
    "tensor of ints": (torch.zeros(3, 8, 9, dtype=torch.int64), "an array of int64 is no image"),
    "tensor to 255": (torch.full((3, 8, 9), 200.0), "divide it by 255"),
    "names": (np.array(["a.jpg", "b.jpg"]), "is no image"),
    "none": (None, r"^None is no image \(NoneType\); give a path, bytes"),
    "number": (7, r"^7 is no image \(int\)"),
    "text file": (io.StringIO("abc"), "the image is a file opened as text; open it with mode 'rb'"),
    "row without bytes": ({"bytes": None, "path": "a.png"}, "holds no bytes; its path 'a.png' is not opened"),
    "row without image": ({"text": "a", "label": 1}, "a row with the fields text, label has no field that is called image"),
    "row with two": ({"image": 1, "jpg": 2}, "several fields that may be the image"),
    "data URL": ("data:image/png;base64," + "iVBORw0KGgo" * 999, "is a data URL, not a path; decode it and give its bytes"),
    "URL": ("https://example.org/cat.jpg", "is a URL, not a path; download it"),
    "base64": ("iVBORw0KGgo" * 999, r"image 'iVB\w{197}\.\.\.' does not exist"),
    "empty bytes": (b"", "the image cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_rest_is_refused_in_a_sentence(kind):
    given, words = WRONG[kind]
    with pytest.raises(InputError, match=words):
        read_image(given)


@pytest.mark.slow
def test_a_classifier_gives_one_result_or_reason_for_each(builtin):
    classify = Classifier(["cat", "dog", "a blank white page"], encoder=builtin, views=2)
    (expected,) = classify(str(FILE))
    for kind in ("bytes", "BytesIO", "PIL", "uint8", "tensor", "float32", "undecoded row", "row"):
        for given in (SAME[kind], [SAME[kind]]):
            (found,) = classify(given)
            assert (found.label, found.error) == (expected.label, None), kind
    for given, words in WRONG.values():
        (found,) = classify(given)
        assert found.error, words
    results = classify([FILE, (FILE, 3), [FILE]])
    assert [result.label for result in results] == ["cat", None, None]
    assert results[1].error.startswith("a tuple of 2 is given in the place of one image; give a path")
    assert classify([]) == []


def test_a_float_that_only_rounds_out_of_range_is_taken():
    assert read_image(np.array([[1.0 + 1e-7, -1e-9]]))[0].tolist() == [[255, 0]]


GREY = np.asarray(Image.open(FILE).convert("L").resize((60, 40)))


def png_with_sbit(values, bits):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    chunk = b"sBIT" + bytes([bits])
    content = file.getvalue()
    return content[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array"])
def test_sixteen_bits_of_few_levels_are_no_night(bits, kind):
    levels = (GREY.astype(float) * ((2**bits - 1) / 255)).round().astype(np.uint16)
    given = levels
    if kind != "array":
        given = io.BytesIO()
        Image.fromarray(levels).save(given, kind)
    with pytest.warns(UserWarning, match=f"no value above {2**bits - 1} and is read as {bits} bits; convert such images"):
        seen = read_image(given)[0].numpy().astype(int)
    assert np.abs(seen - GREY).max() <= 1


def test_a_file_that_states_its_bits_is_believed():
    dark = (GREY.astype(float) * (1000 / 255)).round().astype(np.uint16)
    seen = read_image(png_with_sbit(dark, 12))[0].numpy().astype(int)
    assert np.abs(seen - np.round(dark / 4095 * 255)).max() <= 1
    # The PNG specification has such values scaled up to 16 bits; then there is nothing to do.
    full = GREY.astype(np.uint16) * 257
    assert np.abs(read_image(png_with_sbit(full, 12))[0].numpy().astype(int) - GREY).max() <= 1
    tiff = io.BytesIO()
    Image.fromarray(dark).save(tiff, "TIFF", tiffinfo={281: 4095})
    assert np.abs(read_image(tiff)[0].numpy().astype(int) - np.round(dark / 4095 * 255)).max() <= 1


def test_dark_colours_of_sixteen_bits_are_warned_of():
    # Twelve bits in sixteen, of three channels: a PNG that PIL cannot write.
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for white, dark in ((4095, True), (65535, False)):
        lines = [b"\0" + np.full((4, 3), white * 3 // 4, ">u2").tobytes() for _ in range(4)]
        header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        content += chunk(b"IEND", b"")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            seen = read_image(content)
        assert [bool(warned), int(seen.max())] == [dark, 11 if dark else 191]


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 1.5], [0.0, 70000.0]])
def test_grey_without_a_range_is_refused(values):
    with pytest.raises(InputError, match=r"from -?\d+ to [\de.+]+, which is no range of grey.; save it with 8 or 16 bits"):
        read_image(Image.fromarray(np.array([values], np.float32)))


def jpeg(size, **options):
    file = io.BytesIO()
    Image.new("L", size, 90).save(file, "JPEG", **options)
    return file


def test_a_jpeg_above_the_limit_is_decoded_smaller_and_other_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    # 40,000 pixels are more than PIL itself would open.
    assert read_image(jpeg((200, 200))).shape == (3, 100, 100)
    assert read_image(jpeg((200, 200)), max_pixels=6_000).shape == (3, 50, 50)
    assert read_image(jpeg((100, 100))).shape == (3, 100, 100)
    with pytest.raises(InputError, match=r"40000 pixels, but 10000 are the limit\); shrink it"):
        read_image(jpeg((200, 200), progressive=True))
    for shortest in (None, 10):
        with pytest.raises(InputError, match=r"90000 pixels, but 10000 are the limit\); shrink it"):
            read_image(jpeg((300, 300)), shortest=shortest)
        with pytest.raises(InputError, match=r"40000 pixels, but 10000 are the limit\); shrink it"):
            read_image(jpeg((200, 200), progressive=True), shortest=shortest)
    Image.new("L", (110, 110)).save(tmp_path / "a.png")
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(InputError, match=r"12100 pixels, but 10000 are the limit\); shrink it"),
    ):
        read_image(tmp_path / "a.png")


@pytest.mark.slow
def test_telephone_photos_are_labelled(builtin):
    classify = Classifier(["cat", "dog"], encoder=builtin, views=2)
    for size, seen in (((12000, 9000), (3, 4500, 6000)), ((20000, 4600), (3, 2300, 10000))):
        content = jpeg(size).getvalue()
        assert read_image(content).shape == seen
        (found,) = classify(content)
        assert found.label


def test_a_path_stays_the_name_of_a_result(builtin):
    classify = Classifier(["cat", "dog"], encoder=builtin, views=1)
    assert [found.image for found in classify([FILE, str(FILE), CONTENT])] == [str(Path(FILE)), str(FILE), None]
