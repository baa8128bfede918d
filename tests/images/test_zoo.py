"""What becomes of hostile and broken picture files: through `classify`, the API and `evaluate`."""

import base64
import csv
import io
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from crossalign.errors import InputError
from crossalign.images.decoding import read_image
from crossalign.web.api import create_app
from crossalign.web.engine import Engine, Limits
from crossalign.web.label_sets import Defaults
from fuzzed import FOUND
from zoo import AVIF, LABEL, build, photo, saved, zoo

SCRIPT = Path(sys.executable).with_name("crossalign")
LABELS = ("cat", "rocket")
if os.name != "posix":
    pytest.skip("needs names that are no text, and special files, of POSIX", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
BYTES = [case for case in zoo() if isinstance(case.make, bytes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def built(folder):
    return build(folder)


def test_the_zoo_is_large(built):
    assert len(built) >= 60
    assert {case.verdict == LABEL for case in built.values()} == {True, False}


@pytest.mark.slow
def test_classify_gives_each_file_a_label_or_a_reason(built):
    # A folder that is named would be searched through; on the list that comes in it is one more picture.
    listed = [path for path, case in built.items() if case.kind == "folder named .jpg"]
    given = [path for path in built if path not in listed]
    command = [os.fsencode(SCRIPT), b"classify", b"-", *given, b"--labels", b"cat,rocket", b"--csv"]
    command += [b"--views", b"1", b"--top-k", b"1"]
    done = subprocess.run(command, input=b"\n".join(listed), capture_output=True, timeout=240)
    assert done.returncode == 1, done.stderr
    errors = os.fsdecode(done.stderr)
    assert "Traceback" not in errors
    assert "Warning" not in errors
    failing = sum(case.verdict != LABEL for case in built.values())
    assert f"{failing} of {len(built)} images could not be read" in errors
    rows = list(csv.DictReader(io.StringIO(os.fsdecode(done.stdout), newline="")))
    assert [os.fsencode(row["image"]) for row in rows] == [*listed, *given]
    for row, case in zip(rows, [built[path] for path in (*listed, *given)], strict=True):
        if case.verdict == LABEL:
            assert (row["label"] in LABELS, row["error"]) == (True, ""), case
        else:
            assert re.search(case.verdict, row["error"]), (case.kind, row["error"])
            assert row["label"] == ""
    upright = {(row["label"], row["score"]) for row in rows if built[os.fsencode(row["image"])].upright}
    assert len(upright) == 1, "a turned picture is seen otherwise than the upright one"


@pytest.mark.slow
def test_the_api_answers_every_file(builtin):
    engine = Engine(builtin, Limits(), Defaults(tuple(LABELS)))
    try:
        with TestClient(create_app(engine)) as client:
            for case in BYTES:
                response = client.post("/v1/classify", files=[("images", ("a.jpg", case.make))], data={"views": "1"})
                verdict = case.verdict if case.api is None else case.api
                if verdict == LABEL:
                    assert response.status_code == 200, (case.kind, response.text)
                    assert response.json()["results"][0]["predictions"][0]["label"] in LABELS
                else:
                    assert response.status_code == 422, (case.kind, response.text)
                    assert re.search(verdict, next(iter(response.json().values()))), (case.kind, response.text)
    finally:
        engine.close()


@pytest.mark.slow
def test_evaluate_refuses_a_tree_with_a_broken_picture(tmp_path):
    broken = next(case for case in BYTES if case.kind == "cut short")
    for label in LABELS:
        (tmp_path / "tree" / label).mkdir(parents=True)
        (tmp_path / "tree" / label / "good.png").write_bytes(saved(photo(), "PNG"))
    os.mkfifo(tmp_path / "tree" / "cat" / "fifo.jpg")
    (tmp_path / "tree" / "cat" / "dangling.jpg").symlink_to("gone")
    bad = tmp_path / "tree" / "cat" / os.fsdecode(broken.name)
    bad.write_bytes(broken.make)
    command = [
        SCRIPT,
        "evaluate",
        "--dataset",
        "folder",
        "--data-path",
        tmp_path / "tree",
        "--views",
        "1",
        "--methods",
        "clip",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert re.fullmatch(rf"Error: image '{re.escape(str(bad))}' {broken.verdict}", said)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("case", [case for case in BYTES if case.upright], ids=lambda case: os.fsdecode(case.name))
def test_it_is_the_upright_picture(case):
    assert (read_image(io.BytesIO(case.make)).permute(1, 2, 0).numpy() == np.asarray(photo())).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_jpegs_are_turned_too(turn):
    (case,) = [case for case in BYTES if case.name == b"turn%d.jpg" % turn]
    seen = read_image(io.BytesIO(case.make)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(seen - np.asarray(photo())).mean() < 6


def test_inks_are_the_colours_that_they_print():
    for name in (b"cmyk.jpg", b"ycck.jpg", b"cmyk.tif", b"lab.tif"):
        (case,) = [case for case in BYTES if case.name == name]
        seen = read_image(io.BytesIO(case.make)).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(seen - np.asarray(photo())).mean() < 4, name


def test_what_is_no_number_in_a_float_picture_changes_nothing_else():
    grey = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    holes = grey.copy()
    holes[0, :3] = np.nan, -np.inf, np.inf
    seen = read_image(io.BytesIO(saved(Image.fromarray(holes), "TIFF")))[0].numpy().astype(int)
    assert seen[0, :3].tolist() == [0, 0, 255]
    rest = np.ones_like(grey, bool)
    rest[0, :3] = False
    np.testing.assert_array_equal(seen[rest], np.round(grey * 255).astype(int)[rest])


def harmless(content):
    """Read it, or refuse it in one sentence."""
    image, said = None, ""
    try:
        image = read_image(io.BytesIO(content), max_pixels=1_000_000)
    except InputError as error:
        said = str(error)
    if image is None:
        assert re.fullmatch(r"the image .+; .+", said), said
    else:
        assert (image.dtype, len(image), image.numel() > 0) == (torch.uint8, 3, True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", *(["AVIF"] if AVIF else [])])
def test_no_wrong_byte_does_harm(kind):
    content = saved(photo().resize((9, 6)), kind, quality=10)
    for place in range(len(content)):
        for wrong in (content[place] ^ 0x55, content[place] ^ 0x80):
            harmless(content[:place] + bytes([wrong]) + content[place + 1 :])


@pytest.mark.parametrize("kind", FOUND)
def test_what_fuzzing_found_is_mended(kind):
    harmless(zlib.decompress(base64.b85decode(FOUND[kind])))
