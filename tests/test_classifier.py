"""`Classifier` on real photos with the real built-in encoder."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import PHOTOS
from crossalign import Classifier
from crossalign.classifier import Classification, Prediction
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.images.crops import ViewRecipe, crop_views
from crossalign.images.decoding import read_image
from crossalign.methods.alignment import FORMS
from crossalign.methods.registry import METHODS
from crossalign.store.shards import Store
from crossalign.text.descriptions import Descriptions, bundled_descriptions

DEMO = bundled_descriptions("demo")
SHOWN = {"chelsea.png": "cat", "coffee.png": "cup of coffee", "rocket.jpg": "rocket", "brick.png": "brick wall"}
LABELS = ["dog", *SHOWN.values(), "moon"]
PATHS = [PHOTOS / name for name in SHOWN]
CAT = PATHS[0]


@pytest.fixture(scope="module")
def make(builtin):
    def classifier(labels=LABELS, descriptions=DEMO, **options):
        return Classifier(labels, descriptions, **({"encoder": builtin, "views": 2} | options))

    return classifier


@pytest.fixture(scope="module")
def classify(make):
    return make()


@pytest.fixture(scope="module")
def alone(classify):
    """Each photo classified by itself."""
    return [classify(path)[0] for path in PATHS]


def assert_same(found, expected):
    """The same to the last bit; only what pictures are called may differ."""
    assert [(result.predictions, result.error) for result in found] == [(r.predictions, r.error) for r in expected]


def test_three_lines():
    classify = Classifier(["cat", "dog", "cup of coffee"])
    results = classify(PHOTOS / "coffee.png")
    assert [result.label for result in results] == ["cup of coffee"]
    assert classify.views.recipe == ViewRecipe(60, (0.1, 0.9), seed=0)
    assert classify.scorer.method is METHODS["wca"]


def test_photos_are_recognised(alone):
    assert [result.label for result in alone] == list(SHOWN.values())


def test_results_are_plain_data(alone):
    for path, result in zip(PATHS, alone, strict=True):
        assert isinstance(result, Classification)
        assert (result.image, result.error) == (str(path), None)
        assert len(result.predictions) == 3
        assert all(isinstance(p, Prediction) and p.label in LABELS for p in result.predictions)
        assert result.label == result.predictions[0].label
        scores, shares = ([getattr(p, name) for p in result.predictions] for name in ("score", "probability"))
        assert scores == sorted(scores, reverse=True)
        assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("top_k", [1, 2, 99])
def test_top_k_is_how_many_are_given(classify, top_k):
    assert len(classify(CAT, top_k=top_k)[0].predictions) == min(top_k, len(LABELS))


def test_probabilities_are_a_softmax_of_all_scores(classify, builtin):
    predictions = classify(CAT, top_k=len(LABELS))[0].predictions
    assert {p.label for p in predictions} == set(LABELS)
    assert sum(p.probability for p in predictions) == pytest.approx(1)
    powers = [math.exp(builtin.logit_scale * p.score) for p in predictions]
    assert [p.probability for p in predictions] == pytest.approx([x / sum(powers) for x in powers], rel=1e-4)


@pytest.mark.slow
def test_a_picture_may_come_in_any_form(classify, alone):
    with Image.open(CAT) as image:
        pixels = np.asarray(image)
        forms = [str(CAT), CAT, image, pixels, pixels / 255.0]
        found = [classify(form)[0] for form in forms]
    assert [result.image for result in found] == [str(CAT)] * 2 + [None] * 3
    assert_same(found, [alone[0]] * 5)


@pytest.mark.parametrize("gather", [list, tuple, iter, lambda paths: (path for path in paths)])
def test_many_pictures_may_come_in_any_gathering(classify, alone, gather):
    assert_same(classify(gather(PATHS[:2])), alone[:2])


def test_no_pictures_are_no_results(classify):
    assert classify([]) == []


def test_a_stream_may_never_end(classify, alone):
    stream = classify.stream(itertools.cycle(PATHS))
    assert_same(list(itertools.islice(stream, 6)), alone + alone[:2])
    stream.close()


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.slow
def test_results_depend_on_no_neighbours_or_workers(make, alone, num_workers):
    classify = make(num_workers=num_workers)
    # In another order, and more than a batch of the classifier holds.
    assert_same(classify(PATHS[::-1] * 2 + PATHS[:1]), alone[::-1] * 2 + alone[:1])


@pytest.mark.slow
def test_the_seed_moves_the_views(make, alone):
    again, other = make(seed=0)(PATHS), make(seed=1)(PATHS)
    assert_same(again, alone)
    assert [p.score for p in other[0].predictions] != pytest.approx([p.score for p in alone[0].predictions], abs=1e-4)


def test_broken_pictures_get_their_reason_and_the_others_go_on(classify, alone, tmp_path):
    whole = (PHOTOS / "rocket.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.png").write_text("<html></html>")
    cut = Image.open(tmp_path / "cut.jpg")
    bad = [tmp_path / "cut.jpg", tmp_path / "page.png", tmp_path / "none.jpg", str(tmp_path), cut, np.zeros((2, 2, 7))]
    mixed = list(itertools.chain.from_iterable(zip(bad, itertools.cycle(PATHS), strict=False)))
    found = classify(mixed)
    assert_same(found[1::2], (alone * 2)[: len(bad)])
    assert [result.image for result in found[::2]] == [*map(str, bad[:4]), None, None]
    reasons = ["cannot be read", "cannot be read", "does not exist", "is a folder", "cannot be read", "is no image"]
    for result, reason in zip(found[::2], reasons, strict=True):
        assert reason in result.error
        assert "\n" not in result.error
        assert (result.predictions, result.label) == ((), None)
    assert [result.error is None for result in classify(bad)] == [False] * len(bad)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("cat,dog", "labels is the text 'cat,dog'; give a list"),
        (["cat", "", "dog"], "label number 2 is empty"),
        (["cat", "dog", " "], "label number 3 is empty"),
        (["dog", "cat", "dog", "cat", "bus"], "cat, dog stands more than once"),
        (["big cat", " big  cat "], "big cat stands more than once"),
        (["cat"], "1 label given, but classifying takes two or more"),
        ([], "0 labels given, but classifying takes two or more"),
    ],
)
def test_wrong_labels_say_why(make, labels, reason):
    with pytest.raises(InputError, match=reason):
        make(labels, None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "nonsense"}, "unknown method nonsense; known are clip"),
        ({"method": "all"}, "one method"),
        ({"views": 0}, "wca needs at least one view, but views is 0"),
        ({"crop_scale": (0.9, 0.1)}, "crop_scale is 0.9, 0.1"),
        ({"seed": -1}, "the seed is -1"),
        ({"method": "waffle", "seed": -1}, "the seed is -1"),
        ({"encoder": "nonsense:x"}, "'nonsense:x' names no known backend"),
    ],
)
def test_wrong_options_say_why(make, options, reason):
    with pytest.raises(InputError, match=reason):
        make(**options)


OWN = {
    "Cat": ["A cat has whiskers.", "A cat has a tail."],
    "CUP-OF_COFFEE": ("A cup of coffee is dark.",),
    "unused": ["It is."],
}
TEXTS = ("A cat has whiskers.", "A cat has a tail.", "A cup of coffee is dark.")
PAIR = ["cat", "cup of coffee"]


@pytest.mark.slow
def test_descriptions_come_as_dict_file_or_loaded(make, tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({name: list(texts) for name, texts in OWN.items()}))
    loaded = Descriptions("own", "sentences", {name: tuple(texts) for name, texts in OWN.items()})
    for given in (OWN, file, str(file), loaded):
        classify = make(PAIR, given)
        assert classify.scorer.texts.texts == TEXTS
        assert [result.label for result in classify(PATHS[:2])] == PAIR


@pytest.mark.slow
def test_bundled_descriptions_come_by_name(make):
    one, other = (make(descriptions=given).scorer.texts.texts for given in ("demo", DEMO))
    assert one == other


def test_fragments_become_sentences_with_the_domain(make):
    classify = make(PAIR, {"cat": ["has whiskers"], "cup of coffee": ["a hot drink"]}, domain="thing")
    assert "a photo of a cat, a type of thing, which has whiskers." in classify.scorer.texts.texts
    assert "a photo of a cup of coffee, a type of thing, which is a hot drink." in classify.scorer.texts.texts


@pytest.mark.parametrize(
    ("descriptions", "reason"),
    [
        ({"cat": ["has whiskers"]}, "no descriptions for 1 of 2 classes: cup of coffee"),
        ({"cat": ["has whiskers"], "cup of coffee": []}, "no descriptions for 1 of 2 classes: cup of coffee"),
        ({"cat": "has whiskers", "cup of coffee": ["foam"]}, "has for 'cat' something else than a list of texts"),
        ({}, "names no classes"),
        ("none.json", r"'none\.json' cannot be read"),
    ],
)
def test_wrong_descriptions_say_why(make, descriptions, reason):
    with pytest.raises(InputError, match=reason):
        make(PAIR, descriptions)


def test_without_descriptions_templates_stand_in(make):
    templates = load_config("folder").templates
    assert len(templates) > 1
    for labels, given in ((PAIR, None), (["beagle", "pug"], "none")):
        classify = make(labels, given)
        assert classify.scorer.texts.texts == tuple(template.format(name) for name in labels for template in templates)
        assert classify.descriptions_source == "templates"


@pytest.mark.slow
def test_bundled_descriptions_that_know_all_labels_are_the_default(make):
    classify = make(["beagle", "Pug"], None)
    assert classify.descriptions_source == "bundled:oxford_pet"
    assert classify.scorer.texts.texts == make(["beagle", "Pug"], "oxford_pet").scorer.texts.texts
    assert make(PAIR, OWN).descriptions_source == "descriptions"


@pytest.mark.parametrize("texts", [["has whiskers"], ["A cat has whiskers."]])
def test_labels_without_descriptions_may_get_templates(make, texts):
    with pytest.raises(InputError, match="1 of 2 classes: cup of coffee; rename"):
        make(PAIR, {"cat": texts})
    with pytest.warns(UserWarning, match="1 of 2 classes: cup of coffee; hand-written prompts stand for them"):
        classify = make(PAIR, {"cat": texts}, allow_missing=True)
    templates = load_config("folder").templates
    assert classify.scorer.texts.texts[-len(templates) :] == tuple(
        template.format("cup of coffee") for template in templates
    )
    assert all("whiskers" in text for text in classify.scorer.texts.texts[: -len(templates)])


@pytest.mark.parametrize("method", [method.name for method in METHODS.values() if method.single_image])
@pytest.mark.slow
def test_every_method_classifies(make, method):
    classify = make(method=method)
    found = classify(PATHS)
    assert sum(result.label == truth for result, truth in zip(found, SHOWN.values(), strict=True)) >= 3
    assert (classify.views.recipe.count == 2) == METHODS[method].uses_views


def cosine(a, b):
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def test_clip_is_the_cosine_with_one_prompt(make, builtin):
    scores = {p.label: p.score for p in make(method="clip")(CAT, top_k=99)[0].predictions}
    image = builtin.encode_images(builtin.preprocessing.fit(read_image(CAT))[None])[0].double()
    texts = builtin.encode_texts([f"a photo of a {label}." for label in LABELS]).double()
    assert [scores[label] for label in LABELS] == pytest.approx([cosine(image, text) for text in texts], abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_wca_is_the_papers_sum_over_views_and_sentences(make, builtin, form):
    classify = make(PAIR, OWN, form=form, seed=3, views=3)
    scores = {p.label: p.score for p in classify(CAT)[0].predictions}
    recipe = ViewRecipe(3, (0.1, 0.9), seed=3)
    whole, *views = builtin.encode_images(crop_views(read_image(CAT), recipe, builtin.preprocessing)).double()
    w = torch.tensor([math.exp(math.exp(4) * float(view @ whole)) for view in views], dtype=torch.float64)
    w /= w.sum()
    for label, sentences in zip(PAIR, (TEXTS[:2], TEXTS[2:]), strict=True):
        prompt, *ys = builtin.encode_texts([f"a photo of a {label}.", *sentences]).double()
        v = torch.tensor([math.exp(math.exp(2) * float(y @ prompt)) for y in ys], dtype=torch.float64)
        v /= v.sum()
        if form == "paper":
            expected = sum(w[m] * v[n] * (views[m] @ ys[n]) for m in range(3) for n in range(len(ys)))
        else:
            expected = cosine(sum(map(torch.mul, w, views)), sum(map(torch.mul, v, ys)))
        assert scores[label] == pytest.approx(float(expected), abs=1e-5)


def test_a_store_keeps_the_labels_features(make, alone, tmp_path, monkeypatch):
    make(store=Store(tmp_path))
    texts = tmp_path / "texts"
    times = [file.stat().st_mtime_ns for file in texts.rglob("*.safetensors")]
    assert times
    assert_same(make(store=Store(tmp_path))(PATHS), alone)
    assert [file.stat().st_mtime_ns for file in texts.rglob("*.safetensors")] == times


@pytest.mark.slow
def test_a_large_jpeg_is_unpacked_smaller_where_no_view_needs_more(builtin, tmp_path):
    photo = Image.open(CAT).convert("RGB").resize((2400, 1600))
    photo.save(tmp_path / "large.jpg", quality=95)
    assert read_image(tmp_path / "large.jpg", shortest=448).shape == (3, 800, 1200)
    assert read_image(tmp_path / "large.jpg", shortest=401).shape == (3, 800, 1200)
    assert read_image(tmp_path / "large.jpg", shortest=400).shape == (3, 400, 600)
    assert read_image(tmp_path / "large.jpg").shape == (3, 1600, 2400)
    photo.save(tmp_path / "large.png")
    assert read_image(tmp_path / "large.png", shortest=400).shape == (3, 1600, 2400)
    classify = Classifier(PAIR, encoder=builtin, method="clip")
    ((_, features),) = classify.encode([tmp_path / "large.jpg"])
    whole = builtin.preprocessing.fit(read_image(tmp_path / "large.jpg"))
    assert float(builtin.encode_images(whole[None])[0] @ features[0]) > 0.99
    assert Classifier(PAIR, encoder=builtin, views=2).views.shortest(builtin.preprocessing) == 4480
