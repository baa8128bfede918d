"""What in a folder is a user's image: one rule for classify, datasets and clusters."""

import io
import shutil
import tarfile

import pytest
from click.testing import CliRunner
from PIL import Image, features

from conftest import PHOTOS
from crossalign.cli import main
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.images.finding import PassedOver, images_in, looks_like_image
from systems import needs_permissions

JPEG, PNG = (PHOTOS / "rocket.jpg").read_bytes(), (PHOTOS / "chelsea.png").read_bytes()
LEFT = (
    *("._IMG_1.JPG", ".DS_Store", ".thumbnails/normal.png", ".Trashes/501/old.jpg", "@eaDir/IMG_1.JPG/SYNO_THUMB_M.jpg"),
    *("Thumbs.db", "desktop.ini", "__MACOSX/trip/._IMG_2.jpg", "PaxHeaders.123/IMG_1.JPG", "$RECYCLE.BIN/x.jpg", ".x/y.jpg"),
)


def put(root, *names, content=JPEG):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def found(root, passed=None):
    passed = PassedOver() if passed is None else passed
    return [str(path.relative_to(root)) for path in images_in(root, passed)]


def test_leftovers_and_hidden_files_are_passed_over_and_counted(tmp_path):
    put(tmp_path, "IMG_1.JPG", "trip/IMG_2.jpg", *LEFT)
    passed = PassedOver()
    assert found(tmp_path, passed) == ["IMG_1.JPG", "trip/IMG_2.jpg"]
    assert str(passed) == "passed over: 2 hidden, 9 left by archives or systems"


def test_a_hidden_folder_or_file_that_is_named_is_read(tmp_path):
    put(tmp_path, ".album/a.jpg", ".b.jpg")
    assert found(tmp_path / ".album") == ["a.jpg"]
    result = CliRunner().invoke(main, ["classify", str(tmp_path / ".b.jpg"), "--labels", "cat,rocket", "--method", "clip"])
    assert (result.exit_code, "rocket" in result.output) == (0, True)


def test_a_suffix_of_no_format_leaves_it_to_the_content(tmp_path):
    names = ["a.jfif", "b.jpe", "c.JFIF", "d.jpg_large", "e.jpeg~orig", "noending", "f.JPEG"]
    put(tmp_path, *names)
    put(tmp_path, "g.apng", "h.img", content=PNG)
    put(tmp_path, "i.dat", "notes", content=b"no image at all")
    put(tmp_path, "j.txt", "k.zip")  # not opened
    passed = PassedOver()
    assert found(tmp_path, passed) == sorted([*names, "g.apng", "h.img"])
    assert sorted(passed.others) == ["i.dat", "j.txt", "k.zip", "notes"]
    assert str(passed).startswith("passed over: 4 not images (1 ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM", "AVIF"])
def test_formats_are_known_by_their_first_bytes(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this PIL writes no AVIF")
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind)
    assert looks_like_image(file.getvalue()[:16])
    assert not looks_like_image(b"<html>" + file.getvalue()[:10])


def test_linked_folders_are_searched_and_loops_end(tmp_path):
    put(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nothing")
    passed = PassedOver()
    assert found(tmp_path / "photos", passed) == ["a.jpg", "linked/b.jpg"]
    assert passed.others == ["gone.jpg"]


@needs_permissions
def test_a_locked_folder_is_named(tmp_path):
    put(tmp_path, "in/a.jpg")
    (tmp_path / "in").chmod(0)
    try:
        with pytest.raises(InputError, match=r"in' cannot be read \(Permission denied"):
            found(tmp_path)
    finally:
        (tmp_path / "in").chmod(0o755)


def test_a_dataset_measures_the_users_images_and_says_the_rest(tmp_path):
    put(tmp_path, "cat/a.jfif", "dog/b.jpg", "cat/._a.jpg", "__MACOSX/cat/._a.jpg", "dog/boxes.txt", "readme.md")
    dataset = load_dataset(load_config("folder"), tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [path.name for path in dataset.paths] == ["a.jfif", "b.jpg"]
    assert dataset.passed_over == "passed over: 2 left by archives or systems, 2 not images (1 .md, 1 .txt)"


def test_an_empty_class_folder_says_what_it_holds(tmp_path):
    put(tmp_path, "cat/a.jpg", "dog/b.txt", "dog/c.pdf")
    with pytest.raises(InputError, match=r"dog' holds no images \(its files are no images: (b.txt, c.pdf|c.pdf, b.txt)\)"):
        load_dataset(load_config("folder"), tmp_path)


def classify(*paths):
    result = CliRunner().invoke(main, ["classify", *map(str, paths), "--labels", "cat,rocket", "--method", "clip", "--csv"])
    return result, [line.split(",")[0] for line in result.stdout.splitlines()[1::2]]


def test_classify_says_what_it_passes_over(tmp_path):
    put(tmp_path, "a.jpg", "trip/b.jfif", "trip/notes.txt", *LEFT)
    result, names = classify(tmp_path)
    assert result.exit_code == 0
    assert names == [str(tmp_path / "a.jpg"), str(tmp_path / "trip" / "b.jfif")]
    assert "passed over: 2 hidden, 9 left by archives or systems, 1 not images (1 .txt)" in result.stderr


@pytest.mark.slow
def test_patterns_pass_over_leftovers_and_search_folders(tmp_path):
    put(tmp_path, "a.jpg", "trip/b.jpg", "__MACOSX/._a.jpg", "Thumbs.db")
    for pattern in ("*", "**"):
        result, names = classify(tmp_path / pattern)
        assert (result.exit_code, names) == (0, [str(tmp_path / "a.jpg"), str(tmp_path / "trip" / "b.jpg")]), pattern


def test_a_folder_of_tars_points_to_ray(tmp_path):
    put(tmp_path, "x.jpg")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        tar.add(tmp_path / "x.jpg", "x.jpg")
    result, _ = classify(tmp_path / "tars")
    assert result.exit_code == 2
    assert (
        "holds no images; passed over: 1 not images (1 .tar); tars and Parquet tables are read with --executor ray"
        in result.stderr
    )
    result, _ = classify(tmp_path / "tars" / "a.tar")
    assert result.exit_code == 2
    assert (
        "a.tar' is a tar or table of images, which --executor ray reads; add that and --output FOLDER.parquet"
        in result.stderr
    )
    shutil.copy(tmp_path / "x.jpg", tmp_path / "tars")
    result, names = classify(tmp_path / "tars")
    assert (result.exit_code, len(names)) == (0, 1)
    assert "passed over: 1 not images (1 .tar)" in result.stderr
