"""Readers on trees in the published layouts: pictures, labels, class names, order, fingerprint."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from crossalign.datasets import load_dataset
from crossalign.datasets.class_lists import class_list
from crossalign.datasets.configs import config_names, load_config
from crossalign.errors import InputError
from dataset_trees import (
    LAYOUTS,
    cub,
    draw,
    dtd,
    eurosat,
    folder,
    food101,
    imagenet,
    imagenet_part,
    listed,
    oxford_pet,
    places365,
    timm_synsets,
    write,
)

ROOTS = [
    pytest.param(*row[:2], root, id=f"{row[0]}-{root or 'parent'}-{i}") for i, row in enumerate(LAYOUTS) for root in row[2]
]


def test_every_config_is_read_from_its_layout():
    assert {name for name, _, _ in LAYOUTS} == set(config_names())


@pytest.mark.parametrize(("name", "tree", "root"), ROOTS)
def test_the_published_layout(tmp_path, name, tree, root):
    expected = [(os.path.normpath(place), cls) for place, cls in tree(tmp_path)]
    config = load_config(name)
    dataset = load_dataset(config, tmp_path / root)
    assert listed(dataset, tmp_path) == expected
    assert (dataset.name, dataset.root) == (name, tmp_path / root)
    assert dataset.indices == tuple(range(len(expected)))
    assert len(set(dataset.class_names)) == len(dataset.class_names) == len(dataset.aliases)
    if config.classes and name not in ("imagenet-r", "imagenet-a"):
        assert dataset.class_names == class_list(config.classes).names
    for path in dataset.paths[:3]:
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (8, 8))
    assert len(dataset.fingerprint) == 32


@pytest.mark.parametrize(
    ("name", "tree", "folder"),
    [("oxford_pet", oxford_pet, "oxford-iiit-pet"), ("dtd", dtd, "dtd/dtd"), ("cub", cub, "CUB_200_2011")],
)
def test_the_present_folder_can_be_the_root(tmp_path, monkeypatch, name, tree, folder):
    expected = tree(tmp_path)
    monkeypatch.chdir(tmp_path / folder)
    dataset = load_dataset(load_config(name), ".")
    assert listed(dataset, tmp_path) == expected


def test_the_configs_own_folder_is_the_default(tmp_path, monkeypatch):
    expected = eurosat(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert listed(load_dataset(load_config("eurosat")), "data") == expected


def test_another_datasets_folder_beside_is_not_taken(tmp_path):
    dtd(tmp_path)
    food101(tmp_path)
    with pytest.raises(InputError, match="is not the tree of dtd"):
        load_dataset(load_config("dtd"), tmp_path / "food-101")


# Label spaces


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_the_label_space_of_a_part_of_imagenet_is_timms_list(tmp_path, name):
    imagenet_part(name)(tmp_path)
    dataset = load_dataset(load_config(name), tmp_path)
    keys = [key for key, *_ in dataset.aliases]
    assert keys == sorted(timm_synsets(name.replace("-", "_")))
    assert len(keys) == 200
    assert dataset.labels == tuple(range(200))


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_the_label_space_of_an_incomplete_part_is_what_is_there_and_says_so(tmp_path, name):
    imagenet_part(name)(tmp_path)
    kept = [timm_synsets(name.replace("-", "_"))[row] for row in (150, 3, 77)]
    for path in (tmp_path / name).iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path)
    with pytest.warns(UserWarning, match=f"3 of the 200 classes of {name} are there"):
        dataset = load_dataset(load_config(name), tmp_path)
    assert [key for key, *_ in dataset.aliases] == sorted(kept)
    assert [path.parent.name for path in dataset.paths] == [dataset.aliases[label][0] for label in dataset.labels]


def test_the_published_names_of_places365_repeat_21_times_and_say_so(tmp_path):
    places365(tmp_path)
    with pytest.warns(UserWarning, match="^21 class names of places365 repeat others; these classes can never win$"):
        dataset = load_dataset(load_config("places365"), tmp_path, names="published")
    assert len(dataset.class_names) - len(set(dataset.class_names)) == 21
    assert [dataset.class_names[label] for label in dataset.labels] == ["zen garden", "arena", "airfield"]


def test_published_names_elsewhere_do_not_repeat(tmp_path):
    oxford_pet(tmp_path)
    dataset = load_dataset(load_config("oxford_pet"), tmp_path, names="published")
    assert [dataset.class_names[label] for label in dataset.labels][2] == "german shorthaired"
    assert dataset.descriptor_names == dataset.class_names
    assert load_dataset(load_config("oxford_pet"), tmp_path).descriptor_names == ()


def test_imagenets_published_names_are_two_lists(tmp_path):
    imagenet(tmp_path)
    with pytest.warns(UserWarning, match="^2 class names of imagenet repeat others; these classes can never win$"):
        dataset = load_dataset(load_config("imagenet"), tmp_path, names="published")
    rows = (27, 638, 744, 836)
    assert [dataset.class_names[row] for row in rows] == ["newt", "tights", "missile", "sunglasses"]
    assert [dataset.descriptor_names[row] for row in rows] == ["eft", "maillot", "projectile", "sunglass"]
    differ = [
        row for row, both in enumerate(zip(dataset.class_names, dataset.descriptor_names, strict=True)) if len(set(both)) > 1
    ]
    assert tuple(differ) == rows


def test_a_folders_own_names_are_all_its_names(tmp_path):
    folder(tmp_path)
    published, ours = (load_dataset(load_config("folder"), tmp_path, names=names) for names in ("published", "ours"))
    assert published.class_names == ours.class_names


def test_names_of_another_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="names is 'tidy', but must be one of ours, published"):
        load_dataset(load_config("dtd"), tmp_path, names="tidy")


@pytest.mark.parametrize(
    ("dataset", "key", "other"),
    [
        ("eurosat", "HerbaceousVegetation", "brushland or shrubland"),
        ("eurosat", "Industrial", "industrial buildings or commercial buildings"),
        ("eurosat", "Residential", "residential buildings or homes or apartments"),
        ("eurosat", "SeaLake", "lake or sea"),
        ("imagenet", "n01631663", "eft"),
        ("imagenet", "n03710637", "maillot"),
        ("imagenet", "n04008634", "missile"),
        ("imagenet", "n04355933", "sunglasses"),
        ("flowers102", "ball moss", "air plant"),
        ("cub", "Cardinal", "Northern Cardinal"),
        ("caltech101", "Faces", "face"),
        ("places365", "arena/hockey", "arena"),
    ],
)
def test_other_authors_names_are_aliases(dataset, key, other):
    classes = class_list(dataset)
    row = classes.keys.index(key)
    assert classes.aliases[row][0] == key
    assert classes.names[row] in classes.aliases[row]
    assert other in classes.aliases[row]
    assert classes.take([row]).aliases == classes.aliases[row : row + 1]


def test_published_file_names_lead_to_the_dataset():
    assert load_config("place365") == load_config("places365")


def test_every_bundled_list_tells_its_classes_apart():
    for name in {load_config(name).classes for name in config_names()} - {""}:
        classes = class_list(name)
        assert len(set(classes.names)) == len(set(classes.keys)) == len(classes.names), name
        assert classes.find(classes.keys) == dict(zip(classes.keys, range(len(classes.keys)), strict=True)), name
        assert classes.find(classes.names) == dict(zip(classes.names, range(len(classes.names)), strict=True)), name


def test_class_folders_measured_as_a_dataset_have_its_classes(tmp_path):
    draw(tmp_path, "german-shorthaired/a.jpg", "Saint Bernard/b.jpg", "abyssinian/c.jpg")
    dataset = load_dataset(load_config("folder", "oxford_pet"), tmp_path)
    assert dataset.class_names == class_list("oxford_pet").names
    assert listed(dataset, tmp_path) == [
        ("Saint Bernard/b.jpg", "Saint Bernard"),
        ("abyssinian/c.jpg", "Abyssinian"),
        ("german-shorthaired/a.jpg", "German Shorthaired Pointer"),
    ]


def test_own_class_folders_are_in_order_of_their_names_whatever_their_case(tmp_path):
    draw(tmp_path, "Zebra/a.jpg", "ant/b.jpg", "Bee_2/c.jpg")
    dataset = load_dataset(load_config("folder"), tmp_path)
    assert dataset.class_names == ("ant", "Bee 2", "Zebra")
    assert dataset.aliases[1][0] == "Bee_2"


def test_torchvisions_numbering_of_the_classes_it_meets_is_not_trusted(tmp_path):
    """It counts only the classes in its list, but takes the list's labels, which count all 37."""
    draw(tmp_path, "oxford-iiit-pet/images/american_bulldog_1.jpg", "oxford-iiit-pet/images/beagle_1.jpg")
    write(tmp_path, "oxford-iiit-pet/annotations/test.txt", "american_bulldog_1 2 2 1", "beagle_1 5 2 4")
    dataset = load_dataset(load_config("oxford_pet"), tmp_path)
    assert [dataset.class_names[label] for label in dataset.labels] == ["American Bulldog", "Beagle"]


# Fingerprint and limit


@pytest.fixture
def csv_dataset(tmp_path):
    """Read three listed pictures, in the order and with the labels given."""
    draw(tmp_path, "a.jpg", "b.jpg", "c.jpg")

    def read(rows="a.jpg,cat b.jpg,dog c.jpg,cat", root=tmp_path):
        (root / "list.csv").write_text("\n".join(rows.split()))
        return load_dataset(load_config("folder"), root / "list.csv")

    return read


def test_the_fingerprint_does_not_depend_on_place_or_time(tmp_path, csv_dataset):
    first = csv_dataset().fingerprint
    moved = tmp_path / "elsewhere" / "with spaces"
    moved.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy(tmp_path / name, moved / name)
        os.utime(moved / name, (0, 0))
    assert csv_dataset(root=moved).fingerprint == first


def test_the_fingerprint_of_a_relative_root_is_the_same(tmp_path, monkeypatch):
    oxford_pet(tmp_path)
    config = load_config("oxford_pet")
    first = load_dataset(config, tmp_path).fingerprint
    monkeypatch.chdir(tmp_path.parent)
    assert load_dataset(config, tmp_path.name).fingerprint == first


def test_images_on_another_drive_have_a_fingerprint(csv_dataset, monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    first = csv_dataset().fingerprint
    monkeypatch.setattr(os.path, "relpath", relpath)
    assert csv_dataset().fingerprint not in (first, "")


def test_the_fingerprint_depends_on_order_labels_and_number(csv_dataset):
    trials = ["a.jpg,cat b.jpg,dog c.jpg,cat", "b.jpg,dog a.jpg,cat c.jpg,cat", "a.jpg,cat b.jpg,dog c.jpg,dog"]
    trials += ["a.jpg,cat b.jpg,dog"]
    assert len({csv_dataset(rows).fingerprint for rows in trials}) == len(trials)


def test_the_fingerprint_depends_on_each_pictures_content(tmp_path, csv_dataset):
    first = csv_dataset().fingerprint
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        assert csv_dataset().fingerprint != first
        (tmp_path / name).write_bytes(content)
    assert csv_dataset().fingerprint == first


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".tiff", ".png", ".jpg", ".webp", ".gif"])
def test_the_fingerprint_sees_one_pixel_in_the_middle_of_a_large_picture(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (140, 150, 3), dtype=np.uint8)
    prints = set()
    for value in (0, 255):
        noise[60, 75] = value
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "cat" / f"a{suffix}")
        assert (tmp_path / "cat" / f"a{suffix}").stat().st_size > 3 * 4096
        prints.add(load_dataset(load_config("folder"), tmp_path).fingerprint)
    assert len(prints) == 2


def test_datasets_under_another_root_of_theirs_keep_their_order(tmp_path):
    eurosat(tmp_path)
    first, second = (load_dataset(load_config("eurosat"), root) for root in (tmp_path, tmp_path / "eurosat"))
    assert (first.paths, first.labels, first.indices) == (second.paths, second.labels, second.indices)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 11, 12, 99])
def test_limit_spreads_evenly_and_keeps_indices(tmp_path, count):
    draw(tmp_path, *(f"{name}/{number}.jpg" for name in ("ant", "bee", "cat") for number in range(4)))
    whole = load_dataset(load_config("folder"), tmp_path)
    some = whole.limit(count)
    assert len(some.paths) == min(count, 12)
    assert list(some.indices) == sorted(set(some.indices))
    assert some.paths == tuple(whole.paths[index] for index in some.indices)
    assert some.labels == tuple(whole.labels[index] for index in some.indices)
    assert some.class_names == whole.class_names
    gaps = np.diff([*some.indices, 12])
    assert gaps.max() - gaps.min() <= 1
    assert (some.fingerprint == whole.fingerprint) == (count >= 12)
    if count < 12:
        assert some.limit(1).indices == (0,)
