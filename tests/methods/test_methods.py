"""Each row of the table of methods against a plain float64 loop; how rows are picked, changed and listed."""

import math
import re
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
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

from crossalign.cli import main
from crossalign.errors import InputError
from crossalign.methods import alignment, scoring
from crossalign.methods.alignment import FORMS
from crossalign.methods.method import TextFeatures, WeightedMean
from crossalign.methods.registry import METHODS, pick_method, pick_methods, with_prompts
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.text.prompts import CONTROLS, PromptInputs


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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("zero:delta=1", r"zero has no option 'delta'; it has gamma, to be given as in zero:NAME=0\.5"),
        ("clip:x=1", "clip has no option 'x'; it has none"),
        ("zero:gamma", "gamma of zero is '', but must be a number above 0 and at most 1"),
        ("zero:gamma=1.5", "gamma of zero is '1.5', but must be a number above 0 and at most 1"),
        ("mta:lambda=-1", "lambda of mta is '-1', but must be a number above 0$"),
        ("mta:lambda=inf", "lambda of mta is 'inf', but must be a number above 0$"),
        ("awt:epsilon=nan", r"epsilon of awt is 'nan', but must be a number of at least 0\.025$"),
        ("awt:epsilon=0.02", r"epsilon of awt is '0\.02', but must be a number of at least 0\.025$"),
        ("lazsl:transported=0.5", "transported of lazsl is '0.5', but must be a number of at least 1$"),
        ("stata:soft_beta=2", "soft_beta of stata is '2', but must be a number of at least 0 and at most 1$"),
        ("awtt:epsilon=1", "unknown method awtt, did you mean awt"),
    ],
)
def test_a_wrong_option_is_named(text, reason):
    with pytest.raises(InputError, match=reason):
        pick_methods([text])


def test_options_that_differ_in_the_last_digit_are_two_methods():
    names = ["zero:gamma=0.1234567", "zero:gamma=0.1234568"]
    assert [method.name for method in pick_methods(names)] == names
    (method,) = pick_methods(["mta:lambda=4.0:rho=0.50"])
    assert method.name == "mta:lambda=4:rho=0.5"


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


def test_which_methods_need_descriptions():
    needy = {name for name in METHODS if method_of(name).needs_descriptions}
    others = ("clip", "clip-e", "waffle", "autoclip", "zero", "mta", *TRANSDUCTIVE)
    assert needy == set(METHODS) - set(others)
    bare = PromptInputs(NAMES, templates=INPUTS.templates)
    for name, method in METHODS.items():
        if name in needy:
            with pytest.raises(InputError, match=r"need descriptions"):
                text_features_of(method_of(name), bare, encode, CONFIG)
        else:
            assert text_features_of(method_of(name), bare, encode, CONFIG).pooled.shape == (3, WIDTH)
        assert method.name == name
        assert method.summary
        assert method.source


def test_methods_are_picked_by_name():
    assert tuple(METHODS) == (*SIX, *LATER, *TRANSDUCTIVE)
    assert [method.name for method in pick_methods(["wca", "clip", "wca"])] == ["wca", "clip"]
    assert pick_methods(["all"]) == list(ALONE.values())
    assert [method.name for method in pick_methods(["clip", "transclip"])] == ["clip", "transclip"]
    with_another = [*ALONE, "zero:gamma=0.1"]
    assert [method.name for method in pick_methods(["all", "zero:gamma=0.1", "wca", "zero:gamma=0.10"])] == with_another


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("all", "one method is needed, but 'all' was given"),
        ("stata", "method stata classifies all images of a set together; use `evaluate` for it, or take wca"),
        ("bifta", "method bifta is defined by views of its own; use `evaluate` for it, or take wca"),
    ],
)
def test_a_method_that_cannot_classify_one_image_is_refused(name, reason):
    with pytest.raises(InputError, match=reason):
        pick_method(name)
    assert pick_method("zero:gamma=0.5").options == {"gamma": 0.5}


def test_a_method_as_released_has_its_programs_prompts_and_options():
    awt = METHODS["awt"].as_released()
    assert (awt.name, awt.prompts, awt.options["transported"]) == ("awt", "template-and-sentences", math.inf)
    assert METHODS["lazsl"].as_released().prompts == "descriptor_sentences"
    assert METHODS["soft-matching"].as_released().prompts == "first-sentences"
    assert METHODS["wca"].as_released() == METHODS["wca"]
    (changed,) = pick_methods(["awt:transported=3:epsilon=0.2"])
    assert changed.as_released().options == {**awt.options, "transported": 3, "epsilon": 0.2}
    views = {name: method.released.views for name, method in METHODS.items() if method.released.views}
    assert views == dict.fromkeys(("wca", "soft-matching", "mean-views", "max-views"), "wca") | {
        "bifta": "bifta",
        "zero": "random-resized-63",
        "mta": "random-resized-63",
        "awt": "random-resized-50",
        "lazsl": "squares-90",
    }


def test_every_unknown_method_is_named():
    with pytest.raises(
        InputError, match=r"unknown method CLIP, nonsense, did you mean clip\? known are clip, clip-e, .*wca"
    ):
        pick_methods(["clip", "CLIP", "nonsense"])
    with pytest.raises(InputError, match=r"unknown method lazls, awtt, did you mean lazsl and awt\? known are"):
        pick_methods(["lazls", "awtt"])
    with pytest.raises(InputError, match=r"unknown method qqq; known are clip"):
        pick_methods(["qqq"])


@pytest.mark.parametrize("source", CONTROLS)
@pytest.mark.parametrize("name", ["wca", "cupl", "awt", "zero"])
def test_any_method_takes_control_prompts(name, source):
    method = with_prompts(METHODS[name], source)
    assert (method.name, method.prompts) == (f"{name}+{source}", source)
    assert method.needs_descriptions
    texts = text_features_of(method, INPUTS, encode, CONFIG)
    assert sorted(texts.counts.tolist()) == [1, 2, 3]
    assert class_scores(method, texts, unit(2, WIDTH), unit(2, 3, WIDTH, seed=1)).isfinite().all()


def test_unknown_prompts_are_named():
    with pytest.raises(InputError, match=r"unknown prompts 'shufled'; known are photo, .*repeated-name"):
        with_prompts(METHODS["wca"], "shufled")


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


def test_the_command_lists_them():
    done = CliRunner().invoke(main, ["methods"], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == [
        "method",
        "what it does",
        "sees",
        "encoder passes",
        "needs descriptions",
        "options",
        "source",
    ]
    for name, sees, passes, needs in (
        ("clip", "image", "1", ""),
        ("wca", "views", r"1 \+ M", "yes"),
        ("zero", r"views\+image", r"1 \+ M", ""),
        ("autoclip", "image", "1", ""),
        ("stata", "set", "1", ""),
    ):
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert re.search(rf"  {sees} +{passes} +{needs}", line)
        assert line.endswith(METHODS[name].source)
    assert re.search(r" rho=0\.3 .*\n +lambda=4\n +lambda_y=0\.2\n", done.stdout)
