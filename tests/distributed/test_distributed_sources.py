"""Where the images of a cluster are, and where its labels go; no cluster is needed for that."""

import ast
import io
import json
import tarfile
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet as parquet
import pytest
from moto.server import ThreadedMotoServer

import crossalign.distributed
from conftest import PHOTOS
from crossalign.classifier import Classifier
from crossalign.distributed._sources import find_files, place, units_of
from crossalign.distributed.labels import PartFolder, _Label
from crossalign.errors import InputError
from crossalign.images.decoding import Fetched, read_image

NAMES = ("chelsea.png", "coffee.png", "rocket.jpg")


def everything(number):
    return True


@pytest.fixture
def photos(tmp_path):
    """Three photos in a folder with a subfolder, and something else."""
    folder = tmp_path / "photos with blanks"
    (folder / "more").mkdir(parents=True)
    for name, inside in zip(NAMES, ("", "", "more"), strict=True):
        (folder / inside / name).write_bytes((PHOTOS / name).read_bytes())
    (folder / "notes.txt").write_text("no image")
    return folder


def same(image, name):
    return (read_image(image) == read_image(PHOTOS / name)).all()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_is_searched(photos, scheme):
    found = find_files([f"{scheme}{photos}"])
    assert found == [f"{scheme}{photos}/{name}" for name in (*NAMES[:2], f"more/{NAMES[2]}")]
    assert [unit.addresses for unit in units_of(found, 2)] == [tuple(found[:2]), tuple(found[2:])]
    for unit in units_of(found, 2):
        for image, address in zip(unit.images(everything), unit.addresses, strict=True):
            assert same(image, address.rpartition("/")[2])
            assert str(image) == address


def test_any_file_system_of_fsspec_is_read():
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/an image.jpg", (PHOTOS / "rocket.jpg").read_bytes())
    (address,) = find_files(["memory://bucket"])
    assert address == "memory:///bucket/an image.jpg"
    ((image,),) = (list(unit.images(everything)) for unit in units_of([address], 5))
    assert same(image, "rocket.jpg")


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server on this machine, and the parameters that lead there."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    server.stop()


def test_object_stores_are_read_and_written(bucket):
    files, path = place(f"s3://photos/some/{bucket}")
    files.create_dir("photos")
    for name in NAMES:
        with files.open_output_stream(f"{path}{name}") as stream:
            stream.write((PHOTOS / name).read_bytes())
    found = find_files([f"s3://photos/some{bucket}"])
    (unit,) = units_of(found, 64)
    images = list(unit.images(everything))
    assert [str(image) for image in images] == [f"s3://photos/some/{name}" for name in NAMES]
    assert all(same(image, name) for image, name in zip(images, NAMES, strict=True))
    assert find_files([found[0]]) == found[:1]
    folder = PartFolder(f"s3://photos/labels.parquet{bucket}")
    folder.open({"version": 1})
    with pytest.raises(InputError, match="was started with another version"):
        folder.open({"version": 2})
    folder.write("part-000000-00001.parquet", b"x")
    assert folder.parts() == {0: {1}}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_read_in_its_order(tmp_path, mode):
    path = tmp_path / ("images.tar" if mode == "w" else "images.tar.gz")
    with tarfile.open(path, mode) as tar:
        for name in NAMES:
            tar.add(PHOTOS / name, f"inside/{name}")
            tar.addfile(tarfile.TarInfo(f"inside/{name}.json"), io.BytesIO())
    (unit,) = units_of(find_files([str(path)]), 64)
    assert unit.packed
    images = list(unit.images(everything))
    assert [str(image) for image in images] == [f"{path}/inside/{name}" for name in NAMES]
    assert all(same(image, name) for image, name in zip(images, NAMES, strict=True))
    some = list(unit.images(lambda number: number == 1))
    assert some[::2] == [None, None]
    assert same(some[1], NAMES[1])


@pytest.mark.parametrize("struct", [False, True])
def test_a_table_is_read_row_by_row(tmp_path, struct):
    contents = [(PHOTOS / name).read_bytes() for name in NAMES]
    cells = [{"bytes": c, "path": n} for c, n in zip(contents, NAMES, strict=True)] if struct else contents
    parquet.write_table(pyarrow.table({"label": [0, 1, 2], "image": cells}), tmp_path / "a.parquet")
    (unit,) = units_of(find_files([str(tmp_path)]), 64)
    images = list(unit.images(everything))
    named = [f"{tmp_path}/a.parquet#{row}" + (f" {name}" if struct else "") for row, name in enumerate(NAMES)]
    assert [str(image) for image in images] == named
    assert all(same(image, name) for image, name in zip(images, NAMES, strict=True))
    assert list(unit.images(lambda number: False)) == [None] * 3


def test_what_is_not_there_is_an_error_of_its_own(photos, builtin):
    (unit,) = units_of([f"file://{photos}/chelsea.png", f"file://{photos}/none.jpg"], 2)
    classify = Classifier(["cat", "dog"], encoder=builtin, method="clip")
    found = list(classify.stream(unit.images(everything)))
    assert found[0].label == "cat"
    assert found[0].image == f"file://{photos}/chelsea.png"
    assert found[1].error == f"image 'file://{photos}/none.jpg' does not exist; check the path"


def test_a_store_that_fails_stops_the_run(builtin):
    def fetch():
        raise OSError("connection reset")

    with pytest.raises(OSError, match="connection reset"):
        list(Classifier(["cat", "dog"], encoder=builtin, method="clip").stream([Fetched("s3://bucket/a.jpg", fetch)]))


def cut_short(folder):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in NAMES:
            tar.add(PHOTOS / name)
    whole = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("make", "before", "message"),
    [
        (lambda folder: (folder / "a.tar").write_bytes(b"no tar at all"), 0, "tar .*a.tar' cannot be read"),
        (cut_short, 1, "tar .*a.tar' cannot be read"),
        (lambda folder: (folder / "a.parquet").write_bytes(b"no table at all"), 0, "table .*a.parquet' cannot be read"),
        (
            lambda folder: parquet.write_table(pyarrow.table({"label": [1], "name": ["a"]}), folder / "a.parquet"),
            0,
            "no column holds bytes of images, among the columns label, name; rename the",
        ),
    ],
)
def test_broken_packs_end_with_a_reason(tmp_path, make, before, message):
    make(tmp_path)
    (unit,) = units_of(find_files([str(tmp_path)]), 64)
    *whole, broken = unit.images(everything)
    assert len(whole) == before
    assert all(same(image, str(image).rpartition("/")[2]) for image in whole)
    with pytest.raises(InputError, match=message):
        read_image(broken)


def test_a_pack_that_was_removed_is_a_reason_too(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(PHOTOS / "rocket.jpg")
    (unit,) = units_of(find_files([str(tmp_path)]), 64)
    (tmp_path / "a.tar").unlink()
    (broken,) = unit.images(everything)
    with pytest.raises(InputError, match=r"a\.tar' cannot be read"):
        read_image(broken)


def test_wrong_addresses_say_so(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty' holds nothing to label"):
        find_files([str(tmp_path / "empty")])
    with pytest.raises(InputError, match=r"'nothing://a/b' cannot be reached \(.*nothing"):
        find_files(["nothing://a/b"])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(PHOTOS / "rocket.jpg")
    with pytest.raises(InputError, match=r"chelsea.png' is an image, but .*a.tar' holds several"):
        find_files([str(photos), str(tmp_path / "a.tar")])


@pytest.mark.parametrize("scheme", ["", "file://", "memory:/"])
def test_a_folder_of_parts_is_begun_once(tmp_path, scheme):
    folder = PartFolder(f"{scheme}{tmp_path}/labels of mine")
    folder.open({"version": 1, "top-k": 3})
    folder.open({"version": 1, "top-k": 3})
    with pytest.raises(InputError, match="was started with another top-k"):
        folder.open({"version": 1, "top-k": 5})
    folder.write("part-000003-00001.parquet", b"x")
    folder.write("part-000003-00000.parquet", b"x")
    folder.write("_done-000007", b"")
    assert folder.parts() == {3: {0, 1}}
    assert folder.done() == {7}
    files, path = place(folder.address)
    assert json.loads(files.open_input_stream(f"{path}/_crossalign.json").read()) == {"version": 1, "top-k": 3}


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="has other files in it; choose a new folder"):
        PartFolder(str(tmp_path)).open({"version": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_tar_that_was_labelled_in_part_goes_on(tmp_path, builtin, monkeypatch):
    monkeypatch.setattr("crossalign.distributed.labels.MAX_IMAGES", 2)
    names = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "chelsea.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, name in enumerate(names):
            tar.add(PHOTOS / name, f"{number} {name}")
    (unit,) = units_of(find_files([str(tmp_path / "a.tar")]), 64)
    classify = Classifier(["cat", "cup of coffee", "rocket"], encoder=builtin, method="clip")
    folder = PartFolder(str(tmp_path / "labels"))
    label = _Label(lambda: classify, folder, top_k=1)
    assert label({"task": unit}) == {"files": 1, "error": ""}
    files = {file.name: file for file in (tmp_path / "labels").iterdir()}
    assert sorted(files) == ["_done-000000", *(f"part-000000-{part:05d}.parquet" for part in range(3))]
    found = parquet.read_table(tmp_path / "labels").to_pydict()
    assert found["image"] == [f"{tmp_path}/a.tar/{number} {name}" for number, name in enumerate(names)]
    here = classify([PHOTOS / name for name in names], top_k=1)
    assert [(result.label, result.predictions[0].score) for result in here] == list(
        zip(found["label"], found["score"], strict=True)
    )
    before = {name: file.read_bytes() for name, file in files.items()}
    first = files["part-000000-00000.parquet"].stat().st_mtime_ns
    files["_done-000000"].unlink()
    files["part-000000-00001.parquet"].unlink()
    label({"task": unit})
    assert {name: file.read_bytes() for name, file in files.items()} == before
    assert files["part-000000-00000.parquet"].stat().st_mtime_ns == first
    assert folder.count() == (5, 0)


def struct(*contents, path=None):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.array([None if content is None else {"bytes": content, "path": path} for content in contents], kind)


def in_table(folder, **columns):
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    (unit,) = units_of(find_files([str(folder)]), 64)
    return list(unit.images(everything))


def reason_of(image):
    with pytest.raises(InputError) as caught:
        read_image(image)
    return str(caught.value)


CAT = (PHOTOS / "chelsea.png").read_bytes()
OTHER = b"0123456789abcdef"


@pytest.mark.parametrize("name", ["image", "Image", "img", "jpg", "png", "picture"])
def test_the_column_that_is_called_so_holds_the_images(tmp_path, name):
    (image,) = in_table(tmp_path, annotation=struct(b"no image", path="a_mask.png"), md5=[OTHER], **{name: struct(CAT)})
    assert same(image, "chelsea.png")


def test_a_column_of_another_name_is_known_by_its_content(tmp_path):
    (image,) = in_table(tmp_path, md5=[OTHER], content=[CAT])
    assert same(image, "chelsea.png")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [CAT], "jpg": [CAT]}, "image, jpg may each hold the images, among the columns image, jpg"),
        ({"left": [CAT], "right": [CAT]}, "left, right may each hold the images"),
        ({"md5": [OTHER], "label": [1]}, "no column holds bytes of images, among the columns md5, label; rename the column"),
    ],
)
def test_a_table_without_one_column_of_images_names_its_columns(tmp_path, columns, words):
    (broken,) = in_table(tmp_path, **columns)
    assert words in reason_of(broken)


def test_a_row_without_bytes_says_so_and_its_path_is_not_opened(tmp_path):
    here = str(PHOTOS / "coffee.png")
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    cells = [{"bytes": CAT, "path": None}, {"bytes": None, "path": here}, None, {"bytes": b"no image", "path": "b.png"}]
    good, without, null, other = in_table(tmp_path, image=pyarrow.array(cells, kind))
    assert same(good, "chelsea.png")
    assert f"a.parquet#1' holds no bytes of an image; its path {here!r} is not opened; add them" in reason_of(without)
    assert reason_of(null).endswith("a.parquet#2' holds no bytes of an image; add them or leave it out")
    assert "a.parquet#3 b.png' cannot be read (its content is no image)" in reason_of(other)


def test_a_tar_gives_the_users_images_alone(tmp_path):
    members = {
        "000.jpg": JPEG_OF_TAR,
        "000.seg.png": CAT,
        "000.json": b"{}",
        "001.JFIF": JPEG_OF_TAR,
        "./002.jpeg": JPEG_OF_TAR,
        "._003.jpg": b"\x00\x05\x16\x07",
        "PaxHeader/003.jpg": b"30 mtime=1",
        "__MACOSX/a.jpg": JPEG_OF_TAR,
        "003.jpg": JPEG_OF_TAR[:900],
        "004": JPEG_OF_TAR,
        "005.bin": b"no image",
        "IMG.2024.01.png": CAT,
    }
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    (unit,) = units_of(find_files([str(tmp_path)]), 64)
    found = list(unit.images(everything))
    names = [str(image).removeprefix(f"{tmp_path}/a.tar/") for image in found]
    assert names == ["000.jpg", "001.JFIF", "./002.jpeg", "003.jpg", "004", "IMG.2024.01.png"]
    assert "cannot be read" in reason_of(found[3])
    # What is labelled already keeps its number.
    rest = list(unit.images(lambda number: number > 3))
    assert [image and str(image) for image in rest] == [None] * 4 + [str(image) for image in found[4:]]


JPEG_OF_TAR = (PHOTOS / "rocket.jpg").read_bytes()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_gives_the_users_images_alone(tmp_path, scheme):
    for name in ("a.jpg", "b.jfif", "._a.jpg", ".thumbnails/x.png", "@eaDir/a.jpg/SYNO.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG_OF_TAR)
    with pytest.warns(UserWarning, match=r"passed over: 3 left by archives or systems, 1 not images \(1 .txt\)"):
        found = find_files([f"{scheme}{tmp_path}"])
    assert [name.rpartition("/")[2] for name in found] == ["a.jpg", "b.jfif"]


def test_only_public_names_of_ray_are_used():
    """Ray may change private names in any version."""
    private = []
    for file in sorted(Path(crossalign.distributed.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
                private += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                private.append(ast.unparse(node))
    private = [name for name in private if name.startswith(("ray.", "serve.")) and "._" in name]
    assert private == []
