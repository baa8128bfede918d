"""What class folders are called in prompts."""

import pytest

from conftest import PHOTOS
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError

JPEG = (PHOTOS / "rocket.jpg").read_bytes()


def tree(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "a.jpg").write_bytes(JPEG)
    return root


def names(root, config="folder", *, listed=None):
    return load_dataset(load_config(config, listed), root).class_names


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"], ["Black footed Albatross", "Laysan Albatross"]),
        (["001.ak47", "003.backpack", "257.clutter"], ["ak47", "backpack", "clutter"]),
        (["01-cat", "02-dog"], ["cat", "dog"]),
        (["0_cat", "1_dog", "2_fox"], ["cat", "dog", "fox"]),
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese spaniel"]),
        (["18 wheeler", "sedan"], ["18 wheeler", "sedan"]),
        (["18_wheeler", "2_door_car"], ["18 wheeler", "2 door car"]),
        (["1_cat", "2_cat"], ["1 cat", "2 cat"]),
        (["n01440764", "n01443537"], ["tench", "goldfish"]),
        (["n01440764", "my_dog"], ["tench", "my dog"]),
        (["C", "C#", "C++"], ["C", "C#", "C++"]),
    ],
)
def test_folders_are_called_by_their_names(tmp_path, folders, classes):
    dataset = load_dataset(load_config("folder"), tree(tmp_path, *folders))
    assert sorted(dataset.class_names) == sorted(classes)
    # Each image has the class of its own folder.
    of_folder = {
        path.parent.name: dataset.class_names[label] for path, label in zip(dataset.paths, dataset.labels, strict=True)
    }
    assert [of_folder[folder] for folder in folders] == classes


def test_a_folder_without_the_number_of_the_others_is_named(tmp_path):
    with pytest.warns(UserWarning, match="class folders background have no number or id before their names, as the others"):
        assert names(tree(tmp_path, "001.cat", "002.dog", "003.fox", "background")) == ("cat", "dog", "fox", "background")


def test_a_foreign_id_is_named_and_the_others_keep_their_names(tmp_path):
    with pytest.warns(UserWarning, match="1 class folders are ids that are not among .*: n01872772; rename each"):
        found = names(tree(tmp_path, "n01440764", "n01443537", "n01872772", "n02085620"))
    assert found == ("tench", "goldfish", "n01872772", "Chihuahua")


def test_bare_numbers_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"3 of 3 class folders are called by numbers, .*: 1, 10, 2; rename each"):
        assert names(tree(tmp_path, "1", "10", "2")) == ("1", "10", "2")


def test_a_published_list_finds_its_folders_behind_numbers_and_possessives(tmp_path):
    folders = ("001.Black_footed_Albatross", "009.Brewers_Blackbird", "022.Chuck_wills_Widow")
    dataset = load_dataset(load_config("folder", "cub"), tree(tmp_path, *folders))
    assert [dataset.class_names[label] for label in dataset.labels] == [
        "Black-footed Albatross",
        "Brewer's Blackbird",
        "Chuck-will's-widow",
    ]


@pytest.mark.parametrize(
    "folders",
    [
        ["train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog"],
        ["train", "validation"],
        ["Train", "Test"],
        ["train2017", "val2017"],
        ["train/images", "valid/images"],
        ["train", "images"],
        ["training_set", "test_set"],
    ],
)
def test_splits_are_no_classes(tmp_path, folders):
    with pytest.raises(InputError, match=r"look like splits, not classes; give the folder of one split, .*path,label"):
        names(tree(tmp_path, *folders))


def test_classes_that_are_called_like_splits_go_on(tmp_path):
    assert names(tree(tmp_path / "a", "train", "bus", "tram")) == ("bus", "train", "tram")
    with pytest.warns(UserWarning, match="the folders test, train in .* are taken for classes, but look like splits"):
        names(tree(tmp_path / "b", "train", "test", "bus"))
    (tmp_path / "b" / "list.csv").write_text("path,label\ntrain/a.jpg,train\ntest/a.jpg,test\n")
    assert load_dataset(load_config("folder"), tmp_path / "b" / "list.csv").class_names == ("test", "train")


def test_twins_are_refused(tmp_path):
    if (tree(tmp_path, "Missile") / "missile").exists():
        pytest.skip("this file system takes them for one")
    with pytest.raises(InputError, match="class folders 'Missile' and 'missile' have the same name; merge them"):
        names(tree(tmp_path, "missile"))


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\na.jpg,cat\nsub/b.jpg,dog\n",
        b"a.jpg,cat\r\nsub/b.jpg,dog\r\n",
        b"\xef\xbb\xbfpath;label\r\na.jpg;cat\r\nsub/b.jpg;dog\r\n",
        b"filename\tclass\na.jpg\tcat\nsub/b.jpg\tdog\n",
        b"label,split,Path\ncat,test,a.jpg\ndog,test,sub/b.jpg\n",
        b'"path","label"\n"a.jpg","cat"\n"sub/b.jpg","dog"\n',
        b"a.jpg, cat\n\nsub\\b.jpg, dog\n",
        "path,label\r\na.jpg,cat\r\nsub/b.jpg,dog".encode("utf-16"),
    ],
    ids=["plain", "CRLF", "Excel", "tabs", "other columns", "quoted", "backslashes", "UTF-16"],
)
def test_a_list_of_images_is_read_in_every_dialect(tmp_path, content):
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    (tmp_path / "list.csv").write_bytes(content)
    dataset = load_dataset(load_config("folder"), tmp_path / "list.csv")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.paths == (tmp_path / "a.jpg", tmp_path / "sub" / "b.jpg")
    assert dataset.labels == (0, 1)


def test_a_label_may_hold_another_separator(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    for content in ("a.jpg;cat, tabby\n", 'a.jpg,"cat, tabby"\n'):
        (tmp_path / "list.csv").write_text(content)
        assert load_dataset(load_config("folder"), tmp_path / "list.csv").class_names == ("cat, tabby",)


def test_a_list_that_is_no_text_says_so(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"a.jpg,caf\xe9\n")
    with pytest.raises(InputError, match=r"list.csv' is no UTF-8 text; save it as CSV in UTF-8"):
        load_dataset(load_config("folder"), tmp_path / "list.csv")
