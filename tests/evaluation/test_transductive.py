"""TransCLIP against plain float64 loops, its laws, and its table through a real process."""

import itertools
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PHOTOS
from crossalign.cli import main
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.evaluation import transductive as transductive_scoring
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.tables import read_results, results_table, transductive_table
from crossalign.images.crops import ViewRecipe, cut_views
from crossalign.images.decoding import read_image
from crossalign.methods import transclip as transduction
from crossalign.methods.registry import METHODS, pick_methods
from crossalign.methods.scoring import class_scores, text_bank
from crossalign.methods.transclip import ClassModel, Neighbours, assign, fit, log_likelihoods, nearest, start, transclip
from crossalign.store.shards import Store
from crossalign.text.prompts import prompt_inputs

SCRIPT = Path(sys.executable).with_name("crossalign")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(seed, count=14, labels=4, width=6):
    """Unit features around a centre a class, and logits by texts near the centres."""
    centres = normal(labels, width, seed=seed)
    features = centres[torch.arange(count) % labels] + 0.6 * normal(count, width, seed=seed + 1)
    texts = centres + 0.8 * normal(labels, width, seed=seed + 2)
    features, texts = (x / x.norm(dim=1, keepdim=True) for x in (features, texts))
    return features, 5 * features @ texts.T


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def loop_transclip(f, logits):
    """Everything one number at a time, with p normalised over the classes."""
    count, labels, width = len(f), len(logits[0]), len(f[0])
    pictures, classes, dims = range(count), range(labels), range(width)
    y = [softmax(row) for row in logits]
    w = [[0.0] * count for _ in pictures]
    for i in pictures:
        for j in sorted((j for j in pictures if j != i), key=lambda j: -dot(f[i], f[j]))[:3]:
            w[i][j] = max(0.0, dot(f[i], f[j]))
    mu = []
    for k in classes:
        surest = sorted(pictures, key=lambda i: -y[i][k])[:8]
        mu.append([sum(f[i][d] for i in surest) / len(surest) for d in dims])
    sigma, z = [1 / width] * width, y
    for _ in range(10):
        p = [softmax([-0.5 * sum((f[i][d] - mu[k][d]) ** 2 / sigma[d] for d in dims) for k in classes]) for i in pictures]
        for _ in range(5):
            field = [[sum(w[i][j] * z[j][k] for j in pictures) for k in classes] for i in pictures]
            after = [[y[i][k] * p[i][k] * math.exp(field[i][k]) for k in classes] for i in pictures]
            z = [[value / sum(row) for value in row] for row in after]
        mass = [sum(z[i][k] for i in pictures) for k in classes]
        mu = [[sum(z[i][k] * f[i][d] for i in pictures) / mass[k] for d in dims] for k in classes]
        sigma = [sum(z[i][k] * (f[i][d] - mu[k][d]) ** 2 for i in pictures for k in classes) / count for d in dims]
    return z


@pytest.mark.parametrize(("seed", "count", "labels"), [(0, 14, 4), (1, 11, 3), (2, 25, 5), (3, 5, 2), (4, 3, 2)])
def test_assignments_equal_the_loop(seed, count, labels):
    features, logits = problem(seed, count, labels)
    found = transclip(features, logits, nearest(features))
    expected = torch.tensor(loop_transclip(features.tolist(), logits.tolist()), dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    assert not torch.allclose(found, logits.softmax(1), atol=0.01)


def test_float32_finds_the_same():
    features, logits = problem(5, 200, 7, 24)
    expected = transclip(features, logits, nearest(features))
    found = transclip(features.float(), logits.float(), nearest(features.float()))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


def test_chunks_change_nothing(monkeypatch):
    features, logits = problem(6, 30, 4)
    whole, counts = nearest(features), []
    z = transclip(features, logits, whole)
    monkeypatch.setattr(transduction, "CHUNK", 70)
    parts = nearest(features, counts.append)
    assert counts == [2] * 15
    assert torch.equal(parts.indices, whole.indices)
    torch.testing.assert_close(transclip(features, logits, parts), z, atol=1e-12, rtol=0)


def test_pictures_around_a_centre_help_each_other():
    """Texts that are right for most of a cloud come to be right for all of it."""
    features, _ = problem(7, 300, 5, 32)
    labels = torch.arange(300) % 5
    logits = 2 * torch.nn.functional.one_hot(labels, 5) + 1.5 * normal(300, 5, seed=8)
    alone = (logits.argmax(1) == labels).double().mean()
    together = (transclip(features, logits, nearest(features)).argmax(1) == labels).double().mean()
    assert alone < 0.85
    assert together > 0.97


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(1, 5), st.randoms(use_true_random=False))
def test_an_order_of_pictures_or_classes_is_nothing(seed, count, labels, random):
    features, logits = problem(seed, count, labels)
    z = transclip(features, logits, nearest(features))
    pictures, classes = (torch.tensor(random.sample(range(size), size)) for size in (count, labels))
    moved = features[pictures]
    again = transclip(moved, logits[pictures][:, classes], nearest(moved))
    torch.testing.assert_close(again, z[pictures][:, classes], atol=1e-6, rtol=0)


def symmetric(count, seed, own):
    """Neighbours on a ring with equal weights either way; `own` is each picture's affinity with itself."""
    places = torch.arange(count)
    edges = normal(count, seed=seed).abs()
    weights = torch.stack([edges, edges.roll(1), torch.full((count,), float(own), dtype=torch.float64)], 1)
    return Neighbours(torch.stack([(places + 1) % count, (places - 1) % count, places], 1), weights)


def matrix(neighbours):
    count = len(neighbours.indices)
    return torch.zeros(count, count, dtype=torch.float64).scatter_add(1, neighbours.indices, neighbours.affinities)


def log_density(features, model):
    """With all that belongs to a Gaussian."""
    squared = (features[:, None] - model.means).square() / model.variances
    return -0.5 * (squared + (2 * math.pi * model.variances).log()).sum(2)


def objective(z, w, log_p, log_y):
    """Of each pair once, with p the Gaussians' densities."""
    return (torch.xlogy(z, z) - z * (log_p + log_y)).sum() - (z * (w @ z)).sum() / 2


@pytest.mark.parametrize("seed", range(6))
def test_no_block_raises_the_objective_if_affinities_are_semidefinite(seed):
    features, logits = problem(seed, 40, 4)
    neighbours = symmetric(40, seed, own=6)
    w, log_y = matrix(neighbours), logits.log_softmax(1)
    assert torch.equal(w, w.T)
    assert torch.linalg.eigvalsh(w).min() > 0
    model, z = start(features, log_y), log_y.exp()
    values = []
    for _ in range(10):
        log_p = log_density(features, model)
        values.append(objective(z, w, log_p, log_y))
        for _ in range(5):
            z = assign(z, log_likelihoods(features, model) + log_y, neighbours)
            values.append(objective(z, w, log_p, log_y))
        model = fit(features, z, model)
        values.append(objective(z, w, log_density(features, model), log_y))
    falls = torch.stack(values).diff()
    assert falls.max() < 1e-9
    assert falls.min() < -0.1


@pytest.mark.parametrize("seed", range(6))
def test_what_steps_at_once_never_raise(seed):
    """Of the assignments before and after a step, whatever symmetric affinities there are."""
    _, logits = problem(seed, 40, 4)
    neighbours, evidence = symmetric(40, seed, own=0), logits.log_softmax(1)
    w, states = matrix(neighbours), [normal(40, 4, seed=seed + 9).mul(3).softmax(1)]
    for _ in range(20):
        states.append(assign(states[-1], evidence, neighbours))
    values = [
        (torch.xlogy(a, a) + torch.xlogy(b, b) - (a + b) * evidence).sum() - (a * (w @ b)).sum()
        for a, b in itertools.pairwise(states)
    ]
    assert torch.stack(values).diff().max() < 1e-9


def test_steps_at_once_may_raise_the_objective():
    """Two groups of three that are each other's only neighbours swap their labels."""
    neighbours = Neighbours(torch.tensor([[3, 4, 5]] * 3 + [[0, 1, 2]] * 3), torch.ones(6, 3, dtype=torch.float64))
    flat = torch.zeros(6, 2, dtype=torch.float64).log_softmax(1)
    z = torch.tensor([[0.6, 0.4]] * 3 + [[0.4, 0.6]] * 3, dtype=torch.float64)
    before = objective(z, matrix(neighbours), 0, flat)
    for _ in range(20):
        z = assign(z, flat, neighbours)
    assert objective(z, matrix(neighbours), 0, flat) > before + 1
    assert (z[:3].argmax(1) == 0).all()
    assert (assign(z, flat, neighbours)[:3].argmax(1) == 1).all()


def test_without_neighbours_and_with_a_flat_model_the_texts_decide():
    features, logits = problem(9)
    nobody = Neighbours(torch.empty(14, 0, dtype=torch.long), torch.empty(14, 0, dtype=torch.float64))
    flat = ClassModel(features.mean(0).expand(4, -1), features.var(0))
    evidence = log_likelihoods(features, flat) + logits.log_softmax(1)
    torch.testing.assert_close(assign(torch.rand(14, 4, dtype=torch.float64), evidence, nobody), logits.softmax(1))


def test_opposite_pictures_have_no_affinity():
    neighbours = nearest(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]]))
    assert neighbours.indices.tolist() == [[2, 1], [2, 0], [0, 1]]
    assert neighbours.affinities.tolist() == [[pytest.approx(0.6), 0], [0, 0], [pytest.approx(0.6), 0]]


def test_a_class_that_nobody_is_for_keeps_its_mean():
    features, logits = problem(10)
    z = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64).expand(14, 4)
    before = start(features, logits.log_softmax(1))
    after = fit(features, z, before)
    assert torch.equal(after.means[2:], before.means[2:])
    torch.testing.assert_close(after.means[:2], features.mean(0).expand(2, -1))
    logits[:, 2] = -1000
    together = transclip(features.float(), logits.float(), nearest(features.float()))
    assert together.isfinite().all()
    assert together[:, 2].max() == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_pictures_have_fewer_neighbours(count):
    features, logits = problem(11, count, 3)
    neighbours = nearest(features)
    assert neighbours.indices.shape == (count, count - 1)
    z = transclip(features, logits, neighbours)
    torch.testing.assert_close(z.sum(1), torch.ones(count, dtype=torch.float64))


def test_one_class_is_every_pictures():
    features, logits = problem(12, 9, 1)
    assert transclip(features, logits, nearest(features)).tolist() == [[1.0]] * 9


def test_equal_pictures_have_a_variance():
    features = torch.tensor([[0.6, 0.8, 0.0]]).expand(7, 3)
    logits = torch.tensor([[1.0, 0.0]]).expand(7, 2)
    model = fit(features, logits.softmax(1), start(features, logits))
    assert model.variances.tolist() == pytest.approx([1e-5 / 3] * 3)
    z = transclip(features, logits, nearest(features))
    assert z.isfinite().all()
    assert (z.argmax(1) == 0).all()


SHOWN = {
    "cat": ["chelsea.png", "coffee.png"],
    "cup of coffee": ["coffee.png"],
    "rocket": ["rocket.jpg"],
}


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """One picture is in another class's folder, so that not all are recognised."""
    root = tmp_path_factory.mktemp("by_class")
    for label, names in SHOWN.items():
        (root / label).mkdir()
        for name in names:
            shutil.copy(PHOTOS / name, root / label)
    return root


def test_scores_are_the_inductive_methods_without_draws(builtin, by_class, tmp_path, monkeypatch):
    """Again from the pictures; of several seeds, the first counts."""
    taken = []

    def spy(features, logits, neighbours, update):
        z = transclip(features, logits, neighbours, update).roll(1, dims=1)  # another outcome than by the scores
        taken.append((features, logits, z))
        return z

    monkeypatch.setattr(transductive_scoring, "transclip", spy)
    config = replace(load_config("folder"), views=3, sampled_views=2, runs=2)
    dataset = load_dataset(config, by_class)
    methods = [*pick_methods(["clip", "zero", "mta"]), replace(METHODS["wca"], prompts="templates")]
    done = evaluate(dataset, builtin, config, methods, store=Store(tmp_path), fresh_seeds=2, transductive=True)
    assert [row.base for row in done.transductive] == ["clip", "mta", "wca"]
    recipe = ViewRecipe(3, config.crop_scale, seed=0)
    encoded = torch.stack(
        [
            builtin.encode_images(cut_views(read_image(path), recipe, builtin.preprocessing, index=index)).half().float()
            for path, index in zip(dataset.paths, dataset.indices, strict=True)
        ]
    )
    inputs = prompt_inputs(dataset.class_names, templates=config.templates)
    options = {"image_scale": config.image_scale, "logit_scale": builtin.logit_scale}
    labels = torch.tensor(dataset.labels)
    for (features, logits, z), row, method in zip(
        taken, done.transductive, [m for m in methods if m.matcher == "mean"], strict=True
    ):
        assert features.norm(dim=1).tolist() == pytest.approx([1] * 4)
        torch.testing.assert_close(features, encoded[:, 0], atol=1e-3, rtol=0)
        bank = text_bank(method, inputs, builtin.encode_texts, config.text_scale)
        scores = class_scores(method, bank, encoded[:, 0], encoded[:, 1:], **options)
        torch.testing.assert_close(logits, builtin.logit_scale * scores, atol=1e-4, rtol=0)
        assert row.base_top1 == 100 * (scores.argmax(1) == labels).double().mean()
        assert row.top1 == 100 * (z.argmax(1) == labels).double().mean() != row.base_top1
        assert row.n == 4
    assert done.transductive[0].base_top1 == done.results[0].accuracies(1)[0] == 75


def test_methods_without_a_mean_have_no_scores_for_it(builtin, by_class):
    dataset = load_dataset(load_config("folder"), by_class)
    with pytest.raises(InputError, match="no method of zero, max-views scores by a mean"):
        evaluate(dataset, builtin, load_config("folder"), pick_methods(["zero", "max-views"]), transductive=True)


def test_the_table_stands_alone(by_class, tmp_path):
    output = tmp_path / "results.json"
    command = [SCRIPT, "evaluate", "--dataset", "folder", "--data-path", by_class, "--views", "3", "--runs", "2"]
    command += ["--methods", "clip,autoclip,mta", "--store", tmp_path / "store", "--transductive", "--output", output]
    command += ["--runtime", "torch", "--precision", "f32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    above, told, below = done.stdout.partition("Transductive, by TransCLIP")
    assert "transclip" not in above.lower()
    assert "with all others of the set in view" in told + below
    assert "no intervals" in below
    content = read_results(output)
    assert content["schema"] == 1
    assert [row["method"] for row in content["results"]] == ["clip", "autoclip", "mta"]
    rows = content["transductive"]
    assert [(row["method"], row["base"], row["n"]) for row in rows] == [
        ("transclip(clip)", "clip", 4),
        ("transclip(mta)", "mta", 4),
    ]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in below.splitlines() if line.startswith("|")]
    assert lines[2:] == [
        [
            row["method"],
            f"{row['top1']:.2f}",
            f"{row['base_top1']:.2f}",
            f"{row['top1'] - row['base_top1']:+.2f}",
            "4",
        ]
        for row in rows
    ]
    assert "rounds of transduction" in done.stderr
    assert done.stdout.endswith(transductive_table(content) + "\n")
    assert "transclip" not in results_table([content])
    table = CliRunner().invoke(main, ["table", str(output)])
    assert table.stdout == results_table([content]) + "\n"


def test_the_table_subtracts_the_inductive_accuracy():
    row = {"method": "transclip(wca)", "base": "wca", "top1": 61.0, "base_top1": 62.345, "n": 370}
    (line,) = [line for line in transductive_table({"transductive": [row]}).splitlines() if "transclip(" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["transclip(wca)", "61.00", "62.34", "-1.34", "370"]


def test_a_file_without_it_has_no_table():
    assert transductive_table({"schema": 1, "results": []}) == ""
