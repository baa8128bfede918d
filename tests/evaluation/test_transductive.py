"""Methods that classify all images together: through `evaluate`, and their table through a real process."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import PHOTOS
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.tables import read_results, results_table, transductive_table
from crossalign.images.crops import ViewRecipe, crop_views
from crossalign.images.decoding import read_image
from crossalign.methods import ScoreConfig
from crossalign.methods.registry import METHODS, pick_methods
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.store.shards import Store
from crossalign.text.prompts import prompt_inputs

SCRIPT = Path(sys.executable).with_name("crossalign")
SHOWN = {
    "cat": ["chelsea.png", "coffee.png"],
    "cup of coffee": ["coffee.png"],
    "rocket": ["rocket.jpg"],
}


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """One image is in another class's folder, so that not all are recognised."""
    root = tmp_path_factory.mktemp("by_class")
    for label, names in SHOWN.items():
        (root / label).mkdir()
        for name in names:
            shutil.copy(PHOTOS / name, root / label)
    return root


def test_scores_are_those_of_the_global_views(builtin, by_class, tmp_path):
    """Again from the images."""
    config = replace(load_config("folder"), views=3, sampled_views=2, runs=2)
    dataset = load_dataset(config, by_class)
    together = [*pick_methods(["transclip", "stata"]), replace(METHODS["carprt"], prompts="templates")]
    store = Store(tmp_path)
    done = evaluate(dataset, builtin, config, pick_methods(["clip", "mta"]), store=store, transductive=together)
    assert [row.method for row in done.transductive] == ["transclip", "stata", "carprt"]
    recipe = ViewRecipe(0, config.crop_scale, seed=0)
    pixels = torch.cat([crop_views(read_image(path), recipe, builtin.preprocessing) for path in dataset.paths])
    x0 = torch.nn.functional.normalize(builtin.encode_images(pixels).half().float(), dim=1)
    inputs = prompt_inputs(dataset.class_names, templates=config.templates)
    labels = torch.tensor(dataset.labels)
    for row, method in zip(done.transductive, together, strict=True):
        texts = text_features_of(method, inputs, builtin.encode_texts)
        scores = class_scores(method, texts, x0, x0[:, None], ScoreConfig(logit_scale=builtin.logit_scale))
        assert row.top1 == 100 * (scores.argmax(1) == labels).double().mean()
        inductive = x0 @ torch.nn.functional.normalize(texts.pooled, dim=1).T
        assert row.inductive_top1 == 100 * (inductive.argmax(1) == labels).double().mean()
        assert row.n == 4
    assert done.transductive[0].inductive_top1 == done.results[0].accuracies(1)[0] == 75


@pytest.mark.slow
def test_the_table_stands_alone(by_class, tmp_path):
    output = tmp_path / "results.json"
    command = [SCRIPT, "evaluate", "--dataset", "folder", "--data-path", by_class, "--views", "3", "--runs", "2"]
    command += ["--methods", "clip,mta,transclip", "--store", tmp_path / "store", "--transductive", "--output", output]
    command += ["--runtime", "torch", "--precision", "f32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    above, told, below = done.stdout.partition("Transductive methods classify all images of the set together")
    assert "transclip" not in above.lower()
    assert "not comparable with" in below
    assert "no intervals" in " ".join((told + below).split())
    content = read_results(output)
    assert content["schema"] == 1
    assert [row["method"] for row in content["results"]] == ["clip", "mta"]
    rows = content["transductive"]
    assert [(row["method"], row["n"]) for row in rows] == [("transclip", 4), ("stata", 4), ("carprt", 4)]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in below.splitlines() if line.startswith("|")]
    assert [[line[2], *line[4:]] for line in lines[2:]] == [
        [row["method"], f"{row['top1']:.2f}", f"{row['inductive_top1']:.2f}", "4"] for row in rows
    ]
    assert "transductive methods" in done.stderr
    assert transductive_table([content]) in done.stdout
    assert "transclip" not in results_table([content]).lower()


def test_a_file_without_it_has_no_table():
    assert transductive_table([{"schema": 1, "results": []}]) == ""
