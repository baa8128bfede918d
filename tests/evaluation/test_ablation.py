"""Every cell of an ablation against a double loop in float64, and against what `evaluate` finds where the two coincide."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from conftest import PHOTOS
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.evaluation.ablation import AXES, Setting, ablate, plan
from crossalign.evaluation.ablation_tables import ablation_file, ablation_text, all_cells
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.statistics import mcnemar, paired_interval, wilson_interval
from crossalign.features.pipeline import image_features
from crossalign.images.crops import ViewRecipe
from crossalign.methods.registry import METHODS, pick_methods, with_prompts
from crossalign.reports.figures import figure_bytes
from crossalign.reports.figures.ablation import ablation_figure
from crossalign.store.shards import Store
from crossalign.text.descriptions import load_descriptions
from crossalign.text.prompts import CONTROLS, SOURCES, prompt_inputs, within_budget
from dataset_trees import draw

SENTENCES = {
    "cat": ["A cat has whiskers.", "A cat is a small furry animal with pointed ears.", "Some cats are striped."],
    "cup of coffee": ["A cup of coffee is a hot drink.", "A cup of coffee stands on a saucer."],
    "rocket": ["A rocket flies to space.", "A rocket is tall and white.", "Fire comes out of a rocket.", "A rocket starts."],
    "astronaut": ["An astronaut wears an orange suit.", "An astronaut has a helmet.", "An astronaut smiles."],
}
SCALES = ((0.1, 0.9), (0.5, 0.9))
VIEWS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four photos, and noise that is labelled at random, so that there is something to get wrong."""
    root = tmp_path_factory.mktemp("ablation")
    photos = {"cat": "chelsea.png", "cup of coffee": "coffee.png", "rocket": "rocket.jpg", "astronaut": "astronaut.png"}
    for label, photo in photos.items():
        draw(root / "pictures", *(f"{label}/noise-{number}.jpg" for number in range(2)))
        shutil.copy(PHOTOS / photo, root / "pictures" / label)
    (root / "sentences.json").write_text(json.dumps(SENTENCES))
    return root


@pytest.fixture(scope="module")
def store(folder):
    return Store(folder / "store")


@pytest.fixture(scope="module")
def config():
    return replace(load_config("folder"), views=VIEWS, runs=1, sampled_views=VIEWS)


@pytest.fixture(scope="module")
def dataset(folder, config):
    return load_dataset(config, folder / "pictures")


@pytest.fixture(scope="module")
def descriptions(folder):
    return [load_descriptions(folder / "sentences.json")]


@pytest.fixture(scope="module")
def found(dataset, builtin, config, descriptions, store):
    return ablate(dataset, builtin, config, METHODS["wca"], crop_scales=SCALES, descriptions=descriptions, store=store)


@pytest.fixture(scope="module")
def inputs(dataset, descriptions):
    return prompt_inputs(dataset.class_names, dataset.aliases, descriptions, templates=("a photo of a {}.",))


def softmax(logits):
    powers = np.exp(logits - np.max(logits))
    return powers / powers.sum()


def pooled_texts(setting, inputs, encode):
    """Each class's weighted sum of sentences."""
    pooled = []
    for name, texts in zip(inputs.names, SOURCES[setting.prompts](inputs), strict=True):
        features = encode(texts).double().numpy()
        anchor = encode([f"a photo of a {name}."]).double().numpy()[0]
        weights = softmax(math.exp(2) * features @ anchor) if setting.text_weights else np.full(len(texts), 1 / len(texts))
        pooled.append(weights @ features)
    return pooled


def answers(setting, whole, views, pooled):
    """What the setting's method answers to each picture, by the paper's equations in float64 loops."""
    given = []
    for full, local in zip(whole.double().numpy(), views.double().numpy(), strict=True):
        local = local[: setting.views] if setting.views else full[None]
        view_weights = softmax(math.exp(4) * local @ full) if setting.view_weights else np.full(len(local), 1 / len(local))
        if setting.form == "paper":
            scores = [sum(w * (view @ text) for w, view in zip(view_weights, local, strict=True)) for text in pooled]
        else:
            seen = view_weights @ local
            scores = [seen @ text / np.linalg.norm(seen) / np.linalg.norm(text) for text in pooled]
        given.append(int(np.argmax(scores)))
    return np.array(given)


@pytest.mark.slow
def test_every_cell_is_what_the_equations_say(found, dataset, builtin, config, inputs, store):
    labels, seen = np.array(dataset.labels), {}
    for scale in SCALES:
        features = image_features(dataset, builtin, ViewRecipe(VIEWS, scale, 0), store)
        assert features.encoded == 0
        ((_, *seen[scale]),) = features
    cells = all_cells(found)
    assert len(cells) == 2 * 2 * 4 * 3 + 4 + 5
    texts = {}
    for cell in cells:
        said = cell.setting.prompts, cell.setting.text_weights
        if said not in texts:
            texts[said] = pooled_texts(cell.setting, inputs, builtin.encode_texts)
        expected = answers(cell.setting, *seen[cell.setting.crop_scale], texts[said]) == labels
        np.testing.assert_array_equal(cell.right, expected, err_msg=cell.setting.name)
    assert len({tuple(cell.right) for cell in cells}) > 5


def test_a_cell_is_compared_with_the_full_method(found):
    full = next(cell for cell in found.cells if cell.setting == found.full)
    assert full.comparison is None
    others = [cell for cell in all_cells(found) if cell is not full]
    for cell in others:
        difference, low, high = paired_interval(full.right, cell.right)
        assert (cell.comparison.difference, cell.comparison.low, cell.comparison.high) == (
            pytest.approx(100 * difference),
            pytest.approx(100 * low),
            pytest.approx(100 * high),
        )
        p = mcnemar(full.right, cell.right)
        assert cell.comparison.p == p
        assert p <= cell.comparison.p_holm <= min(1, p * len(others))
        low, high = wilson_interval(cell.right.sum(), len(cell.right))
        assert cell.interval == (pytest.approx(100 * low), pytest.approx(100 * high))


def test_one_view_is_what_evaluate_finds_with_one_view(found, dataset, builtin, config, descriptions, store):
    one = replace(config, views=1, sampled_views=1)
    done = evaluate(dataset, builtin, one, pick_methods(["wca", "mean-views"]), descriptions=descriptions, store=store)
    for result in done.results:
        on = result.method == "wca"
        setting = replace(found.full, views=1, view_weights=on, text_weights=on)
        (cell,) = (cell for cell in found.cells if cell.setting == setting)
        np.testing.assert_array_equal(cell.right, result.right[:, 0, 0])


def test_cupls_controls_are_what_evaluate_finds(found, dataset, builtin, config, descriptions, store):
    methods = [METHODS["cupl"], *(with_prompts(METHODS["cupl"], source) for source in CONTROLS)]
    done = evaluate(dataset, builtin, config, methods, descriptions=descriptions, store=store)
    cells = [cell for cell in found.controls if cell.setting.method == "cupl"]
    assert [cell.setting.prompts for cell in cells] == ["sentences", *CONTROLS]
    for cell, result in zip(cells, done.results, strict=True):
        np.testing.assert_array_equal(cell.right, result.right[:, 0, 0])


def test_no_weights_are_the_method_without_weights():
    setting = Setting("wca", False, False, 5, (0.1, 0.9), "released", "sentences")
    plain = METHODS["mean-views"]
    assert replace(setting.to_method(), name=plain.name, summary=plain.summary, source=plain.source) == plain
    assert replace(setting, view_weights=True, text_weights=True).to_method() == METHODS["wca"]


@pytest.mark.parametrize(
    "axes", [axes for size in range(1, len(AXES) + 1) for axes in combinations(AXES, size)], ids=",".join
)
def test_the_grid_is_the_product_of_its_axes(axes):
    full, grid, controls = plan(METHODS["wca"], axes, most=40, crop_scales=SCALES, form="paper")
    sizes = {"weights": 4, "views": 6, "crop-scale": 2, "form": 2, "prompts": 1}
    assert len(grid) == len(set(grid)) == math.prod(sizes[axis] for axis in axes)
    assert full == Setting("wca", True, True, 40, (0.1, 0.9), "paper", "sentences")
    assert full in grid
    assert len(controls) == (10 if "prompts" in axes else 0)
    assert len({setting.name for setting in (*grid, *controls)}) == len({*grid, *controls})
    if "views" in axes:
        assert sorted({setting.views for setting in grid}) == [1, 2, 5, 10, 20, 40]


def test_only_what_a_method_has_is_taken_out():
    full, grid, _ = plan(METHODS["mean-views"], ["weights", "form"], most=7, crop_scales=SCALES, form="released")
    assert grid == [full, replace(full, form="paper")]
    full, grid, _ = plan(METHODS["awt"], ["weights", "form"], most=7, crop_scales=SCALES, form="released")
    assert grid == [full]
    assert (full.view_weights, full.text_weights) == (False, False)


def test_a_file_holds_all_cells(found):
    cells = all_cells(found)
    rows = list(csv.DictReader(io.StringIO(ablation_file(found, "csv"))))
    assert [row["top-1 %"] for row in rows] == [f"{cell.top1:.2f}" for cell in cells]
    content = json.loads(ablation_file(found, "json"))
    assert len(content["cells"]) == 48
    assert content["full"]["views"] == VIEWS
    assert [row["top1"] for row in content["controls"]] == [cell.top1 for cell in found.controls]
    assert [row["minus_full"] is None for row in content["cells"]].count(True) == 1
    page = ablation_file(found, "md")
    assert page.startswith(ablation_text(found))
    assert page.split("## All cells")[1].count("\n| ") == 1 + len(cells)


def test_a_table_marks_the_full_method_and_says_that_views_are_used_once(found):
    text = ablation_text(found)
    assert text.count("form released:") == text.count("form paper:") == 2
    bold = [line for line in text.splitlines() if line.startswith("|") and "**" in line]
    assert len(bold) == 1
    assert bold[0].startswith("| view and text weights ")
    assert "Each view is used once, without resampled runs" in text
    for source in CONTROLS:
        assert text.count(f"| {source} ") == 2


def test_a_figure_has_a_panel_a_crop_scale_and_form(found):
    figure = ablation_figure(found)
    assert len(figure.axes) == 4
    assert [len(axes.lines) for axes in figure.axes] == [5, 5, 4, 4]  # one line per weighting; cupl in its own form only
    by_weighting = [
        cell.top1 for cell in found.cells if cell.setting.crop_scale == SCALES[0] and cell.setting.form == "released"
    ]
    drawn = [value for line in figure.axes[0].lines[:4] for value in line.get_ydata()]
    assert drawn == by_weighting
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert Image.open(io.BytesIO(figure_bytes(figure, "png"))).size[0] > 600
    for cells in (found.cells[VIEWS - 1 :: VIEWS], found.cells[:1]):
        with pytest.raises(InputError, match="a figure needs accuracies for two or more numbers of views"):
            ablation_figure(replace(found, cells=cells))


def test_a_budget_gives_all_methods_as_many_prompts(dataset, builtin, config, descriptions, inputs, store):
    methods = pick_methods(["cupl", "clip-e"])
    done = evaluate(dataset, builtin, config, methods, descriptions=descriptions, store=store, budget=2, seed=0)
    content = done.to_dict()
    assert content["budget"] == {"views": VIEWS, "sentences": 2}
    kept = within_budget(SOURCES["sentences"](inputs), 2, 0)
    assert [len(texts) for texts in kept] == [2, 2, 2, 2]
    few = replace(inputs, sentences=kept)
    features = image_features(dataset, builtin, ViewRecipe(VIEWS, config.crop_scale, 0), store)
    ((_, *seen),) = features
    setting = Setting("cupl", False, False, 0, config.crop_scale, "released", "sentences")
    expected = answers(setting, *seen, pooled_texts(setting, few, builtin.encode_texts)) == np.array(dataset.labels)
    np.testing.assert_array_equal(done.results[0].right[:, 0, 0], expected)


def run(*calls):
    """Give the command line several lines in one process: exit codes, what each printed, and all that went to stderr."""
    code = f"""
import contextlib, io, sys
from crossalign.cli import main
for arguments in {[[str(part) for part in call] for call in calls]!r}:
    try:
        main(arguments)
    except SystemExit as stopped:
        print("=end=", stopped.code, flush=True)
        print("=end=", file=sys.stderr, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    out = done.stdout.split("=end=")
    codes = [int(part.split("\n", 1)[0]) for part in out[1:]]
    texts = [out[0], *(part.split("\n", 1)[1] for part in out[1:-1])]
    return codes, texts, done.stderr.split("=end=\n")[:-1]


@pytest.mark.slow
def test_the_command_line_writes_tables_and_figures(folder, tmp_path):
    same = ["--dataset", "folder", "--data-path", folder / "pictures", "--descriptions", folder / "sentences.json"]
    same += ["--runtime", "torch", "--precision", "f32", "--store", folder / "cli-store", "--limit", 4]
    files = ["--output", tmp_path / "c.json", "--report", tmp_path / "c.html"]
    codes, texts, errors = run(
        ["ablate", *same, "--views", 2, "--output", tmp_path / "a.md", "--figure", tmp_path / "a.png"],
        ["evaluate", *same, "--budget", "2x1", "--prompts", "shuffled", "--runs", 2, *files],
        ["table", tmp_path / "c.json", "--format", "csv"],
    )
    assert codes == [0, 0, 0], errors
    assert "| view weights alone " in texts[0]
    assert "8 images encoded now, 0 cached before" in errors[0]
    assert (tmp_path / "a.md").read_text().startswith(texts[0].rstrip())
    assert Image.open(tmp_path / "a.png").format == "PNG"
    assert "0 images encoded now, 4 cached before" in errors[1]
    assert "left out, since they need the same number of prompts for each class: autoclip+shuffled" in errors[1]
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["budget"] == {"views": 2, "sentences": 1}
    assert content["views"]["count"] == content["views"]["sampled"] == 2
    names = [f"{m.name}+shuffled" for m in METHODS.values() if m.single_image and not m.even_prompts]
    assert [row["method"] for row in content["results"]] == names
    for words in ("| cupl+shuffled ", "| budget ", "| 2x1 "):
        assert words in texts[1]
    assert {row["budget"] for row in csv.DictReader(io.StringIO(texts[2]))} == {"2x1"}


def test_some_axes_take_the_features_that_are_there(dataset, builtin, config, descriptions, store, found):
    again = ablate(
        dataset,
        builtin,
        config,
        METHODS["wca"],
        axes=["weights"],
        crop_scales=SCALES[::-1],
        descriptions=descriptions,
        store=store,
    )
    assert (again.evaluation.encoded, again.evaluation.cached) == (0, len(dataset.paths))
    assert again.full == replace(found.full, crop_scale=SCALES[1])
    assert again.controls == []
    before = {cell.setting: cell.top1 for cell in found.cells}
    assert [cell.top1 for cell in again.cells] == [before[cell.setting] for cell in again.cells]


WRONG = [
    (["ablate"], "no dataset given; name one with --dataset"),
    (["ablate", "--dataset", "folder", "--axes", "weights,vews"], "axis 'vews' is unknown; the axes are weights, views"),
    (["ablate", "--dataset", "dtd", "--method", "cupl"], "method cupl uses no local views"),
    (["ablate", "--dataset", "dtd", "--method", "all"], "--method all names all methods, but ablate measures one"),
    (["ablate", "--dataset", "folder"], "wca and the control prompts need descriptions of the classes"),
    (["ablate", "--dataset", "dtd", "--crop-scale", "0.9,0.1"], "crop_scale is 0.9, 0.1, but must be two shares"),
    (["ablate", "--dataset", "dtd", "--crop-scale", "wide"], "--crop-scale is 'wide', but must be released, written"),
    (["ablate", "--dataset", "dtd", "--output", "a.txt"], "--output 'a.txt' must end in .md, .csv, .json; rename it"),
    (["ablate", "--dataset", "dtd", "--figure", "a.gif"], "--figure 'a.gif' must end in .png, .svg, .pdf; rename it"),
    (["ablate", "--dataset", "dtd", "--figure", "no/where/a.png"], "output 'no/where/a.png' cannot be written"),
    (["ablate", "--dataset", "dtd", "--figure", "a.png", "--axes", "form"], "include views in --axes, and use two or more"),
    (["ablate", "--dataset", "dtd", "--figure", "a.png", "--views", "1"], "include views in --axes, and use two or more"),
    (["evaluate", "--dataset", "dtd", "--budget", "16"], "--budget is '16', but must be VIEWSxPROMPTS"),
    (["evaluate", "--dataset", "dtd", "--budget", "0x4"], "--budget is '0x4', but must be VIEWSxPROMPTS"),
    (
        ["evaluate", "--dataset", "dtd", "--budget", "4x4", "--views", "4"],
        "--budget 4x4 and --views 4 both set the number of views",
    ),
    (["evaluate", "--dataset", "dtd", "--prompts", "shufled"], "unknown prompts 'shufled'; known are photo, templates"),
    (["evaluate", "--dataset", "folder", "--prompts", "shuffled"], "need descriptions of the classes; give --descriptions"),
]


@pytest.mark.slow
def test_each_mistake_is_told_in_one_sentence(tmp_path):
    codes, _, errors = run(*(arguments for arguments, _ in WRONG))
    assert codes == [2] * len(WRONG)
    for error, (arguments, message) in zip(errors, WRONG, strict=True):
        assert message in error, arguments
        assert error.startswith("Error: ")
        assert error.count("\n") == 1
