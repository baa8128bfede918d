"""Each row of the table of methods against a plain float64 loop."""

import hashlib
import math

import pytest
import torch

from crossalign.alignment import FORMS
from crossalign.errors import InputError
from crossalign.methods import METHODS, class_scores, pick_methods, text_bank
from crossalign.prompts import PromptInputs

WIDTH = 12
IMAGE_SCALE, TEXT_SCALE = 3.0, 1.5
NAMES = ("cat", "owl", "cup of coffee")
SENTENCES = (("A cat has whiskers.", "A cat is small."), ("An owl has wings.",), ("It is hot.", "Steam.", "A saucer."))
INPUTS = PromptInputs(
    NAMES,
    templates=("a photo of a {}.", "a sketch of the {}."),
    descriptors=(("has fur", "a pet"), ("has a beak",), ("foam", "has a handle", "is round")),
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
        ["cup of coffee, which has foam", "cup of coffee, which has a handle", "cup of coffee, which is round"],
    ],
    "cupl": [list(texts) for texts in SENTENCES],
    "wca": [list(texts) for texts in SENTENCES],
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


def loop_score(cross, texts, name, whole, views, form):
    """Score one class for one picture as the papers write it."""
    ys = encode(texts).double().tolist()
    if cross:
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
@pytest.mark.parametrize("name", METHODS)
def test_scores_equal_the_loop(name, form):
    method, bank = METHODS[name], bank_of(name)
    whole, views = unit(4, WIDTH, seed=1), unit(4, 5, WIDTH, seed=2)
    scores = class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, form=form)
    expected = [
        [loop_score(method.cross, texts, label, x0, xs, form) for label, texts in zip(NAMES, by_class(bank), strict=True)]
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
    if not method.cross:
        assert torch.equal(scores, class_scores(method, bank, whole, views, image_scale=IMAGE_SCALE, form=form))
        return
    assert scores.shape == (2, 3, 3)
    for run, drawn in enumerate(([0, 0, 2, 3], [1, 1, 1, 1], [0, 1, 2, 3])):
        for picture in range(2):
            xs = views[picture, drawn].double().tolist()
            x0 = whole[picture].double().tolist()
            expected = [
                loop_score(True, texts, label, x0, xs, form) for label, texts in zip(NAMES, TEXTS[name], strict=True)
            ]
            assert scores[picture, run].tolist() == pytest.approx(expected, abs=2e-6)


def test_baselines_see_the_whole_image_only():
    whole = unit(3, WIDTH, seed=1)
    for name, method in METHODS.items():
        first, second = (
            class_scores(method, bank_of(name), whole, unit(3, 5, WIDTH, seed=seed), image_scale=IMAGE_SCALE)
            for seed in (2, 3)
        )
        assert torch.equal(first, second) == (name != "wca")


def test_which_methods_need_descriptions():
    assert {name for name, method in METHODS.items() if method.needs_descriptions} == {"clip-d", "cupl", "wca"}
    bare = PromptInputs(NAMES)
    for name, method in METHODS.items():
        if method.needs_descriptions:
            with pytest.raises(InputError, match=r"need descriptions.*--descriptions"):
                text_bank(method, bare, encode, TEXT_SCALE)
        else:
            assert text_bank(method, bare, encode, TEXT_SCALE).pooled.shape == (3, WIDTH)
        assert method.name == name
        assert method.summary
        assert method.source


def test_methods_are_picked_by_name():
    assert list(METHODS) == ["clip", "clip-e", "clip-d", "waffle", "cupl", "wca"]
    assert [method.name for method in pick_methods(["wca", "clip", "wca"])] == ["wca", "clip"]
    assert pick_methods(["all"]) == list(METHODS.values())


def test_every_unknown_method_is_named():
    with pytest.raises(InputError, match=r"unknown method CLIP, nonsense; known are clip, clip-e, .*wca"):
        pick_methods(["clip", "CLIP", "nonsense"])
