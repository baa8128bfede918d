"""One YAML file per dataset: where it lies, how its tree looks, and the hyperparameters it is measured with.

Installed packages add datasets through entry points of the group "crossalign.datasets": each leads to a module with a
`CONFIG`, and with a `read` if its tree is like no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from crossalign.errors import InputError
from crossalign.images.crop_scale import check_crop_scale
from crossalign.plugins import Plugins

TREE_FIELDS = ("name", "title", "url", "layout", "tree", "subfolders", "left_out", "torchvision", "data_path")
"""Fields about the files of a dataset; the other fields say how it is measured."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda value: isinstance(value, str)),
    "int": ("an integer above 0", lambda value: type(value) is int and value > 0),
    "float": ("a number", _is_number),
    "tuple[float, float]": (
        "two numbers",
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)),
    ),
    "tuple[str, ...]": (
        "a list of texts",
        lambda value: isinstance(value, tuple) and all(isinstance(text, str) for text in value),
    ),
    "dict[str, Any] | None": (
        "a torchvision class under 'class', and its arguments",
        lambda value: value is None or (isinstance(value, dict) and isinstance(value.get("class"), str)),
    ),
}
"""Which YAML values a field accepts, by the annotation of the field."""


@dataclass(frozen=True)
class Config:
    """Where a dataset is, how it is read, and how it is measured.

    Attributes:
        name: of the dataset.
        title, url: what it is called and where it is published.
        layout: the module of `crossalign.datasets` that reads its tree.
        tree: the published tree, as users are shown it.
        subfolders: where, under the given folder, the tree may begin; the first that exists is taken, else the folder.
        left_out: class folders that are no classes.
        torchvision: keyword arguments of the torchvision class named by "class", which reads or fetches it.
        data_path: the folder looked in by default.
        classes: the bundled class list; empty if the folders are the classes.
        encoder: a spec for `load_encoder`.
        crop_scale: (lo, hi) as in the released program.
        crop_scale_written: (lo, hi) as written in the paper.
        views: M, encoded once per image.
        sampled_views: how many of them a resampled run takes, with replacement.
        runs: R.
        released_views: M of WCA's own program (n_samples), under the protocol "released".
        bifta_candidates, bifta_crop_scale, bifta_max_iou, bifta_views: of BiFTA's own program: squares placed, their side as
            a share of the image's shorter side, the largest overlap of two chosen ones, and the most that are chosen.
        image_scale, text_scale: logarithms of the softmax scales a and b.
        templates: hand-written prompts with {} for the name.
        domain: what kind of thing all classes are ("pet"), or empty.
        descriptions: the bundled descriptions, if there are any of that name.
    """

    name: str
    title: str = ""
    url: str = ""
    layout: str = "folder"
    tree: str = ""
    subfolders: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    torchvision: dict[str, Any] | None = None
    data_path: str = ""
    classes: str = ""
    encoder: str = "open_clip:ViT-B-32/openai"
    crop_scale: tuple[float, float] = (0.1, 0.9)
    crop_scale_written: tuple[float, float] = (0.5, 0.9)
    views: int = 60
    sampled_views: int = 60
    runs: int = 20
    released_views: int = 100
    bifta_candidates: int = 100
    bifta_crop_scale: tuple[float, float] = (0.5, 0.9)
    bifta_max_iou: float = 0.85
    bifta_views: int = 100
    image_scale: float = 4.0
    text_scale: float = 2.0
    templates: tuple[str, ...] = ("a photo of a {}.",)
    domain: str = ""
    descriptions: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, fits = _KINDS[str(field.type)]
            if not fits(value := getattr(self, field.name)):
                shown = list(value) if isinstance(value, tuple) else value
                raise InputError(f"config {self.name}: {field.name} is {shown!r}, but must be {kind}; fix it")
        check_crop_scale(self.crop_scale, f"config {self.name}: crop_scale")
        check_crop_scale(self.crop_scale_written, f"config {self.name}: crop_scale_written")
        check_crop_scale(self.bifta_crop_scale, f"config {self.name}: bifta_crop_scale")
        if not self.templates:
            raise InputError(f"config {self.name}: templates is empty; give one with {{}} for the class name")
        lacking = [template for template in self.templates if "{}" not in template and template != "openai-imagenet"]
        if lacking:
            raise InputError(f"config {self.name}: template {lacking[0]!r} has no {{}} for the class name; add it")


def load_config(dataset: str, measured_as: str | None = None) -> Config:
    """Load a dataset's config.

    Args:
        dataset: a bundled name (or an alias, such as "imagenet-s"), or the path of a YAML file.
        measured_as: another bundled name or YAML file, whose fields replace the dataset's except for its tree: so a
            folder of pets is measured with the classes, templates and descriptions of oxford_pet.

    Raises:
        InputError: no such config or file, or a field that is unknown or of the wrong kind.
    """
    values = _read(dataset)
    if measured_as is not None:
        values |= {key: value for key, value in _read(measured_as).items() if key not in TREE_FIELDS}
    tupled: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Config(**tupled)


def config_names() -> list[str]:
    """List the bundled configs, and those of packages."""
    return [*_bundled(), *DATASETS.usable()]


def _bundled() -> list[str]:
    files = (file.name for file in resources.files(__name__).iterdir())
    return sorted(file.removesuffix(".yaml") for file in files if file.endswith(".yaml"))


ALIASES = {"imagenet-s": "imagenet-sketch", "place365": "places365"}
"""Names that other programs use for bundled configs."""


def _check(name: str, module: Any) -> Any:
    config = getattr(module, "CONFIG", None)
    if not isinstance(config, Config):
        raise InputError("its CONFIG is no crossalign.datasets.configs.Config")
    if config.name != name:
        raise InputError(f"its CONFIG is called {config.name!r}")
    return module


def _taken() -> list[str]:
    # A dataset's name is its layout's, too, and this layout is the one that has no dataset of its name.
    return [*_bundled(), *ALIASES, "torchvision"]


DATASETS = Plugins("crossalign.datasets", "dataset", _taken, _check)
"""What packages add: modules with a `CONFIG`."""


def _read(name: str) -> dict[str, Any]:
    bundled = ALIASES.get(name, name)
    DATASETS.refuse(name)
    if name in DATASETS:
        return _added(name)
    if bundled in _bundled():
        text = (resources.files(__name__) / f"{bundled}.yaml").read_text(encoding="utf-8")
        values: dict[str, Any] = yaml.safe_load(text)
        return {"name": bundled} | values
    if not name.endswith((".yaml", ".yml")):
        raise InputError(f"dataset {name!r} is unknown; known are {', '.join(config_names())}, or give a YAML file")
    try:
        text = Path(name).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))
    except OSError as error:
        raise InputError(f"config {name!r} cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also from dates that are none, and deep nesting
        raise InputError(f"config {name!r} is no YAML ({' '.join(str(error).split())}); fix it") from None
    if aliases:
        # A few aliases of aliases can expand to more than memory holds.
        raise InputError(f"config {name!r} has an alias, such as *name; write out what it stands for")
    known = [field.name for field in fields(Config)]
    if not isinstance(values, dict) or (unknown := [str(key) for key in values if key not in known]):
        what = f"unknown fields {', '.join(unknown)}" if isinstance(values, dict) else "no fields"
        raise InputError(f"config {name!r} has {what}; known are {', '.join(known)}")
    return {"name": Path(name).stem} | values


def _added(name: str) -> dict[str, Any]:
    """Read a package's config; what it leaves as it is by default is as good as left out of a YAML."""
    module = DATASETS[name]
    values = {field.name: getattr(module.CONFIG, field.name) for field in fields(Config)}
    values = {key: value for key, value in values.items() if key == "name" or value != getattr(Config, key)}
    return values | ({"layout": name} if hasattr(module, "read") else {})
