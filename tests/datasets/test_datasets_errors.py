"""Trees, lists and options that are wrong: one sentence says what, and the way out."""

import shutil
from dataclasses import replace

import pytest

from crossalign.datasets import load_dataset
from crossalign.datasets.configs import config_names, load_config
from crossalign.errors import InputError
from dataset_trees import (
    caltech101,
    cub,
    draw,
    dtd,
    eurosat,
    flowers102,
    folder,
    food101,
    imagenet,
    imagenet_kaggle,
    imagenet_kit,
    imagenet_part,
    imagenetv2,
    listed,
    oxford_pet,
    places365,
    places365_folders,
    write,
)


@pytest.mark.parametrize("name", config_names())
@pytest.mark.parametrize("wrong", ["missing", "empty", "other"])
def test_a_wrong_tree_shows_the_right_one_and_where_it_is_published(tmp_path, name, wrong):
    root = tmp_path / "downloads"
    if wrong != "missing":
        root.mkdir()
    if wrong == "other":
        draw(root, "holidays.jpg")
        if name != "folder":
            draw(root, "dodos/one.jpg", "unicorns/two.jpg")
    config = load_config(name)
    with pytest.raises(InputError) as caught:
        load_dataset(config, root)
    message = str(caught.value)
    assert str(root) in message
    assert config.tree.rstrip() in message
    assert config.url in message
    assert "--data-path" in message
    assert name in message


def test_a_dataset_without_a_default_folder_asks_for_one():
    with pytest.raises(InputError, match="no folder was given for folder; give it with --data-path"):
        load_dataset(load_config("folder"))


@pytest.mark.parametrize(
    ("name", "tree", "stray"),
    [
        ("eurosat", eurosat, "eurosat/2750/Dodo/a.jpg"),
        ("caltech101", caltech101, "caltech101/101_ObjectCategories/Dodo/a.jpg"),
        ("places365", places365_folders, "places365_standard/val/Dodo/a.jpg"),
        ("imagenet", imagenet, "imagenet/val/Dodo/a.jpg"),
        ("imagenetv2", imagenetv2, "imagenetv2-matched-frequency-format-val/1000/a.jpg"),
        ("imagenet-r", imagenet_part("imagenet-r"), "imagenet-r/n01440764/a.jpg"),
        ("imagenet-a", imagenet_part("imagenet-a"), "imagenet-a/Dodo/a.jpg"),
    ],
)
def test_a_class_folder_that_matches_no_class_is_named(tmp_path, name, tree, stray):
    tree(tmp_path)
    draw(tmp_path, stray)
    with pytest.raises(InputError, match=f"1 class folders match none .*{stray.split('/')[-2]}; rename or remove"):
        load_dataset(load_config(name), tmp_path)


def test_every_class_folder_that_matches_none_is_named(tmp_path):
    draw(tmp_path, "pug/a.jpg", "Dodo/b.jpg", "wolf/c.jpg")
    with pytest.raises(InputError, match="2 class folders match none of the 37 class names: Dodo, wolf; rename"):
        load_dataset(load_config("folder", "oxford_pet"), tmp_path)


@pytest.mark.parametrize(
    ("name", "tree", "file", "old", "new"),
    [
        ("cub", cub, "CUB_200_2011/classes.txt", "200.Common_Yellowthroat", "200.Dodo"),
        ("places365", places365, "categories_places365.txt", "/z/zen_garden", "/d/Dodo"),
        ("dtd", dtd, "dtd/dtd/labels/test1.txt", "waffled/", "Dodo/"),
        ("oxford_pet", oxford_pet, "oxford-iiit-pet/annotations/test.txt", "Sphynx_", "Dodo_"),
        ("imagenet", imagenet_kaggle, "LOC_val_solution.csv", "n01484850", "Dodo"),
    ],
)
def test_a_listed_class_that_is_none_is_named(tmp_path, name, tree, file, old, new):
    tree(tmp_path)
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match="Dodo"):
        load_dataset(load_config(name), tmp_path)


@pytest.mark.parametrize(
    ("name", "tree", "place"),
    [
        ("folder", folder, "penguin"),
        ("eurosat", eurosat, "eurosat/2750/River"),
        ("imagenet", imagenet, "imagenet/val/n01443537"),
        ("imagenet-r", imagenet_part("imagenet-r"), "imagenet-r/n01443537"),
    ],
)
def test_an_empty_class_folder_is_named(tmp_path, name, tree, place):
    tree(tmp_path)
    shutil.rmtree(tmp_path / place, ignore_errors=True)
    write(tmp_path, f"{place}/Thumbs.db", "no picture")
    with pytest.raises(InputError, match=f"class folder '.*{place}' holds no images; fill or remove it"):
        load_dataset(load_config(name), tmp_path)


def test_class_folders_whose_names_differ_in_case_or_hyphens_alone_are_named(tmp_path):
    draw(tmp_path, "sea_lion/a.jpg", "Sea-Lion/b.jpg")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes them for one")
    with pytest.raises(InputError, match="class folders 'Sea-Lion' and 'sea_lion' have the same name"):
        load_dataset(load_config("folder"), tmp_path)


@pytest.mark.parametrize(("name", "tree"), [("flowers102", flowers102), ("cub", cub), ("places365", places365)])
def test_a_listed_picture_that_is_missing_is_named(tmp_path, name, tree):
    place = tree(tmp_path)[1][0]
    (tmp_path / place).unlink()
    with pytest.raises(InputError, match=f"image '.*{place}' cannot be read .No such file.*; the dataset lists it"):
        _ = load_dataset(load_config(name), tmp_path).fingerprint


LISTS = [
    ("flowers102", flowers102, "flowers-102/setid.mat"),
    ("flowers102", flowers102, "flowers-102/imagelabels.mat"),
    ("food101", food101, "food-101/meta/test.json"),
    ("cub", cub, "CUB_200_2011/train_test_split.txt"),
    ("dtd", dtd, "dtd/dtd/labels/test1.txt"),
    ("places365", places365, "places365_val.txt"),
    ("places365", places365, "categories_places365.txt"),
    ("oxford_pet", oxford_pet, "oxford-iiit-pet/annotations/test.txt"),
    ("imagenet", imagenet_kit, "ILSVRC2012_devkit_t12/data/meta.mat"),
    ("imagenet", imagenet_kaggle, "LOC_val_solution.csv"),
]
# A list of lines that is cut short cannot be told from a shorter one.
DAMAGES = [(*row, damage) for row in LISTS for damage in ("emptied", "other", "binary")]
DAMAGES += [(*row, "cut") for row in LISTS if row[2].endswith((".mat", ".json"))]


@pytest.mark.parametrize(("name", "tree", "file", "damage"), DAMAGES)
def test_a_damaged_list_is_an_input_error(tmp_path, name, tree, file, damage):
    tree(tmp_path)
    content = (tmp_path / file).read_bytes()
    instead = {
        "emptied": b"",
        "cut": content[: 2 * len(content) // 3],
        "other": b"<html>\n404</html>\n",
        "binary": bytes(range(255, 0, -1)) * 9,
    }
    (tmp_path / file).write_bytes(instead[damage])
    with pytest.raises(InputError) as caught:
        _ = load_dataset(load_config(name), tmp_path).fingerprint
    assert load_config(name).tree.rstrip() in str(caught.value) or "the dataset lists it" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["path,label", "a.jpg,cat", "", "b.jpg"], "line 4 of .* is 'b.jpg', but must be path,label"),
        (["a.jpg,cat,7"], "line 1 of .* is 'a.jpg,cat,7'"),
        (["a.jpg,cat", "b.jpg, "], "line 2 of .* is 'b.jpg,'"),
        (["path,label", ",cat"], "line 2 of .* is ',cat'"),
        (["a.jpg cat"], "line 1 of .* is 'a.jpg cat'"),
        (["path;label", "a.jpg;cat;7"], "line 2 of .* is 'a.jpg,cat,7'"),
        (["path,label"], "holds no images of folder"),
        ([], "holds no images of folder"),
        (['a.jpg,"cat', "b.jpg,dog"], "is not the tree of folder .unexpected end of data"),
    ],
)
def test_a_bad_row_of_a_csv_is_named(tmp_path, lines, complaint):
    draw(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=complaint):
        load_dataset(load_config("folder"), tmp_path / "list.csv")


def test_a_csv_may_lack_its_header_and_measure_as_a_dataset(tmp_path):
    draw(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "LIST.CSV").write_text(f"{tmp_path / 'b.jpg'},pug\n a.jpg , Basset-Hound\n", encoding="utf-8")
    dataset = load_dataset(load_config("folder", "oxford_pet"), tmp_path / "LIST.CSV")
    assert listed(dataset, tmp_path) == [("b.jpg", "Pug"), ("a.jpg", "Basset Hound")]


def test_a_csv_that_lists_a_missing_picture_names_it(tmp_path):
    (tmp_path / "list.csv").write_text("nowhere.jpg,cat\n")
    with pytest.raises(InputError, match=r"nowhere\.jpg' cannot be read"):
        _ = load_dataset(load_config("folder"), tmp_path / "list.csv").fingerprint


def test_a_file_that_is_no_csv_is_no_dataset(tmp_path):
    write(tmp_path, "list.txt", "a.jpg,cat")
    with pytest.raises(InputError, match=r"is not the tree of folder .*Not a directory"):
        load_dataset(load_config("folder"), tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        ({"layout": "imagenet1k"}, "layout 'imagenet1k' is unknown; known are cub, flowers102, folder, imagenet, places365"),
        ({"layout": "_classes"}, "layout '_classes' is unknown"),
        ({"classes": "pets"}, "no class list 'pets' is bundled; bundled are caltech101, cub, "),
    ],
)
def test_a_config_that_names_an_unknown_layout_or_class_list(tmp_path, field, complaint):
    folder(tmp_path)
    with pytest.raises(InputError, match=complaint):
        load_dataset(replace(load_config("folder"), **field), tmp_path)


@pytest.fixture
def no_network(monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", [name for name in config_names() if load_config(name).torchvision])
def test_a_dataset_that_cannot_be_fetched_says_where_it_is(tmp_path, no_network, name):
    config = load_config(name)
    with pytest.raises(InputError, match=f"{name} could not be fetched") as caught:
        load_dataset(config, tmp_path / "new", download=True)
    assert config.url in str(caught.value)
    assert config.tree.rstrip() in str(caught.value)


@pytest.mark.parametrize("name", [name for name in config_names() if not load_config(name).torchvision])
def test_a_dataset_that_torchvision_does_not_know_cannot_be_fetched(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} cannot be fetched automatically") as caught:
        load_dataset(load_config(name), tmp_path, download=True)
    assert load_config(name).url in str(caught.value)


@pytest.mark.parametrize(("name", "tree"), [("oxford_pet", oxford_pet), ("dtd", dtd), ("eurosat", eurosat)])
def test_what_is_there_is_not_fetched_again(tmp_path, no_network, name, tree):
    expected = tree(tmp_path)
    assert listed(load_dataset(load_config(name), tmp_path, download=True), tmp_path) == expected
