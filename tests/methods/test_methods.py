"""Each row of the table of methods against a plain float64 loop."""

import hashlib
import math
import re
from dataclasses import replace

import ot
import pytest
import torch
from click.testing import CliRunner

from crossalign.cli import main
from crossalign.errors import InputError
from crossalign.methods import alignment
from crossalign.methods import optimal_transport as transport
from crossalign.methods import scoring as matching
from crossalign.methods.alignment import FORMS
from crossalign.methods.registry import METHODS, TextBank, pick_methods, with_prompts
from crossalign.methods.scoring import class_scores, text_bank, view_weights
from crossalign.text.prompts import CONTROLS, PromptInputs

WIDTH = 12
IMAGE_SCALE, TEXT_SCALE, LOGIT_SCALE = 3.0, 1.5, 9.0
SIX = ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca")
LATER = ("autoclip", "zero", "mta", "awt", "lazsl", "abs", "mean-views", "max-views")
NAMES = ("cat", "owl", "cup of coffee")
SENTENCES = (("A cat has whiskers.", "A cat is small."), ("An owl has wings.",), ("It is hot.", "Steam.", "A saucer."))
INPUTS = PromptInputs(
    NAMES,
    templates=("a photo of a {}.", "a sketch of the {}."),
    descriptors=(("has fur", "a pet"), ("has a beak",), ("foam", "has a handle", "a ring")),
    sentences=SENTENCES,
    seed=4,
)
TEXTS = {
    "clip": [["a photo of a cat."], ["a photo of a owl."], ["a photo of a cup of coffee."]],
    "clip-e": [
        ["a photo of a cat.", "a sketch of the cat."],
        ["a photo of a owl.", "a sketch of the owl."],
        ["a photo of a cup of coffee.", "a sketch of the cup of coffee."],
    ],
    "clip-d": [
        ["cat, which has fur", "cat, which is a pet"],
        ["owl, which has a beak"],
        ["cup of coffee, which has foam", "cup of coffee, which has a handle", "cup of coffee, which is a ring"],
    ],
}
TEXTS |= dict.fromkeys(("zero", "mta"), TEXTS["clip"]) | {"autoclip": TEXTS["clip-e"]}
TEXTS |= {
    name: [list(texts) for texts in SENTENCES] for name in ("cupl", "wca", "awt", "lazsl", "abs", "mean-views", "max-views")
}


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True)).float()


def encode(texts):
    """Give every text a direction of its own."""
    return torch.stack([unit(WIDTH, seed=int(hashlib.md5(text.encode()).hexdigest()[:8], 16)) for text in texts])


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def mixed(vectors, weights):
    return [sum(w * v[d] for w, v in zip(weights, vectors, strict=True)) for d in range(WIDTH)]


def likeness(vectors, anchor, scale):
    powers = [math.exp(math.exp(scale) * dot(v, anchor)) for v in vectors]
    return [p / sum(powers) for p in powers]


def loop_score(method, texts, name, whole, views, form):
    """Score one class for one picture as the papers write it."""
    ys = encode(texts).double().tolist()
    if method.name == "mean-views":
        image, text = mixed(views, [1 / len(views)] * len(views)), mixed(ys, [1 / len(ys)] * len(ys))
    elif method.cross:
        anchor = encode([f"a photo of a {name}."])[0].double().tolist()
        image = mixed(views, likeness(views, whole, IMAGE_SCALE))
        text = mixed(ys, likeness(ys, anchor, TEXT_SCALE))
    else:
        image, text = whole, mixed(ys, [1 / len(ys)] * len(ys))
    norms = math.sqrt(dot(image, image) * dot(text, text)) if form == "released" else 1
    return dot(image, text) / norms


def bank_of(name):
    return text_bank(METHODS[name], INPUTS, encode, TEXT_SCALE)


def by_class(bank):
    parts = iter(bank.texts)
    return [[next(parts) for _ in range(count)] for count in bank.counts.tolist()]


@pytest.mark.parametrize("name", TEXTS)
def test_a_row_says_what_its_paper_says(name):
    assert by_class(bank_of(name)) == TEXTS[name]


def test_waffle_says_noise():
    texts = by_class(bank_of("waffle"))
    assert [len(of_class) for of_class in texts] == [30] * 3
    assert texts[1][0].startswith("A photo of a owl, which has ")


@pytest.mark.parametrize("name", METHODS)
def test_a_bank_holds_its_sums(name):
    bank = bank_of(name)
    assert bank.features.shape == (len(bank.texts), WIDTH)
    torch.testing.assert_close(bank.features, encode(bank.texts))
    weights = bank.weights.split(bank.counts.tolist())
    assert [part.sum().item() for part in weights] == pytest.approx([1] * 3)
    for pooled, part, ys in zip(bank.pooled, weights, bank.features.split(bank.counts.tolist()), strict=True):
        torch.testing.assert_close(pooled, (part[:, None] * ys).sum(0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*SIX, "mean-views"])
def test_scores_equal_the_loop(name, form):
    method, bank = METHODS[name], bank_of(name)
    whole, views = unit(4, WIDTH, seed=1), unit(4, 5, WIDTH, seed=2)
    scores = class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, form=form)
    expected = [
        [loop_score(method, texts, label, x0, xs, form) for label, texts in zip(NAMES, by_class(bank), strict=True)]
        for x0, xs in zip(whole.double().tolist(), views.double().tolist(), strict=True)
    ]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_draws_score_the_drawn_views(name, form):
    method, bank = METHODS[name], bank_of(name)
    whole, views = unit(2, WIDTH, seed=1), unit(2, 4, WIDTH, seed=2)
    draws = torch.tensor([[2, 0, 1, 1], [0, 4, 0, 0], [1, 1, 1, 1]])
    scores = class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, form=form, draws=draws)
    assert method.draws_views == (name in ("wca", "mean-views"))
    if not method.draws_views:
        assert torch.equal(scores, class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, form=form))
        return
    assert scores.shape == (2, 3, 3)
    for run, drawn in enumerate(([0, 0, 2, 3], [1, 1, 1, 1], [0, 1, 2, 3])):
        for picture in range(2):
            xs = views[picture, drawn].double().tolist()
            x0 = whole[picture].double().tolist()
            expected = [
                loop_score(method, texts, label, x0, xs, form) for label, texts in zip(NAMES, TEXTS[name], strict=True)
            ]
            assert scores[picture, run].tolist() == pytest.approx(expected, abs=2e-6)


def scores_of(name, whole, views, bank=None, **options):
    method = METHODS[name]
    bank = bank or bank_of(name)
    return class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, logit_scale=LOGIT_SCALE, **options)


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def entropy(logits):
    return -sum(p * math.log(p) for p in softmax(logits) if p > 0)


def loop_awt(whole, views, ys, image_temperature=0.5, text_temperature=0.5, epsilon=0.1):
    means = [mixed(of_class, [1 / len(of_class)] * len(of_class)) for of_class in ys]
    views = [whole, *views]
    w = softmax([-entropy([LOGIT_SCALE * dot(view, mean) for mean in means]) / image_temperature for view in views])
    base = [LOGIT_SCALE * dot(whole, mean) for mean in means]
    scores = []
    for label, of_class in enumerate(ys):
        replaced = [[*base[:label], LOGIT_SCALE * dot(whole, y), *base[label + 1 :]] for y in of_class]
        v = softmax([-entropy(logits) / text_temperature for logits in replaced])
        cost = [[1 - dot(view, y) for y in of_class] for view in views]
        plan = ot.sinkhorn(w, v, cost, epsilon, stopThr=1e-12, numItermax=5000)
        scores.append(sum(plan[m][n] * (1 - cost[m][n]) for m in range(len(w)) for n in range(len(v))))
    return scores


def loop_lazsl(whole, views, ys, alpha=0.8, epsilon=0.1):
    likeness = [dot(view, whole) for view in views]
    kept = [view for view, value in zip(views, likeness, strict=True) if value >= sum(likeness) / len(likeness)]
    scores = []
    for of_class in ys:
        s = [[(1 - alpha) * dot(whole, y) + alpha * dot(view, y) for y in of_class] for view in kept]
        cost = [[1 - value for value in row] for row in s]
        masses = [1 / len(kept)] * len(kept), [1 / len(of_class)] * len(of_class)
        plan = ot.sinkhorn(*masses, cost, epsilon, stopThr=1e-12, numItermax=5000)
        scores.append(sum(plan[m][n] * s[m][n] for m in range(len(kept)) for n in range(len(of_class))))
    return scores


def loop_abs(whole, views, ys, temperature=0.03):
    scores = [0.0] * len(ys)
    for view in views:
        p = iter(softmax([dot(view, y) / temperature for of_class in ys for y in of_class]))
        for label, of_class in enumerate(ys):
            scores[label] += sum(next(p) * dot(view, y) for y in of_class) / len(views)
    return scores


def loop_max_views(whole, views, ys):
    means = [mixed(of_class, [1 / len(of_class)] * len(of_class)) for of_class in ys]
    return [max(dot(view, mean) / math.sqrt(dot(view, view) * dot(mean, mean)) for view in views) for mean in means]


def loop_autoclip(whole, views, ys, beta=0.85):
    templates = range(len(ys[0]))
    e = [[dot(whole, of_class[i]) for of_class in ys] for i in templates]

    def scores(rho):
        w = softmax(rho)
        return [sum(w[i] * e[i][j] for i in templates) for j in range(len(ys))]

    def log_sum(rho):
        return math.log(sum(math.exp(s) for s in scores(rho)))

    step = 1e-5
    nudges = [[step * (i == k) for k in templates] for i in templates]
    gradient = [(log_sum(nudge) - log_sum([-x for x in nudge])) / (2 * step) for nudge in nudges]
    target = beta * math.log(len(ys[0]))
    low, high = 0.0, 1e10
    for _ in range(200):
        alpha = (low + high) / 2
        low, high = (alpha, high) if entropy([alpha * g for g in gradient]) > target else (low, alpha)
    return scores([low * g for g in gradient])


LOOPS = {
    "awt": loop_awt,
    "lazsl": loop_lazsl,
    "abs": loop_abs,
    "max-views": loop_max_views,
    "autoclip": loop_autoclip,
}


OPTIONS = {
    "awt": {"image_temperature": 2.0, "text_temperature": 0.1, "epsilon": 0.3},
    "lazsl": {"alpha": 0.4, "epsilon": 0.3},
    "abs": {"temperature": 0.2},
    "autoclip": {"beta": 0.5},
    "zero": {"gamma": 0.6},
    "mta": {"rho": 0.9, "lambda": 1.0, "lambda_y": 1.0},
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in LOOPS),
        *((name, {option: value}) for name in LOOPS for option, value in OPTIONS.get(name, {}).items()),
    ],
)
def test_later_scores_equal_the_loop(name, options):
    """Zero's and mta's loops are in test_selection.py."""
    whole, views = unit(4, WIDTH, seed=1), unit(4, 6, WIDTH, seed=2)
    ys = [encode(texts).double().tolist() for texts in TEXTS[name]]
    pictures = zip(whole.double().tolist(), views.double().tolist(), strict=True)
    expected = [LOOPS[name](x0, xs, ys, **options) for x0, xs in pictures]
    (method,) = pick_methods([":".join([name, *(f"{option}={value}" for option, value in options.items())])])
    found = class_scores(method, bank_of(name), whole, views, image_scale=IMAGE_SCALE, logit_scale=LOGIT_SCALE).double()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_each_option_changes_the_scores_and_the_papers_value_none(name):
    whole, views = unit(4, WIDTH, seed=1), unit(4, 12, WIDTH, seed=2)
    plain, options = scores_of(name, whole, views), METHODS[name].options
    assert set(options) == set(OPTIONS.get(name, ()))
    for option, value in options.items():
        same, other = pick_methods([f"{name}:{option}={value}", f"{name}:{option}={OPTIONS[name][option]}"])
        assert other.name == f"{name}:{option}={OPTIONS[name][option]:g}"
        scores = [
            class_scores(m, bank_of(name), whole, views, image_scale=IMAGE_SCALE, logit_scale=LOGIT_SCALE)
            for m in (same, other)
        ]
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
        ("awt:epsilon=nan", "epsilon of awt is 'nan', but must be a number above 0$"),
        ("awtt:epsilon=1", "unknown method awtt, did you mean awt"),
    ],
)
def test_an_option_that_cannot_be_is_named(text, reason):
    with pytest.raises(InputError, match=reason):
        pick_methods([text])


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_views_and_descriptions_is_nothing(name):
    whole, views = unit(3, WIDTH, seed=1), unit(3, 7, WIDTH, seed=2)
    first = scores_of(name, whole, views)
    torch.testing.assert_close(scores_of(name, whole, views[:, [4, 0, 6, 2, 5, 1, 3]]), first, atol=2e-6, rtol=0)
    backwards = replace(
        INPUTS,
        templates=INPUTS.templates[::-1],
        descriptors=[texts[::-1] for texts in INPUTS.descriptors],
        sentences=[texts[::-1] for texts in SENTENCES],
    )
    bank = text_bank(METHODS[name], backwards, encode, TEXT_SCALE)
    torch.testing.assert_close(scores_of(name, whole, views, bank), first, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", LATER)
def test_chunks_change_nothing(name, monkeypatch):
    whole, views = unit(9, WIDTH, seed=1), unit(9, 4, WIDTH, seed=2)
    first = scores_of(name, whole, views)
    assert first.shape == (9, 3)
    assert first.dtype == torch.float32
    monkeypatch.setattr(matching, "CHUNK", 1)
    torch.testing.assert_close(scores_of(name, whole, views), first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_stored_float16_features_are_taken(name):
    whole, views = unit(3, WIDTH, seed=1), unit(3, 5, WIDTH, seed=2)
    scores = scores_of(name, whole.half(), views.half())
    assert scores.dtype == torch.float32
    # A vote is a whole number, and near ties of it may turn with the rounding.
    torch.testing.assert_close(scores, scores_of(name, whole, views), atol=0.2 if name == "zero" else 5e-3, rtol=0)


@pytest.mark.parametrize("name", ["zero", "mta", "awt"])
def test_the_logit_scale_counts(name):
    whole, views = unit(3, WIDTH, seed=1), unit(3, 7, WIDTH, seed=2)
    bank, method = bank_of(name), METHODS[name]
    mild, sharp = (
        class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, logit_scale=scale) for scale in (1.0, 50.0)
    )
    assert not torch.allclose(mild, sharp, atol=1e-4)


@pytest.mark.parametrize("name", ["awt", "lazsl"])
def test_refining_some_classes_finds_the_same_best_one(name, monkeypatch):
    width, classes = 32, 60
    counts = torch.randint(1, 9, (classes,), generator=torch.Generator().manual_seed(0))
    centres = unit(classes, width, seed=5)
    features = centres.repeat_interleave(counts, 0) + 0.6 * unit(int(counts.sum()), width, seed=6)
    features /= features.norm(dim=1, keepdim=True)
    weights = alignment.uniform_text_weights(counts)
    pooled = alignment.pool_texts(features, weights, counts)
    bank = TextBank(("",) * len(features), features, counts, weights, pooled)
    whole = unit(200, width, seed=7) + 0.4 * centres[torch.arange(200) % classes]
    whole /= whole.norm(dim=1, keepdim=True)
    views = whole[:, None] + 0.7 * unit(200, 12, width, seed=8)
    views /= views.norm(dim=2, keepdim=True)
    some = scores_of(name, whole, views, bank)
    monkeypatch.setattr(transport, "REFINED", classes)
    every = scores_of(name, whole, views, bank)
    assert torch.equal(some.argmax(1), every.argmax(1))
    assert not torch.equal(some, every)
    top = some.topk(16, dim=1).indices
    torch.testing.assert_close(some.gather(1, top), every.gather(1, top), atol=1e-5, rtol=0)


def test_view_weights_are_the_rows():
    whole, views = unit(3, WIDTH, seed=1), unit(3, 5, WIDTH, seed=2)
    for name, method in METHODS.items():
        if method.cross:
            seen = torch.cat([whole[:, None], views], 1) if method.whole_is_view else views
            weights = view_weights(method, bank_of(name), whole, seen, image_scale=IMAGE_SCALE)
            assert weights.shape == seen.shape[:2]
            torch.testing.assert_close(weights.sum(1), torch.ones(3))
            assert bool((weights == 0).any()) == (name == "lazsl")


def test_baselines_see_the_whole_image_only():
    whole = unit(3, WIDTH, seed=1)
    for name, method in METHODS.items():
        first, second = (
            class_scores(method, bank_of(name), whole, unit(3, 5, WIDTH, seed=seed), image_scale=IMAGE_SCALE)
            for seed in (2, 3)
        )
        assert torch.equal(first, second) == (not method.cross)
        assert method.passes == ("1 + M" if method.cross else "1")
    assert {name for name, method in METHODS.items() if not method.cross} == {*SIX[:-1], "autoclip"}


def test_which_methods_need_descriptions():
    assert {name for name, method in METHODS.items() if method.needs_descriptions} == {
        "clip-d",
        "cupl",
        "wca",
        "awt",
        "lazsl",
        "abs",
        "mean-views",
        "max-views",
    }
    bare = PromptInputs(NAMES)
    for name, method in METHODS.items():
        if method.needs_descriptions:
            with pytest.raises(InputError, match="need descriptions of the classes"):
                text_bank(method, bare, encode, TEXT_SCALE)
        else:
            assert text_bank(method, bare, encode, TEXT_SCALE).pooled.shape == (3, WIDTH)
        assert method.name == name
        assert method.summary
        assert method.source


def test_methods_are_picked_by_name():
    assert tuple(METHODS) == (*SIX, *LATER)
    assert [method.name for method in pick_methods(["wca", "clip", "wca"])] == ["wca", "clip"]
    assert pick_methods(["all"]) == list(METHODS.values())
    with_another = [*METHODS, "zero:gamma=0.1"]
    assert [method.name for method in pick_methods(["all", "zero:gamma=0.1", "wca", "zero:gamma=0.10"])] == with_another


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
    bank = text_bank(method, INPUTS, encode, TEXT_SCALE)
    assert sorted(bank.counts.tolist()) == [1, 2, 3]
    scores = class_scores(method, bank, unit(2, WIDTH), unit(2, 3, WIDTH, seed=1), image_scale=IMAGE_SCALE)
    assert scores.isfinite().all()


def test_unknown_prompts_are_named():
    with pytest.raises(InputError, match=r"unknown prompts 'shufled'; known are photo, .*repeated-name"):
        with_prompts(METHODS["wca"], "shufled")


def test_a_budget_cuts_the_bank():
    bank = text_bank(METHODS["wca"], INPUTS, encode, TEXT_SCALE, budget=2)
    assert bank.counts.tolist() == [2, 1, 2]
    torch.testing.assert_close(bank.features, encode(bank.texts))


def test_templates_of_unequal_number_are_refused():
    method = with_prompts(METHODS["autoclip"], "sentences")
    bank = text_bank(method, INPUTS, encode, TEXT_SCALE)
    with pytest.raises(InputError, match=r"autoclip weighs templates.*classes have 1 to 3 prompts"):
        class_scores(method, bank, unit(2, WIDTH), unit(2, 3, WIDTH), image_scale=IMAGE_SCALE)


def test_the_command_lists_them():
    done = CliRunner().invoke(main, ["methods"], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == [
        "method",
        "what it does",
        "looks at",
        "encoder passes",
        "needs descriptions",
        "options",
        "source",
    ]
    for name, looks_at, passes, needs in (
        ("clip", "whole", "1", ""),
        ("wca", "views and whole", r"1 \+ M", "yes"),
        ("zero", "views and whole", r"1 \+ M", ""),
        ("max-views", "views", r"1 \+ M", "yes"),
        ("autoclip", "whole", "1", ""),
    ):
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert re.search(rf"  {looks_at} +{passes} +{needs}", line)
        assert line.endswith(METHODS[name].source)
    assert re.search(r" rho=0\.3 .*\n +lambda=4\n +lambda_y=0\.2\n", done.stdout)
