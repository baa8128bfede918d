"""Packages that add methods, encoders and datasets: really installed ones, as docs/extending.md shows them."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossalign import plugins
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import DATASETS, load_config
from crossalign.encoders import backends, load_encoder
from crossalign.errors import InputError
from crossalign.methods.registry import METHODS, Method, pick_methods

EXAMPLES = Path(__file__).parent / "extensions"
PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SCRIPT = Path(sys.executable).with_name("crossalign")
LONGEST = {"median_views": 15, "paint": 40, "name_tags": 25}
COLOURS = {"red": (200, 30, 40), "green": (20, 140, 30), "blue": (30, 40, 210)}


def install(site, package, entries, modules=()):
    """Put into a folder what pip would: modules, and a .dist-info with a package's name and entry points."""
    site.mkdir(exist_ok=True)
    for name, text in dict(modules).items():
        (site / f"{name}.py").write_text(text, encoding="utf-8")
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    text = "\n".join(f"[{group}]\n{chr(10).join(lines)}" for group, lines in entries.items())
    (info / "entry_points.txt").write_text(text + "\n")


def documented_entries():
    """Read the entry points of the page's pyproject.toml, as a build backend does."""
    (toml,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    sections = re.findall(r'^\[project\.entry-points\."(.+?)"\]\n(.*?)\n*(?=^\[|\Z)', toml, re.MULTILINE | re.DOTALL)
    return {group: [line.replace('"', "") for line in lines.splitlines()] for group, lines in sections}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = tmp_path_factory.mktemp("installed") / "site"
    install(site, "my-extensions", documented_entries(), {name: (EXAMPLES / f"{name}.py").read_text() for name in LONGEST})
    broken = {
        "crossalign.methods": ["late = not_there:METHOD", "wca = median_views:METHOD"],
        "crossalign.encoders": ["gone = paint:Nothing"],
        "crossalign.datasets": ["folder = name_tags", "bare = bare_module"],
    }
    install(site, "bad-extensions", broken, {"bare_module": "CONFIG = 3\n"})
    return site


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for colour, rgb in COLOURS.items():
        for number in range(2):
            noise = np.random.default_rng(number).integers(-20, 20, (40, 60, 3))
            Image.fromarray((np.array(rgb) + noise).clip(0, 255).astype(np.uint8)).save(root / f"{colour}-{number}.png")
    return root


@pytest.fixture
def installed(site, monkeypatch):
    """The packages, for this process."""
    monkeypatch.syspath_prepend(site)
    plugins._claims.cache_clear()
    yield
    plugins._claims.cache_clear()


def start(site, *arguments):
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=300, env=environment)


def run(site, *arguments):
    return start(site, SCRIPT, *arguments)


def python(site, code):
    return start(site, sys.executable, "-c", code)


@pytest.mark.parametrize("name", LONGEST)
def test_the_page_shows_the_files_that_are_run(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert f"```python\n{text}```\n" in PAGE
    assert len(text.splitlines()) <= LONGEST[name]


@pytest.mark.slow
def test_a_methods_an_encoder_and_a_dataset_of_a_package_work_together(site, pictures, tmp_path):
    sentences = {colour: [f"A thing that is {colour}.", f"Something quite {colour}."] for colour in COLOURS}
    (tmp_path / "sentences.json").write_text(json.dumps(sentences))
    done = run(
        site,
        *("evaluate", "--dataset", "name-tags", "--data-path", pictures, "--encoder", "paint"),
        *("--methods", "clip,wca,median-views", "--views", 4, "--runs", 2),
        *("--descriptions", tmp_path / "sentences.json", "--output", tmp_path / "results.json"),
    )
    assert done.returncode == 0, done.stderr
    assert "Warning: package bad-extensions adds a method called 'wca', but crossalign has one of that name" in done.stderr
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["dataset"]["name"] == "name-tags"
    assert (content["dataset"]["images"], content["dataset"]["classes"]) == (6, 3)
    assert content["encoder"]["name"] == "paint"
    assert {row["method"]: row["top1"] for row in content["results"]} == {"clip": 100, "wca": 100, "median-views": 100}
    assert "| median-views " in done.stdout


@pytest.mark.slow
def test_lists_name_the_package_and_leave_out_what_is_broken(site):
    code = """
import sys
from crossalign.cli import main
for arguments in (["methods"], ["encoders", "no such"], ["datasets"]):
    main(arguments, standalone_mode=False)
    print("=end="), print("=end=", file=sys.stderr)
"""
    done = python(site, code)
    assert done.returncode == 0, done.stderr
    methods, encoders, datasets, _ = zip(done.stdout.split("=end=\n"), done.stderr.split("=end=\n"), strict=True)
    assert re.search(r"\nmedian-views .* my-extensions +own\n", methods[0])
    assert re.search(r"\nwca .* crossalign +Li et al", methods[0])
    assert "\nlate " not in methods[0]
    assert "method 'late' of package bad-extensions cannot be used (ModuleNotFoundError: " in methods[1]
    assert methods[1].count("Warning: ") == 2
    assert re.search(r"\npaint +Mean colours and the names of colours; of package my-extensions\n", encoders[0])
    assert "encoder 'gone' of package bad-extensions cannot be used (AttributeError: " in encoders[1]
    assert re.search(r"\nname-tags .* my-extensions", datasets[0])
    assert re.search(r"\nfolder .* crossalign", datasets[0])
    assert "dataset 'bare' of package bad-extensions cannot be used (its CONFIG is no " in datasets[1]
    assert "adds a dataset called 'folder', but crossalign has one" in datasets[1]


def test_nothing_of_a_package_is_imported_before_its_name_is_asked_for(site):
    code = """
import sys
from crossalign import encoders
from crossalign.datasets import configs
from crossalign.methods import registry as methods
mine = {"median_views", "paint", "name_tags", "bare_module"}
methods.METHODS["cupl"], configs.load_config("dtd"), methods.pick_methods(["clip"])
assert not mine & set(sys.modules)
methods.METHODS["median-views"]
assert mine & set(sys.modules) == {"median_views"}
"""
    done = python(site, code)
    assert done.returncode == 0, done.stderr


def test_the_help_looks_for_no_package(site):
    code = "import sys, crossalign.cli as c; c.main(['--help'], standalone_mode=False); print('median_views' in sys.modules)"
    done = python(site, code)
    assert done.stdout.endswith("False\n")


@pytest.mark.usefixtures("installed")
class TestInThisProcess:
    def test_own_names_come_first_and_stay(self):
        with pytest.warns(UserWarning, match="package bad-extensions") as warned:
            names, own = list(METHODS), METHODS["wca"]
        assert own.source == "Li et al., ICML 2024"
        assert names[-1] == "median-views"
        assert METHODS.package("median-views") == "my-extensions"
        assert METHODS.package("wca") == "crossalign"
        said = sorted({str(w.message) for w in warned})
        assert len(said) == 2
        assert said[0].startswith("method 'late' of package bad-extensions cannot be used (ModuleNotFoundError: No module")
        assert said[0].endswith("update or uninstall that package")
        assert said[1].startswith(
            "package bad-extensions adds a method called 'wca', but crossalign has one of that name and uses its own"
        )

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_all_takes_in_what_packages_add(self):
        assert pick_methods(["all"])[-1].name == "median-views"
        with pytest.raises(InputError, match="unknown method median-view, did you mean median-views"):
            pick_methods(["median-view"])

    def test_a_broken_method_fails_when_it_is_named(self):
        with pytest.raises(InputError, match="method 'late' of package bad-extensions cannot be used"):
            pick_methods(["clip", "late"])

    def test_an_encoder_without_a_tower_has_the_reference_alone(self):
        for runtime, precision in (("torch", "f32"), ("auto", None), ("auto", "f32"), ("torch", None)):
            encoder = load_encoder("paint:anything", "cpu", runtime=runtime, precision=precision)
            assert encoder.encode_texts(["a red thing"]).shape == (1, encoder.width)
        for runtime, precision in (("openvino", None), ("torch", "bf16"), ("auto", "int8")):
            with pytest.raises(InputError, match=r"encoder paint has no tower for runtime .* runs on torch in f32 alone"):
                load_encoder("paint", "cpu", runtime=runtime, precision=precision)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_backends_are_listed(self):
        assert backends() == ["builtin", "open_clip", "transformers", "paint"]
        with pytest.raises(
            InputError, match="encoder 'point' names no known backend; known are builtin, open_clip, transformers, paint"
        ):
            load_encoder("point", "cpu")

    def test_a_yaml_takes_the_layout_of_a_package(self, pictures, tmp_path):
        (tmp_path / "mine.yaml").write_text("layout: name-tags\n")
        config = load_config(str(tmp_path / "mine.yaml"))
        assert load_dataset(config, pictures).class_names == ("blue", "green", "red")

    def test_a_folder_is_measured_as_a_packages_dataset(self):
        with pytest.warns(UserWarning, match="adds a dataset called 'folder', but crossalign has one of that name"):
            config = load_config("folder", "name-tags")
        assert (config.name, config.layout, config.encoder) == ("folder", "folder", "builtin")
        assert config.templates == load_config("name-tags").templates

    def test_a_wrong_tree_is_told_with_the_packages_picture_of_it(self, tmp_path):
        with pytest.raises(InputError, match=r"red-1\.png red-2\.png"):
            load_dataset(load_config("name-tags"), tmp_path / "none")

    def test_a_dataset_that_is_none_fails_when_it_is_named(self):
        with pytest.raises(InputError, match=r"dataset 'bare' of package bad-extensions cannot be used \(its CONFIG is no"):
            load_config("bare")


def test_every_layout_of_ours_is_a_name_that_no_package_may_take():
    import pkgutil

    import crossalign.datasets.layouts

    layouts = {module.name for module in pkgutil.iter_modules(crossalign.datasets.layouts.__path__)}
    assert layouts
    assert layouts <= set(DATASETS._own())


ENCODERS = {
    "fails": (
        "def load(spec, device):\n    raise OSError('no weights here')\n",
        r"cannot be loaded \(OSError: no weights here\)",
    ),
    "empty": ("def load(spec, device):\n    return object()\n", "lacks name, width, logit_scale, fingerprint, preproc"),
    "number": ("load = 3\n", r"cannot be used \(it is a int, but must be a function load\(spec, device\)\)"),
    "leaves": ("raise SystemExit(4)\n", r"cannot be used \(SystemExit: 4\)"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bad_encoder_is_named_with_its_package(name, tmp_path, monkeypatch):
    code, message = ENCODERS[name]
    install(tmp_path / "site", "odd", {"crossalign.encoders": [f"{name} = odd_{name}:load"]}, {f"odd_{name}": code})
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._claims.cache_clear()
    with pytest.raises(InputError, match=rf"encoder '{name}' of package odd {message}"):
        load_encoder(name, "cpu")
    plugins._claims.cache_clear()


def test_a_name_that_two_packages_add_is_refused_with_both(tmp_path, monkeypatch):
    for package in ("one", "two"):
        install(tmp_path / "site", package, {"crossalign.methods": [f"twice = {package}_module:METHOD"]})
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._claims.cache_clear()
    both = "packages (one and two|two and one) both add a method called 'twice'; uninstall one of them"
    with pytest.raises(InputError, match=both):
        pick_methods(["twice"])
    with pytest.warns(UserWarning, match=both):
        assert "twice" not in list(METHODS)
    plugins._claims.cache_clear()


def test_a_method_must_be_one_and_of_its_entry_points_name(tmp_path, monkeypatch):
    code = "from crossalign.methods.registry import Method\nMETHOD = Method('other', '', '', 'photo', print)\n"
    lines = ["misnamed = odd_method:METHOD", "kind = odd_method:Method"]
    install(tmp_path / "site", "odd", {"crossalign.methods": lines}, {"odd_method": code})
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._claims.cache_clear()
    with pytest.raises(InputError, match=r"method 'misnamed' of package odd cannot be used \(it calls itself 'other'\)"):
        pick_methods(["misnamed"])
    with pytest.raises(InputError, match=r"method 'kind' .*it is a type, but must be a crossalign.methods.registry.Method"):
        pick_methods(["kind"])
    plugins._claims.cache_clear()


def test_a_package_without_a_name_is_called_by_its_module():
    entry = metadata.EntryPoint("a", "some_module.part:THING", "crossalign.methods")
    assert plugins.package_of(entry) == "some_module"


@pytest.mark.parametrize(("sees", "count"), [("image", 0), ("views", 5), ("views+image", 6)])
def test_an_own_score_gets_what_it_sees_whatever_views_there_are(sees, count):
    from crossalign.methods import ScoreConfig, TextFeatures
    from crossalign.methods.scoring import class_scores

    seen = []

    def score(texts, x0, views, config, options):
        seen.append((views, config, options))
        return torch.cat([x0[:, None], views], 1).mean(1) @ texts.pooled.T

    generator = torch.Generator().manual_seed(0)
    texts = TextFeatures(("a", "b"), torch.eye(2, 3), torch.tensor([1, 1]), torch.ones(2), torch.eye(2, 3))
    x0, views = torch.randn(4, 3, generator=generator), torch.randn(4, 5, 3, generator=generator)
    method = Method("own", "", "", "photo", score, sees, options={"share": 0.5})
    assert not method.resampled
    assert not method.explainable
    config = ScoreConfig(logit_scale=7.0)
    scores = class_scores(method, texts, x0, views, config, torch.ones(3, 5))
    assert scores.shape == (4, 2)
    ((local, of_config, options),) = seen
    assert local.shape == (4, count, 3)
    assert (of_config, options) == (config, {"share": 0.5})
    if sees == "views+image":
        assert torch.equal(local, torch.cat([x0[:, None], views], 1))
    elif sees == "views":
        assert torch.equal(local, views)
