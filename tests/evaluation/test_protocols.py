"""What each method sees: under "shared" the same, under "released" what its authors' program shows it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import PHOTOS
from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.evaluation import ranks
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.protocols import RELEASED_VIEWS, by_recipe, plan
from crossalign.images.crops import ResizedCropRecipe, ViewRecipe, crop_views
from crossalign.images.decoding import read_image
from crossalign.methods import alignment
from crossalign.methods.registry import METHODS, pick_methods
from crossalign.store.shards import Store
from crossalign.text import prompts
from crossalign.text.descriptions import bundled_descriptions
from crossalign.text.prompts import prompt_inputs

CONFIG = replace(
    load_config("folder"), views=3, sampled_views=4, runs=3, released_views=5, bifta_candidates=9, bifta_max_iou=0.3
)
SHOWN = {"chelsea.png": "cat", "coffee.png": "cup of coffee", "rocket.jpg": "rocket"}
LABELS = ("dog", *SHOWN.values(), "page of text")
DATASET = ImageDataset(
    name="photos",
    root=PHOTOS,
    paths=tuple(PHOTOS / name for name in SHOWN),
    labels=(3, 0, 4),
    class_names=LABELS,
    aliases=((),) * len(LABELS),
    indices=(0, 1, 2),
)
DEMO = bundled_descriptions("demo")


def test_under_shared_all_methods_see_the_same():
    rows = plan(pick_methods(["clip", "wca", "zero", "awt", "lazsl", "autoclip"]), CONFIG, "shared", 7)
    assert [str(row.recipe) for row in rows] == [
        "0 squares 0.1 to 0.9",
        *["3 squares 0.1 to 0.9"] * 4,
        "0 squares 0.1 to 0.9",
    ]
    assert list(by_recipe(rows)) == [ViewRecipe(3, (0.1, 0.9), 7)]
    assert {row.method.name: (row.runs, row.sampled) for row in rows if row.runs} == {"wca": (3, 4)}


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("clip", "global view"),
        ("clip-e", "global view"),
        ("clip-d", "global view"),
        ("waffle", "global view"),
        ("cupl", "global view"),
        ("autoclip", "global view"),
        ("cgbc", "global view"),
        ("wca", "5 squares 0.1 to 0.9"),
        ("bifta", "100 squares 0.5 to 0.9 of 9, IoU <= 0.3"),
        ("zero", "63 random resized crops + global view"),
        ("mta", "63 random resized crops + global view"),
        ("awt", "50 random resized crops + global view"),
        ("lazsl", "90 squares 0.6 to 0.9"),
        ("soft-matching", "5 squares 0.1 to 0.9"),
        ("transclip", "global view"),
        ("stata", "global view"),
        ("carprt", "global view"),
    ],
)
def test_under_released_each_method_sees_what_its_program_shows(name, views):
    (row,) = plan(pick_methods([name]), CONFIG, "released", 0)
    assert row.views == views


@pytest.mark.parametrize(
    ("dataset", "wca", "bifta"),
    [
        ("imagenet", 60, (100, 0.85, 100)),
        ("imagenetv2", 100, (60, 0.8, 200)),
        ("oxford_pet", 100, (300, 0.85, 100)),
        ("cub", 100, (300, 0.85, 100)),
        ("dtd", 100, (300, 0.85, 100)),
        ("food101", 100, (100, 0.85, 100)),
        ("places365", 100, (100, 0.85, 100)),
    ],
)
def test_datasets_have_the_numbers_of_the_programs_configs(dataset, wca, bifta):
    config = load_config(dataset)
    assert RELEASED_VIEWS["wca"](config, 0) == ViewRecipe(wca, (0.1, 0.9), 0)
    recipe = RELEASED_VIEWS["bifta"](config, 0)
    assert (recipe.candidates, recipe.max_iou, recipe.count) == bifta
    assert (config.runs, config.sampled_views) == (20, 60)


def test_each_distinct_recipe_is_encoded_once():
    rows = plan(pick_methods(["awt", "clip", "wca", "zero", "mta", "mean-views"]), CONFIG, "released", 0)
    groups = by_recipe(rows)
    assert {recipe: [row.method.name for row in group] for recipe, group in groups.items()} == {
        ResizedCropRecipe(63, 0): ["awt", "zero", "mta", "clip"],
        ViewRecipe(5, (0.1, 0.9), 0): ["wca", "mean-views"],
    }
    assert list(by_recipe(plan(pick_methods(["clip", "cupl"]), CONFIG, "released", 0))) == [ViewRecipe(0, (0.1, 0.9), 0)]


def test_a_method_that_chooses_views_is_refused_under_shared():
    with pytest.raises(InputError, match=r"method bifta is a way to choose views, .* use released"):
        plan(pick_methods(["bifta"]), CONFIG, "shared", 0)
    with pytest.raises(InputError, match="protocol is 'mine', but must be shared or released"):
        plan(pick_methods(["wca"]), CONFIG, "mine", 0)


@pytest.fixture(scope="module")
def released(builtin, tmp_path_factory):
    methods = [m for m in pick_methods(["all"]) if m.name in ("clip", "wca", "bifta", "zero", "lazsl", "cupl")]
    return evaluate(
        DATASET,
        builtin,
        CONFIG,
        methods,
        descriptions=[DEMO],
        protocol="released",
        transductive=[METHODS["stata"]],
        store=Store(tmp_path_factory.mktemp("store")),
        num_workers=0,
    )


@pytest.mark.slow
def test_results_say_what_each_method_saw(released):
    content = released.to_dict()
    assert content["protocol"] == "released"
    saw = {row["method"]: row["saw"] for row in content["results"]}
    assert saw["clip"] == {"views": "global view", "prompts": "photo", "prompts_per_class": (1, 1)}
    assert saw["wca"]["views"] == "5 squares 0.1 to 0.9"
    assert saw["lazsl"] == {"views": "90 squares 0.6 to 0.9", "prompts": "descriptor_sentences", "prompts_per_class": (4, 4)}
    # Four recipes of three images each: WCA's, BiFTA's, ZERO's and LaZSL's.
    assert released.encoded == 12
    assert [row["method"] for row in content["transductive"]] == ["stata"]


@pytest.mark.parametrize("name", ["wca", "bifta"])
def test_resampled_runs_score_the_views_of_the_program(released, builtin, name):
    """Against plain sums over the sampled views of each run, in float64, with its own crops."""
    (row,) = plan(pick_methods([name]), CONFIG, "released", 0)
    inputs = prompt_inputs(LABELS, descriptions=[DEMO], templates=CONFIG.templates)
    by_class = prompts.SOURCES[row.method.prompts](inputs)
    anchors = builtin.encode_texts([f"a photo of a {label}." for label in LABELS]).double()
    embeddings = []
    for own, anchor in zip(by_class, anchors, strict=True):
        texts = builtin.encode_texts(own).double()
        weights = (np.exp(2) * texts @ anchor).softmax(0)
        embeddings.append(weights @ texts / (weights @ texts).norm())
    (result,) = [result for result in released.results if result.method == name]
    for number, path in enumerate(DATASET.paths):
        pixels = crop_views(read_image(path), row.recipe, builtin.preprocessing, number)
        x0, *views = builtin.encode_images(pixels).half().double()
        counts = ranks.resampled_runs(5, 3, 4, 0)
        if name == "bifta":
            assert len(views) < 9
            counts = ranks._resampled(len(views), len(views), 3, 4, (0, number, 0xB1F7A))
        assert (counts.sum(1) == 4).all()
        for run, times in enumerate(counts.tolist()):
            taken = torch.stack([view for view, n in zip(views, times, strict=True) for _ in range(int(n))])
            weights = (np.exp(4) * taken @ x0).softmax(0)
            scores = torch.stack(embeddings) @ (weights @ taken / (weights @ taken).norm())
            rank = int((scores > scores[DATASET.labels[number]]).sum())
            assert result.ranks[number, run] == rank


def test_views_that_an_image_lacks_are_never_taken(monkeypatch):
    seen = []
    monkeypatch.setattr(ranks, "class_scores", lambda *a: seen.append(a) or torch.zeros(2, 3, 4))
    (row,) = plan(pick_methods(["bifta"]), CONFIG, "released", 0)
    views = torch.ones(2, 6, 8)
    views[0, 2:] = 0
    ranks.Scorer([(row, None)], ranks.ScoreConfig(), 0, torch.zeros(2, dtype=torch.long), (4, 9))(
        slice(0, 2), views[:, 0], views
    )
    counts = seen[0][5]
    assert counts.shape == (2, 3, 6)
    assert (counts.sum(2) == 4).all()
    assert counts[0, :, 2:].sum() == 0
    assert counts[1, :, 2:].sum() > 0
    assert alignment.view_weights(views, views[:, 0], 4.0, counts)[0, :, 2:].sum() == 0
