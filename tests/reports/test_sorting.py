"""`classify --sort-into`: hard links or copies by label; nothing is moved or overwritten."""

import errno
import os

import pytest

from command import fails, run
from conftest import PHOTOS
from crossalign.classifier import Classification
from crossalign.classifier.scorer import Prediction
from crossalign.errors import InputError
from crossalign.reports.sorting import SortedFolders, folder_name


def result(image, label=None, reason=None):
    predictions = (Prediction(label or "cat", 0.3, 0.9),)
    return Classification(str(image), label, reason, predictions, views=1)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    files = {"a.jpg": b"first", "b.jpg": b"second", "deeper/a.jpg": b"third"}
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copy", [False, True])
def test_images_go_to_the_folders_of_their_labels(photos, tmp_path, copy):
    before = contents(photos)
    for new in (3, 0):
        folders = SortedFolders(tmp_path / "out", ["cat", "AC/DC"], copy)
        folders.place(result(photos / "a.jpg", "cat"))
        folders.place(result(photos / "deeper" / "a.jpg", "cat"))
        folders.place(result(photos / "b.jpg", None, "unsure"))
        folders.place(Classification("gone.jpg", None, None, (), "cannot be read"))
        assert folders.new == new
    assert contents(tmp_path / "out") == {"cat/a.jpg": b"first", "cat/a (2).jpg": b"third", "unsure/b.jpg": b"second"}
    assert contents(photos) == before
    assert os.path.samefile(photos / "a.jpg", tmp_path / "out" / "cat" / "a.jpg") != copy
    assert str(folders).endswith("(cat 2, unsure 1); 3 were there before")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_links_takes_copies(photos, tmp_path, monkeypatch, number):
    def refuse(source, target):
        raise OSError(number, "no links")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InputError, match=r"cannot be linked into .*out/cat' \(no links\); copy the images instead"):
        SortedFolders(tmp_path / "out", ["cat"]).place(result(photos / "a.jpg", "cat"))
    SortedFolders(tmp_path / "out", ["cat"], True).place(result(photos / "a.jpg", "cat"))
    assert contents(tmp_path / "out") == {"cat/a.jpg": b"first"}


def test_a_file_that_is_there_is_never_replaced(photos, tmp_path):
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "a.jpg").write_bytes(b"mine")
    SortedFolders(tmp_path / "out", ["cat"], True).place(result(photos / "a.jpg", "cat"))
    assert contents(tmp_path / "out") == {"cat/a.jpg": b"mine", "cat/a (2).jpg": b"first"}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("AC/DC", "AC_DC"),
        ("..", "_"),
        (".hidden", "_.hidden"),
        ("a: b?", "a_ b_"),
        ("end. ", "end"),
        ("dot .", "dot"),
        ("Con", "_Con"),
        ("nul.txt", "_nul.txt"),
        ("console", "console"),
    ],
)
def test_labels_become_names_of_folders(label, name):
    assert folder_name(label) == name


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (["a/b", "a_b"], "'a/b' and 'a_b' would have the same folder 'a_b'"),
        (["unsure", "cat"], "'unsure' is also the folder"),
    ],
)
def test_labels_that_would_share_a_folder_are_refused(tmp_path, labels, match):
    with pytest.raises(InputError, match=match):
        SortedFolders(tmp_path, labels)


def test_a_folder_on_another_file_system_says_copy(photos, tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match=r"cannot be linked into '.+cat' \(Invalid cross-device link\); copy the images"):
        SortedFolders(tmp_path / "out", ["cat"]).place(result(photos / "a.jpg", "cat"))


@pytest.mark.slow
def test_the_command_sorts_and_goes_on(tmp_path):
    words = ("classify", PHOTOS / "chelsea.png", PHOTOS / "coffee.png", "--labels", "cat,cup of coffee")
    words = (*words, "--method", "clip", "--runtime", "torch", "--sort-into", tmp_path / "out", "--copy")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path / "out")) == ["cat/chelsea.png", "cup of coffee/coffee.png"]
    assert "2 images copied into" in done.stderr
    assert "0 images copied into" in run(*words).stderr


def test_wrong_use_is_refused_before_the_work(tmp_path):
    words = ("classify", str(tmp_path), "--labels", "cat,dog")
    assert "inside" in fails(*words, "--sort-into", str(tmp_path / "out"))
    assert "--copy belongs to --sort-into" in fails(*words, "--copy")
    (tmp_path / "file").write_text("")
    assert "is a file" in fails(
        "classify", str(PHOTOS / "coffee.png"), "--labels", "cat,dog", "--sort-into", str(tmp_path / "file")
    )
