"""Each row of the table of methods against a plain float64 loop."""

from dataclasses import replace

import pytest
import torch
from loops import (
    ALONE,
    CONFIG,
    INPUTS,
    LATER,
    LOOPS,
    NAMES,
    SENTENCES,
    SIX,
    TEXTS,
    TRANSDUCTIVE,
    WIDTH,
    by_class,
    encode,
    loop_score,
    method_of,
    scores_of,
    texts_of,
    unit,
)

from crossalign.errors import InputError
from crossalign.methods import alignment, scoring
from crossalign.methods.alignment import FORMS
from crossalign.methods.method import TextFeatures, WeightedMean
from crossalign.methods.registry import METHODS, pick_methods, with_prompts
from crossalign.methods.scoring import class_scores, text_features_of


@pytest.mark.parametrize("name", TEXTS)
def test_a_row_says_what_its_paper_says(name):
    assert by_class(texts_of(name)) == TEXTS[name]


def test_waffle_says_noise():
    texts = by_class(texts_of("waffle"))
    assert [len(of_class) for of_class in texts] == [30] * 3
    assert texts[1][0].startswith("A photo of a owl, which has ")


@pytest.mark.parametrize("name", METHODS)
def test_class_embeddings_are_weighted_sums(name):
    texts = texts_of(name)
    assert texts.features.shape == (len(texts.texts), WIDTH)
    torch.testing.assert_close(texts.features, encode(texts.texts))
    weights = texts.weights.split(texts.counts.tolist())
    assert [part.sum().item() for part in weights] == pytest.approx([1] * 3)
    for pooled, part, ys in zip(texts.pooled, weights, texts.features.split(texts.counts.tolist()), strict=True):
        torch.testing.assert_close(pooled, (part[:, None] * ys).sum(0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*SIX, "bifta", "mean-views"])
def test_scores_equal_the_loop(name, form):
    method, texts = METHODS[name], texts_of(name)
    x0s, views = unit(4, WIDTH, seed=1), unit(4, 5, WIDTH, seed=2)
    scores = class_scores(method, texts, x0s, views, replace(CONFIG, form=form))
    expected = [
        [loop_score(method, ys, label, x0, xs, form) for label, ys in zip(NAMES, by_class(texts), strict=True)]
        for x0, xs in zip(x0s.double().tolist(), views.double().tolist(), strict=True)
    ]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def assert_runs(scores, name, x0s, views, taken, form):
    """Compare (N, R, C) scores with the loop over the views that each image's runs took."""
    for image, runs in enumerate(taken):
        for run, rows in enumerate(runs):
            xs, x0 = views[image, rows].double().tolist(), x0s[image].double().tolist()
            expected = [
                loop_score(METHODS[name], texts, label, x0, xs, form)
                for label, texts in zip(NAMES, TEXTS[name], strict=True)
            ]
            assert scores[image, run].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ALONE)
def test_resampled_runs_score_the_views_that_they_took(name, form):
    method, texts, config = METHODS[name], texts_of(name), replace(CONFIG, form=form)
    x0s, views = unit(2, WIDTH, seed=1), unit(2, 4, WIDTH, seed=2)
    run_counts = torch.tensor([[2, 0, 1, 1], [0, 4, 0, 0], [1, 1, 1, 1]])
    scores = class_scores(method, texts, x0s, views, config, run_counts)
    assert method.resampled == (name in ("wca", "bifta", "mean-views"))
    if not method.resampled:
        assert torch.equal(scores, class_scores(method, texts, x0s, views, config))
        return
    assert scores.shape == (2, 3, 3)
    assert_runs(scores, name, x0s, views, [[[0, 0, 2, 3], [1, 1, 1, 1], [0, 1, 2, 3]]] * 2, form)


@pytest.mark.parametrize("name", ["bifta", "mean-views"])
def test_each_image_may_have_runs_of_its_own(name):
    x0s, views = unit(2, WIDTH, seed=1), unit(2, 4, WIDTH, seed=2)
    views[1, 2:] = 0  # the second image has two views
    run_counts = torch.tensor([[[2, 0, 1, 1], [0, 4, 0, 0]], [[3, 1, 0, 0], [0, 4, 0, 0]]])
    scores = class_scores(METHODS[name], texts_of(name), x0s, views, CONFIG, run_counts)
    assert_runs(scores, name, x0s, views, [[[0, 0, 2, 3], [1] * 4], [[0, 0, 0, 1], [1] * 4]], "released")


OPTIONS = {
    "awt": {"image_temperature": 2.0, "text_temperature": 0.1, "epsilon": 0.3, "transported": 2.0},
    "lazsl": {"alpha": 0.4, "epsilon": 0.3, "transported": 2.0},
    "soft-matching": {"temperature": 0.2},
    "autoclip": {"beta": 0.5},
    "zero": {"gamma": 0.6},
    "mta": {"rho": 0.9, "lambda": 1.0, "lambda_y": 1.0},
    "cgbc": {"lambda_threshold": 0.5},
    "stata": {"alpha": 20.0, "soft_beta": 1.0},
    "carprt": {"temperature": 0.1},
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in LOOPS),
        *(
            (name, {option: value})
            for name in LOOPS
            for option, value in OPTIONS.get(name, {}).items()
            if option != "transported"
        ),
    ],
)
def test_later_scores_equal_the_loop(name, options):
    """The loops of zero and mta are in test_view_selection.py, those of the transductive methods in files of their own."""
    x0s, views = unit(4, WIDTH, seed=1), unit(4, 6, WIDTH, seed=2)
    ys = [encode(texts).double().tolist() for texts in TEXTS[name]]
    images = zip(x0s.double().tolist(), views.double().tolist(), strict=True)
    expected = [LOOPS[name](x0, xs, ys, **options) for x0, xs in images]
    scores = scores_of(name, x0s, views, **options).double()
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_each_option_changes_the_scores_and_the_papers_value_none(name):
    x0s, views = unit(9, WIDTH, seed=1), unit(9, 12, WIDTH, seed=2)
    plain, options = scores_of(name, x0s, views), METHODS[name].options
    assert set(options) == set(OPTIONS.get(name, ()))
    for option, value in options.items():
        same, other = pick_methods([f"{name}:{option}={value}", f"{name}:{option}={OPTIONS[name][option]}"])
        assert other.name == f"{name}:{option}={OPTIONS[name][option]:g}"
        assert other.options == {**options, option: OPTIONS[name][option]}
        scores = [class_scores(method, texts_of(name), x0s, views, CONFIG) for method in (same, other)]
        assert torch.equal(scores[0], plain)
        assert not torch.allclose(scores[1], plain, atol=1e-5)


@pytest.mark.parametrize("name", ALONE)
def test_the_order_of_views_and_texts_is_nothing(name):
    x0s, views = unit(3, WIDTH, seed=1), unit(3, 7, WIDTH, seed=2)
    first = scores_of(name, x0s, views)
    torch.testing.assert_close(scores_of(name, x0s, views[:, [4, 0, 6, 2, 5, 1, 3]]), first, atol=2e-6, rtol=0)
    backwards = replace(
        INPUTS,
        templates=INPUTS.templates[::-1],
        descriptors=[texts[::-1] for texts in INPUTS.descriptors],
        sentences=[texts[::-1] for texts in SENTENCES],
    )
    texts = text_features_of(method_of(name), backwards, encode, CONFIG)
    torch.testing.assert_close(scores_of(name, x0s, views, texts), first, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ALONE)
def test_an_image_gets_the_same_scores_alone(name):
    x0s, views = unit(9, WIDTH, seed=1), unit(9, 5, WIDTH, seed=2)
    alone = torch.cat([scores_of(name, x0s[i : i + 1], views[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(alone, scores_of(name, x0s, views), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", LATER)
def test_chunks_change_nothing(name, monkeypatch):
    x0s, views = unit(9, WIDTH, seed=1), unit(9, 4, WIDTH, seed=2)
    first = scores_of(name, x0s, views)
    assert first.shape == (9, 3)
    assert first.dtype == torch.float32
    monkeypatch.setattr(scoring, "CHUNK", 1)
    torch.testing.assert_close(scores_of(name, x0s, views), first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ALONE)
def test_stored_float16_features_are_taken(name):
    x0s, views = unit(3, WIDTH, seed=1), unit(3, 5, WIDTH, seed=2)
    scores = scores_of(name, x0s.half(), views.half())
    assert scores.dtype == torch.float32
    # A vote is a x0s number, and near ties of it may turn with the rounding.
    torch.testing.assert_close(scores, scores_of(name, x0s, views), atol=0.2 if name == "zero" else 5e-3, rtol=0)


@pytest.mark.parametrize("name", ["zero", "mta", "awt", *TRANSDUCTIVE])
def test_the_logit_scale_counts(name):
    x0s, views = unit(9, WIDTH, seed=1), unit(9, 7, WIDTH, seed=2)
    mild, sharp = (
        class_scores(METHODS[name], texts_of(name), x0s, views, replace(CONFIG, logit_scale=scale)) for scale in (1.0, 50.0)
    )
    assert not torch.allclose(mild, sharp, atol=1e-4)


@pytest.mark.parametrize("name", ["awt", "lazsl"])
def test_the_classes_with_the_best_means_are_transported_and_lead(name):
    width, classes = 32, 60
    counts = torch.randint(1, 9, (classes,), generator=torch.Generator().manual_seed(0))
    centres = unit(classes, width, seed=5)
    features = centres.repeat_interleave(counts, 0) + 0.6 * unit(int(counts.sum()), width, seed=6)
    features /= features.norm(dim=1, keepdim=True)
    weights = alignment.uniform_text_weights(counts)
    pooled = alignment.pool_texts(features, weights, counts)
    texts = TextFeatures(("",) * len(features), features, counts, weights, pooled)
    x0s = unit(200, width, seed=7) + 0.4 * centres[torch.arange(200) % classes]
    x0s /= x0s.norm(dim=1, keepdim=True)
    views = x0s[:, None] + 0.7 * unit(200, 12, width, seed=8)
    views /= views.norm(dim=2, keepdim=True)
    some = scores_of(name, x0s, views, texts)
    every = class_scores(METHODS[name].as_released(), texts, x0s, views, CONFIG)
    assert torch.equal(some.argmax(1), every.argmax(1))
    assert not torch.equal(some, every)
    # AWT stops when r moves little over all transported classes, so a plan depends a little on how many there are.
    top = some.topk(16, dim=1).indices
    torch.testing.assert_close(some.gather(1, top), every.gather(1, top), atol=2e-3 if name == "awt" else 1e-6, rtol=0)


def test_one_class_has_scores():
    texts = TextFeatures(("",) * 4, unit(4, WIDTH), torch.tensor([4]), torch.full((4,), 0.25), unit(4, WIDTH).mean(0)[None])
    for name in METHODS:
        scores = scores_of(name, unit(3, WIDTH, seed=1), unit(3, 5, WIDTH, seed=2), texts)
        assert scores.shape == (3, 1)
        assert scores.isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ALONE)
def test_few_views_have_scores(name, count):
    scores = scores_of(name, unit(3, WIDTH, seed=1), unit(3, count, WIDTH, seed=2))
    assert scores.isfinite().all()


def test_what_a_method_sees_changes_its_scores():
    x0s = unit(9, WIDTH, seed=1)
    for name, method in METHODS.items():
        first, second = (scores_of(name, x0s, unit(9, 5, WIDTH, seed=seed)) for seed in (2, 3))
        assert torch.equal(first, second) == (not method.uses_views)
        assert method.passes == ("1 + M" if method.uses_views else "1")
    unused = {name for name, method in METHODS.items() if not method.uses_views}
    assert unused == {*SIX[:-1], "autoclip", "cgbc", *TRANSDUCTIVE}


def test_what_can_be_explained_is_a_weighted_mean():
    x0s, views = unit(3, WIDTH, seed=1), unit(3, 5, WIDTH, seed=2)
    assert {name for name, method in METHODS.items() if method.explainable} == {*SIX, "mean-views"}
    for name, method in METHODS.items():
        if method.explainable:
            assert isinstance(method.score, WeightedMean)
            weights = method.score.weights(x0s, views, CONFIG)
            seen = views if method.uses_views else x0s[:, None]
            assert weights.shape == seen.shape[:2]
            torch.testing.assert_close(weights.sum(1), torch.ones(3))
            pooled = alignment.pool_views(seen, weights)
            torch.testing.assert_close(alignment.scores(pooled, texts_of(name).pooled), scores_of(name, x0s, views))


def test_a_budget_limits_the_texts():
    texts = text_features_of(METHODS["wca"], INPUTS, encode, CONFIG, budget=2)
    assert texts.counts.tolist() == [2, 1, 2]
    torch.testing.assert_close(texts.features, encode(texts.texts))


@pytest.mark.parametrize("name", ["autoclip", "carprt"])
def test_templates_of_unequal_number_are_refused(name):
    method = with_prompts(METHODS[name], "sentences")
    assert method.even_prompts
    texts = text_features_of(method, INPUTS, encode, CONFIG)
    with pytest.raises(InputError, match=rf"{name} weights templates.*classes have 1 to 3 prompts; take .*many-templates"):
        class_scores(method, texts, unit(2, WIDTH), unit(2, 3, WIDTH))


def test_autoclip_refuses_a_single_template():
    texts = text_features_of(METHODS["clip"], INPUTS, encode, CONFIG)
    with pytest.raises(InputError, match=r"autoclip weights templates, but each class has one prompt; take more"):
        class_scores(METHODS["autoclip"], texts, unit(2, WIDTH), unit(2, 3, WIDTH))
