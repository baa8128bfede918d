"""The YAML of each dataset, and what a user's own may hold."""

import inspect
from dataclasses import fields, replace

import pytest
import torchvision

from crossalign.datasets.class_lists import class_list
from crossalign.datasets.configs import TREE_FIELDS, Config, config_names, load_config
from crossalign.errors import InputError

PUBLISHED = [
    *["caltech101", "cub", "dtd", "eurosat", "flowers102", "food101", "imagenet", "imagenet-a", "imagenet-r"],
    *["imagenet-sketch", "imagenetv2", "oxford_pet", "places365"],
]
SIZES = {"caltech101": 101, "cub": 200, "dtd": 47, "eurosat": 10, "flowers102": 102, "food101": 101, "oxford_pet": 37}


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return write


def test_every_dataset_of_the_paper_and_folder_have_a_config():
    assert config_names() == sorted([*PUBLISHED, "folder"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_bundled_config_says_all_that_its_dataset_needs(name):
    config = load_config(name)
    assert config.name == name
    assert config.title
    assert config.url.startswith("http")
    assert config.data_path
    assert config.tree.startswith("ROOT/")
    assert len(class_list(config.classes).names) == SIZES.get(name, 365 if name == "places365" else 1000)
    assert config.crop_scale == (0.1, 0.9)
    assert config.crop_scale_written == ((0.7, 0.9) if name == "places365" else (0.5, 0.9))
    assert (config.views, config.sampled_views, config.runs) == (60, 60, 20)
    assert (config.image_scale, config.text_scale) == (4, 2)
    assert config.encoder == "open_clip:ViT-B-32/openai"
    assert all("{}" in template or template == "openai-imagenet" for template in config.templates)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if load_config(name).torchvision])
def test_what_a_config_hands_to_torchvision_is_known_there(name):
    options = dict(load_config(name).torchvision)
    kind = getattr(torchvision.datasets, options.pop("class"))
    assert {*options, "download"} <= set(inspect.signature(kind).parameters)


def test_folder_needs_no_hub_and_no_class_list():
    config = load_config("folder")
    assert (config.encoder, config.classes, config.data_path) == ("builtin", "", "")


def test_imagenet_s_is_another_name_for_imagenet_sketch():
    assert load_config("imagenet-s") == load_config("imagenet-sketch")


def test_an_unknown_dataset_is_named_with_those_that_are_known():
    with pytest.raises(InputError, match=r"dataset 'imagnet' is unknown; known are caltech101, cub, .*places365"):
        load_config("imagnet")
    with pytest.raises(InputError, match="dataset 'pets' is unknown"):
        load_config("folder", "pets")


def test_a_short_yaml_is_filled_up_with_defaults(yaml_file):
    config = load_config(yaml_file("data_path: birds\nviews: 12\ncrop_scale: [0.5, 0.9]\n"))
    assert config == Config(name="mine", data_path="birds", views=12, crop_scale=(0.5, 0.9))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("veiws: 60\nruns: 20\ncolour: red", "unknown fields veiws, colour; known are name, .*views"),
        ("", "has no fields"),
        ("- views\n- runs", "has no fields"),
        ("views: [1, 2", "is no YAML"),
        ("views: '60'", "views is '60', but must be an integer above 0"),
        ("views: 0", "views is 0, but must be an integer above 0"),
        ("runs: 2.5", "runs is 2.5, but must be an integer above 0"),
        ("sampled_views: true", "sampled_views is True, but must be an integer above 0"),
        ("runs: -1", "runs is -1, but must be an integer above 0"),
        ("image_scale: four", "image_scale is 'four', but must be a number"),
        ("text_scale: .nan", "text_scale is nan, but must be a number"),
        ("crop_scale: 0.5", "crop_scale is 0.5, but must be two numbers"),
        ("crop_scale: [0.5]", r"crop_scale is \[0.5\], but must be two numbers"),
        ("crop_scale: [low, high]", r"crop_scale is \['low', 'high'\], but must be two numbers"),
        ("crop_scale: [0.9, 0.1]", "crop_scale is 0.9, 0.1, but must be two shares with 0 < low <= high <= 1"),
        ("crop_scale_written: [0, 1]", "but must be two shares with 0 < low <= high <= 1"),
        ("templates: a photo of a {}.", "templates is 'a photo of a {}.', but must be a list of texts"),
        ("templates: [a photo]", "template 'a photo' has no {} for the class name"),
        ("templates: []", "templates is empty"),
        ("templates: [3]", r"templates is \[3\], but must be a list of texts"),
        ("subfolders: val", "subfolders is 'val', but must be a list of texts"),
        ("subfolders: [2750]", r"subfolders is \[2750\], but must be a list of texts"),
        ("torchvision: DTD", "torchvision is 'DTD', but must be a torchvision class under 'class'"),
        ("torchvision: {split: test}", "must be a torchvision class under 'class'"),
        ("encoder: 32", "encoder is 32, but must be a text"),
        ("classes:", "classes is None, but must be a text"),
    ],
)
def test_a_field_that_is_wrong_is_named(yaml_file, text, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        load_config(yaml_file(text))
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_yaml_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'nowhere\.yaml' cannot be read .No such file"):
        load_config("nowhere.yaml")
    (tmp_path / "folder.yml").mkdir()
    with pytest.raises(InputError, match=r"folder\.yml' cannot be read"):
        load_config(str(tmp_path / "folder.yml"))
    (tmp_path / "photo.yaml").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(InputError, match=r"photo\.yaml' is no YAML"):
        load_config(str(tmp_path / "photo.yaml"))


def test_values_given_in_place_of_a_configs_are_checked_too():
    with pytest.raises(InputError, match="views is 0"):
        replace(load_config("dtd"), views=0)


@pytest.mark.parametrize("measured_as", PUBLISHED)
def test_measured_as_another_dataset_keeps_the_tree_and_takes_the_rest(measured_as):
    folder, other = load_config("folder"), load_config(measured_as)
    both = load_config("folder", measured_as)
    for name in TREE_FIELDS:
        assert getattr(both, name) == getattr(folder, name), name
    for name in ("classes", "templates", "domain", "descriptions", "crop_scale_written"):
        assert getattr(both, name) == getattr(other, name), name
    assert both.encoder == "builtin"


def test_measured_as_a_file_changes_only_what_the_file_says(yaml_file):
    file = yaml_file("views: 7\nurl: http://elsewhere\nlayout: cub\ndata_path: x\ntemplates: ['{} seen from a train']\n")
    pets = load_config("oxford_pet")
    assert load_config("oxford_pet", file) == replace(pets, views=7, templates=("{} seen from a train",))


def test_tree_fields_are_fields():
    assert set(TREE_FIELDS) < {field.name for field in fields(Config)}
