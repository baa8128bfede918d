"""TransCLIP, StatA and CARPRT against plain float64 loops, and their laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods import stata, transclip
from crossalign.methods.method import ScoreConfig, TextFeatures
from crossalign.methods.registry import METHODS
from crossalign.methods.scoring import class_scores

SCALE = 12.0
CONFIG = ScoreConfig(logit_scale=SCALE)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalised(x):
    return x / x.norm(dim=-1, keepdim=True)


def problem(seed, count=14, labels=4, width=6, templates=1):
    """Unit features around a centre per class, and texts near the centres."""
    centres = normal(labels, width, seed=seed)
    features = centres[torch.arange(count) % labels] + 0.6 * normal(count, width, seed=seed + 1)
    texts = centres[:, None] + 0.8 * normal(labels, templates, width, seed=seed + 2)
    return normalised(features).float(), normalised(texts).float()


def scores_of(name, features, texts, **options):
    """Score (N, D) features by (C, P, D) texts."""
    counts = torch.full((len(texts),), texts.shape[1])
    flat = texts.flatten(0, 1)
    of_method = TextFeatures(("",) * len(flat), flat, counts, torch.full((len(flat),), 1 / texts.shape[1]), texts.mean(1))
    method = METHODS[name]
    options = {**method.options, **options}
    return method.score(of_method, features, features.new_empty(len(features), 0, features.shape[1]), CONFIG, options)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(vector):
    length = math.sqrt(dot(vector, vector))
    return [value / length for value in vector]


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def neighbours(f):
    """The weights of each image's three nearest others."""
    w = [[0.0] * len(f) for _ in f]
    for i, row in enumerate(w):
        for j in sorted((j for j in range(len(f)) if j != i), key=lambda j: -dot(f[i], f[j]))[:3]:
            row[j] = dot(f[i], f[j])
    return w


def five_steps(z, evidence, w):
    images, classes = range(len(z)), range(len(z[0]))
    for _ in range(5):
        agree = [[sum((w[i][j] + w[j][i]) * z[j][c] for j in images) / 6 for c in classes] for i in images]
        z = [softmax([evidence[i][c] + agree[i][c] for c in classes]) for i in images]
    return z


def loop_transclip(f, t):
    images, classes, dims = range(len(f)), range(len(t)), range(len(f[0]))
    logits = [[SCALE * dot(x, text) for text in t] for x in f]
    y, w = [softmax(row) for row in logits], neighbours(f)
    means = []
    for c in classes:
        best = sorted(images, key=lambda i: -y[i][c])[:8]
        means.append(unit([sum(y[i][c] * f[i][d] for i in best) for d in dims]))
    variances, z = [1 / len(dims)] * len(dims), y
    for turn in range(11):
        if turn:
            means = [unit([sum(z[i][c] * f[i][d] for i in images) for d in dims]) for c in classes]
            variances = [sum(z[i][c] * (f[i][d] - means[c][d]) ** 2 for i in images for c in classes) / len(f) for d in dims]
        evidence = [
            [math.log(y[i][c]) - sum((f[i][d] - means[c][d]) ** 2 / variances[d] for d in dims) / 2 / 50 for c in classes]
            for i in images
        ]
        z = five_steps(z, evidence, w)
    return z


def loop_stata(f, t, alpha=1.0, soft_beta=False):
    images, classes, dims = range(len(f)), range(len(t)), range(len(f[0]))
    y, w = [softmax([SCALE * dot(x, text) for text in t]) for x in f], neighbours(f)
    first = [sum(y[i][c] * (f[i][d] - t[c][d]) ** 2 for i in images for c in classes) / len(f) for d in dims]
    means, variances, z = t, [first] * len(t), y
    for turn in range(11):
        if turn:
            counts = [sum(row[k] if soft_beta else max(classes, key=row.__getitem__) == k for row in z) for k in classes]
            beta = [n / (alpha + n) for n in counts]
            pooled = [unit([sum(z[i][c] * f[i][d] for i in images) for d in dims]) for c in classes]
            means = [unit([beta[c] * pooled[c][d] + (1 - beta[c]) * t[c][d] for d in dims]) for c in classes]
            mass = [sum(z[i][c] for i in images) for c in classes]
            variances = [
                [
                    beta[c] * sum(z[i][c] * (f[i][d] - means[c][d]) ** 2 for i in images) / mass[c]
                    + (1 - beta[c]) * (first[d] + (t[c][d] - means[c][d]) ** 2)
                    for d in dims
                ]
                for c in classes
            ]
        evidence = [
            [
                math.log(y[i][c])
                - sum((f[i][d] - means[c][d]) ** 2 / variances[c][d] + math.log(variances[c][d]) for d in dims) / 2 / 50
                for c in classes
            ]
            for i in images
        ]
        z = five_steps(z, evidence, w)
    return z


def loop_carprt(f, t, temperature=1.0):
    """For (C, P, D) texts."""
    classes, templates = range(len(t)), range(len(t[0]))
    weights = [[0.0] * len(templates) for _ in classes]
    for p in templates:
        best = []
        for x in f:
            logits = [SCALE * dot(x, t[c][p]) for c in classes]
            best.append((max(logits), logits.index(max(logits))))
        for c in classes:
            own = [value for value, winner in best if winner == c]
            weights[c][p] = sum(own) / len(own) if own else 0.0
    weights = [softmax([value / temperature for value in row]) for row in weights]
    return [
        [dot(x, [sum(w * y[d] for w, y in zip(weights[c], t[c], strict=True)) for d in range(len(x))]) for c in classes]
        for x in f
    ]


@pytest.mark.parametrize(("seed", "count", "labels"), [(0, 14, 4), (1, 11, 3), (2, 25, 5), (3, 5, 2), (4, 3, 2)])
@pytest.mark.parametrize(("name", "loop"), [("transclip", loop_transclip), ("stata", loop_stata)])
def test_assignments_equal_the_loop(name, loop, seed, count, labels):
    features, texts = problem(seed, count, labels)
    z = scores_of(name, features, texts)
    expected = torch.tensor(loop(features.double().tolist(), texts[:, 0].double().tolist()))
    torch.testing.assert_close(z, expected, atol=2e-5, rtol=0)
    assert (z - (SCALE * features @ texts[:, 0].T).softmax(1)).abs().max() > 2e-3


@pytest.mark.parametrize("options", [{"alpha": 7.0}, {"soft_beta": 1.0}], ids=str)
def test_statas_options_equal_the_loop(options):
    features, texts = problem(3)
    expected = torch.tensor(loop_stata(features.double().tolist(), texts[:, 0].double().tolist(), **options))
    torch.testing.assert_close(scores_of("stata", features, texts, **options), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.2}], ids=str)
@pytest.mark.parametrize(("seed", "count", "labels"), [(0, 14, 4), (2, 25, 5), (4, 3, 4)])
def test_reweighted_templates_equal_the_loop(seed, count, labels, options):
    features, texts = problem(seed, count, labels, templates=5)
    expected = torch.tensor(loop_carprt(features.double().tolist(), texts.double().tolist(), **options))
    torch.testing.assert_close(scores_of("carprt", features, texts, **options), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["transclip", "stata", "carprt"])
def test_chunks_change_nothing(name, monkeypatch):
    features, texts = problem(6, 30, 4, templates=3)
    expected, chunked = scores_of(name, features, texts), []
    monkeypatch.setattr(transclip, "CHUNK", 70)
    chunks = transclip.chunks
    monkeypatch.setattr(transclip, "chunks", lambda *sizes: chunked.append(sizes) or chunks(*sizes))
    torch.testing.assert_close(scores_of(name, features, texts), expected, atol=1e-6, rtol=0)
    assert [rows.stop - rows.start for rows in chunks(30, 30)] == [2] * 15
    assert name == "carprt" or (30, 30) in chunked


@pytest.mark.parametrize("name", ["transclip", "stata"])
def test_images_around_a_centre_help_each_other(name):
    """Texts that are right for most of a cloud come to be right for more of it."""
    labels = torch.arange(300) % 5
    centres = normalised(normal(5, 32, seed=7))
    features = normalised(centres[labels] + 0.15 * normal(300, 32, seed=8)).float()
    texts = normalised(centres + 0.5 * normal(5, 32, seed=10)).float()[:, None]
    alone = ((features @ texts[:, 0].T).argmax(1) == labels).double().mean()
    together = (scores_of(name, features, texts).argmax(1) == labels).double().mean()
    assert alone < 0.86
    assert together > 0.94


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(2, 5), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", ["transclip", "stata", "carprt"])
def test_an_order_of_images_or_classes_is_nothing(name, seed, count, labels, random):
    features, texts = problem(seed, count, labels, templates=2)
    z = scores_of(name, features, texts)
    images, classes = (torch.tensor(random.sample(range(size), size)) for size in (count, labels))
    again = scores_of(name, features[images], texts[classes])
    torch.testing.assert_close(again, z[images][:, classes], atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["transclip", "stata", "carprt"])
def test_few_images_have_scores(name, count):
    """The program of TransCLIP fails with fewer than eight."""
    features, texts = problem(11, count, 3)
    z = scores_of(name, features, texts)
    assert z.isfinite().all()
    if name != "carprt":
        torch.testing.assert_close(z.sum(1), torch.ones(count))


@pytest.mark.parametrize("name", ["transclip", "stata"])
def test_equal_images_get_equal_scores(name):
    features, texts = torch.tensor([[0.6, 0.8, 0.0]]).expand(7, 3), torch.tensor([[[0.8, 0.6, 0.0]], [[0.0, 0.6, 0.8]]])
    z = scores_of(name, features, texts)
    assert (z.argmax(1) == 0).all()
    torch.testing.assert_close(z, z[:1].expand_as(z), atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", ["transclip", "stata"])
def test_a_class_without_images_breaks_nothing(name):
    """Its probability underflows for every image."""
    features, texts = problem(10, 14, 3)
    far = -normalised(texts[:, 0].mean(0)[None, None])
    method = METHODS[name]
    texts = torch.cat([texts, far]).flatten(0, 1)
    of_method = TextFeatures(("",) * 4, texts, torch.ones(4, dtype=torch.long), torch.ones(4), texts)
    z = class_scores(method, of_method, features, features[:, None], ScoreConfig(logit_scale=1000.0))
    assert z.isfinite().all()
    assert (z[:, 3] == 0).all()


def test_a_class_that_nobody_is_for_keeps_its_mean():
    features, texts = problem(10)
    z = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).expand(14, 4)
    before = transclip.start(features, (SCALE * features @ texts[:, 0].T).log_softmax(1))
    after = transclip.fit(features, z, before)
    assert torch.equal(after.means[2:], before.means[2:])
    torch.testing.assert_close(after.means[:2], normalised(features.mean(0)).expand(2, -1))


def test_equal_images_have_a_variance():
    features = torch.tensor([[0.6, 0.8, 0.0]]).expand(7, 3)
    log_y = torch.tensor([[1.0, 0.0]]).expand(7, 2).log_softmax(1)
    model = transclip.fit(features, log_y.exp(), transclip.start(features, log_y))
    assert model.variances.tolist() == pytest.approx([1e-5 / 3] * 3)


def test_the_first_covariance_divides_after_each_chunk_as_the_program_does(monkeypatch):
    features, texts = problem(0, 10)
    z, means = (SCALE * features @ texts[:, 0].T).softmax(1), texts[:, 0]
    each = [(weights[:, None] * (f - means).square()).sum(0) for f, weights in zip(features, z, strict=True)]
    once = torch.stack(each).sum(0) / 10
    torch.testing.assert_close(stata.first_variances(features, z, means), once)
    monkeypatch.setattr(stata, "PROGRAM_CHUNK", 4)
    parts = [torch.stack(each[rows]).sum(0) for rows in (slice(0, 4), slice(4, 8), slice(8, 10))]
    expected = parts[0] / 1000 + parts[1] / 100 + parts[2] / 10
    torch.testing.assert_close(stata.first_variances(features, z, means), expected)
