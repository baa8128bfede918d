"""Answers one can act on: example images, labels that compete, calibration, independent probabilities."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from command import fails, run
from conftest import PHOTOS
from crossalign import Classifier
from crossalign.classifier.calibration import Calibration, Calibrations, made_with, read_calibrations
from crossalign.classifier.scorer import LabelScorer
from crossalign.datasets.examples import find_examples
from crossalign.errors import InputError
from crossalign.evaluation.answers import calibrate
from crossalign.explanation import explain
from crossalign.methods.examples import class_embeddings, pool
from crossalign.methods.method import ScoreConfig
from crossalign.methods.registry import METHODS
from crossalign.store.shards import Store

SOURCES = {"cat": "chelsea.png", "cup of coffee": "coffee.png", "astronaut": "astronaut.png"}


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """DIR/CLASS/images: three different crops of a photo per class."""
    root = tmp_path_factory.mktemp("examples")
    for label, name in SOURCES.items():
        (root / label).mkdir()
        with Image.open(PHOTOS / name) as photo:
            for number in range(3):
                photo.crop((20 * number, 0, 20 * number + 260, 260)).save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def photos():
    return [PHOTOS / name for name in SOURCES.values()]


@pytest.fixture(scope="module")
def by_examples(builtin, crops):
    return Classifier(examples=crops, encoder=builtin, views=6)


@pytest.mark.slow
def test_examples_alone_give_their_folders_as_labels(by_examples, photos):
    assert by_examples.labels == tuple(sorted(SOURCES))
    assert [result.label for result in by_examples(photos)] == list(SOURCES)
    assert by_examples.scorer.examples.mixture.share == 0
    assert by_examples.scorer.examples.mixture.tested == 9


@pytest.mark.slow
def test_scores_are_cosines_in_the_visual_space(builtin, by_examples, crops, photos):
    """Against the tower's outputs, taken and pooled here."""
    visual = []
    for _, features in by_examples.encode([*sorted(crops.rglob("*.png")), photos[0]]):
        assert features.shape == (7, builtin.visual_width)
        visual.append(torch.nn.functional.normalize(features, dim=-1))
    stacked = torch.stack(visual)
    pooled = pool(stacked[:, 0], stacked[:, 1:], by_examples.scorer.config.image_scale)
    embeddings = class_embeddings(pooled[:9], torch.arange(9) // 3, 3)
    ((_, features),) = by_examples.encode([photos[0]])
    assert by_examples.scores(features).numpy() == pytest.approx((embeddings @ pooled[9]).numpy(), abs=1e-3)


@pytest.mark.slow
def test_texts_and_examples_answer_together(builtin, crops, photos):
    labels = list(SOURCES)
    texts, both = (Classifier(labels, encoder=builtin, views=6, examples=given) for given in (None, crops))
    alone = Classifier(encoder=builtin, views=6, examples={label: sorted((crops / label).iterdir()) for label in labels})
    share = both.scorer.examples.mixture.share
    assert 0 <= share <= 1
    for image in photos:
        scores = []
        for classify in (texts, alone, both):
            ((_, features),) = classify.encode([image])
            scores.append(classify.scores(features).numpy())
        assert scores[2] == pytest.approx(share * scores[0] + (1 - share) * scores[1], abs=1e-5)
    assert sum(p.probability for p in both(photos[0])[0].predictions) == pytest.approx(1)


@pytest.mark.slow
def test_adaptive_views_settle_for_examples_too(builtin, crops, photos):
    store = Store()
    for labels in (None, list(SOURCES)):
        classify = Classifier(labels, encoder=builtin, examples=crops, max_views=20, store=store)
        assert classify.views.rounds is not None
        results = classify(photos)
        assert [result.label for result in results] == list(SOURCES)
        assert {result.views for result in results} <= set(classify.views.rounds.counts)
        assert sum(result.views for result in results) < 60


@pytest.mark.parametrize("labels", [None, list(SOURCES)])
@pytest.mark.slow
def test_explanations_add_up_and_show_the_nearest_example_views(builtin, crops, photos, labels):
    classify = Classifier(labels, encoder=builtin, examples=crops, views=6)
    found = explain(classify, photos[0], 3)
    for evidence in found.classes:
        assert evidence.contributions.sum() == pytest.approx(evidence.score, abs=1e-3)
        assert evidence.text_weights.sum() == pytest.approx(1, abs=1e-5)
        share = classify.scorer.share
        assert sum(text.startswith("example ") for text in evidence.descriptions) == (3 if share < 1 else 0)
        assert any(not text.startswith("example ") for text in evidence.descriptions) == (share > 0)
        assert len(evidence.matches) == len(found.boxes)
    best = found.classes[0].matches[0]
    assert classify.scorer.labels[int(classify.examples.classes[best.image])] == found.classes[0].label
    height, width = classify.examples.view(best.image, best.view).shape[1:]
    assert (height <= 260, width <= 260) == (True, True)


def test_both_sides_of_a_mixture_are_explained(builtin, crops, photos):
    classify = Classifier(list(SOURCES), encoder=builtin, examples=crops, views=6)
    known = classify.scorer.examples
    mixture = replace(known.mixture, share=0.4)
    mixed = Classifier.of(
        replace(classify.scorer, examples=replace(known, mixture=mixture)),
        builtin,
        classify.views,
        examples=classify.examples,
    )
    for evidence in explain(mixed, photos[1], 3).classes:
        assert evidence.contributions.sum() == pytest.approx(evidence.score, abs=1e-3)
        examples = np.array([text.startswith("example ") for text in evidence.descriptions])
        assert evidence.text_weights[examples].sum() == pytest.approx(0.6, abs=1e-5)
        assert examples.sum() == 3 < len(examples)


@pytest.mark.slow
def test_explain_draws_the_nearest_example_views(crops, tmp_path):
    done = run("explain", PHOTOS / "coffee.png", "--examples", crops, "--views", 6, "-o", tmp_path / "why.png")
    assert done.returncode == 0, done.stderr
    assert "example " in done.stdout
    with Image.open(tmp_path / "why.png") as figure:
        assert figure.size[0] == 1500


@pytest.mark.slow
def test_an_encoder_without_a_visual_space_uses_the_joint_one(untrained, crops, photos):
    classify = Classifier(examples=crops, encoder=untrained, views=2)
    ((_, features),) = classify.encode(photos[:1])
    assert features.shape == (3, untrained.width)


def test_the_store_keeps_the_features_of_examples(builtin, crops, photos, tmp_path):
    store = Store(tmp_path)
    first = Classifier(examples=crops, encoder=builtin, views=2, store=store)
    times = [file.stat().st_size for file in tmp_path.rglob("shard-*.safetensors")]
    again = Classifier(examples=crops, encoder=builtin, views=2, store=store)
    assert len(times) == len(list(tmp_path.rglob("shard-*.safetensors"))) == 9
    assert torch.equal(first.scorer.examples.embeddings, again.scorer.examples.embeddings)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda root: shutil.copy(root / "cat" / "0.png", root / "astronaut" / "9.png"), r"the same image is an example of"),
        (lambda root: (root / "dog").mkdir(), r"class folder '.+dog' holds no image; add some, or remove it"),
        (lambda root: (root / "cat" / "8.png").write_bytes(b"no image"), r"class folder|an example cannot be used"),
        (lambda root: [shutil.rmtree(folder) for folder in root.iterdir()], r"has no folders in it"),
    ],
)
def test_bad_examples_are_refused(builtin, crops, tmp_path, change, match):
    root = tmp_path / "examples"
    shutil.copytree(crops, root)
    change(root)
    with pytest.raises(InputError, match=match):
        Classifier(examples=root, encoder=builtin, views=2)


def test_labels_and_examples_must_fit(builtin, crops, tmp_path):
    with pytest.raises(InputError, match=r"has no folder for dog; add it, or leave the label out \(its folders: astronaut"):
        Classifier(["cat", "dog"], examples=crops, encoder=builtin)
    with pytest.raises(InputError, match="there are examples for cup, which is no label"):
        Classifier(["cat", "dog"], examples={"cat": ["a"], "dog": ["b"], "cup": ["c"]}, encoder=builtin)
    with pytest.raises(InputError, match="there are neither labels nor examples"):
        Classifier(encoder=builtin)
    with pytest.raises(InputError, match=r"examples '.+gone' cannot be read"):
        Classifier(examples=tmp_path / "gone", encoder=builtin)
    assert list(find_examples(crops, ["Cup_of-Coffee", "CAT"])) == ["Cup_of-Coffee", "CAT"]


def test_other_labels_compete_and_are_no_answer(builtin, photos):
    classify = Classifier(["cup of coffee", "airliner"], other=["cat"], encoder=builtin, views=6)
    cat, coffee, _ = classify(photos, top_k=5)
    assert (cat.label, cat.reason, cat.error) == (None, "other", None)
    assert len(cat.predictions) == 2
    assert "cat" not in [p.label for p in cat.predictions]
    assert sum(p.probability for p in cat.predictions) < 0.5
    assert (coffee.label, coffee.reason) == ("cup of coffee", None)
    assert classify.labels == ("cup of coffee", "airliner")
    with pytest.raises(InputError, match="cat"):
        Classifier(["cat", "dog"], other=["Cat"], encoder=builtin)


def test_below_the_threshold_an_image_has_no_label(builtin, photos):
    classify = Classifier(list(SOURCES), encoder=builtin, views=6, threshold=1.0)
    result = classify(photos[0])[0]
    assert (result.label, result.reason, len(result.predictions)) == (None, "unsure", 3)
    assert result.rows() == [(str(photos[0]), "", "", "", "", "", "unsure")]
    with pytest.raises(InputError, match="threshold is 2, but must be a probability"):
        Classifier(list(SOURCES), encoder=builtin, threshold=2)


@pytest.mark.slow
def test_independent_probabilities_are_sigmoids(untrained, photos, monkeypatch):
    with pytest.raises(InputError, match=r"multi_label needs an encoder that was trained with a sigmoid, such as SigLIP"):
        Classifier(list(SOURCES), encoder=untrained, multi_label=True)
    monkeypatch.setattr(untrained, "logit_bias", -12.0)
    classify = Classifier(list(SOURCES), encoder=untrained, views=2, multi_label=True, threshold=0.0)
    (result,) = classify(photos[0])
    assert len(result.predictions) == 3
    for prediction in result.predictions:
        logit = untrained.logit_scale * prediction.score - 12
        assert prediction.probability == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-4)
    strict = Classifier(list(SOURCES), encoder=untrained, views=2, multi_label=True, threshold=1.0)(photos[0])[0]
    assert (strict.predictions, strict.label, strict.reason) == ((), None, "unsure")
    with pytest.raises(InputError, match="multi_label excludes calibration, examples and other"):
        Classifier(list(SOURCES), encoder=untrained, other=["x"], multi_label=True)


# Calibration


def scored(count, strength, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    scores = 0.1 * torch.randn((count, 4), generator=generator)
    scores[torch.arange(count), labels] += strength
    return scores, labels


def plain_threshold(scores, labels, scale, wanted):
    """The lowest probability at which enough answers are right, one candidate after the other."""
    answers = []
    for row, label in zip(scores.double().numpy(), labels.tolist(), strict=True):
        powers = np.exp(scale * (row - row.max()))
        answers.append((powers.max() / powers.sum(), row.argmax() == label))
    for threshold in sorted({probability for probability, _ in answers}):
        kept = [right for probability, right in answers if probability >= threshold]
        if sum(kept) / len(kept) >= wanted:
            return threshold, sum(kept) / len(kept), len(kept) / len(answers)
    raise AssertionError("not reached")


@pytest.mark.parametrize("wanted", [0.7, 0.9, 0.99])
def test_the_threshold_is_the_lowest_at_which_enough_answers_are_right(wanted):
    scores, labels = scored(300, 0.15)
    fitted = calibrate(scores, labels, wanted, {})
    expected = plain_threshold(scores, labels, fitted.logit_scale, wanted)
    assert (fitted.threshold, fitted.precision, fitted.answered) == pytest.approx(expected, rel=1e-9)
    assert fitted.interval[0] < fitted.precision <= fitted.interval[1]


def test_a_precision_out_of_reach_is_refused():
    scores, labels = scored(50, 0.0)
    scores[:, 0] += 1
    with pytest.raises(InputError, match=r"a precision of 99 % cannot be reached on these 50 images \(the highest is 0.0 %"):
        calibrate(scores, labels.clamp(min=1), 0.99, {})
    with pytest.raises(InputError, match="a threshold needs labelled images, but there are 1"):
        calibrate(scores[:1], labels[:1], 0.9, {})


@pytest.fixture
def calibrated(builtin, tmp_path):
    classify = Classifier(list(SOURCES), encoder=builtin, views=6)
    file = tmp_path / "cal.json"
    made = made_with(builtin, classify.scorer)
    Calibrations((Calibration(7.0, 0.6, 0.95, 0.97, (0.9, 0.99), 0.5, 100, made),)).write(file)
    return file


def test_a_calibration_is_applied(builtin, calibrated, photos):
    classify = Classifier(list(SOURCES), encoder=builtin, views=6, calibration=calibrated)
    (result,) = classify(photos[0])
    powers = [math.exp(7 * p.score) for p in result.predictions]
    assert [p.probability for p in result.predictions] == pytest.approx([x / sum(powers) for x in powers], rel=1e-4)
    assert (result.label is None) == (result.predictions[0].probability < 0.6)
    assert Classifier(list(SOURCES)[::-1], encoder=builtin, calibration=calibrated).scorer.threshold == 0.6


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"labels": ["cat", "dog"]}, "another set of labels"),
        ({"method": "mean-views"}, r"another method \(wca, now mean-views\)"),
        ({"form": "paper"}, r"another form \(released, now paper\)"),
        ({"domain": "thing", "descriptions": {name: ["has an edge"] for name in SOURCES}}, "another set of descriptions"),
        ({"other": ["dog"]}, "another set of labels"),
    ],
)
def test_a_calibration_of_something_else_is_refused(builtin, calibrated, changed, match):
    with pytest.raises(InputError, match=rf"^the calibration was made with {match}.*; use what it was made with"):
        Classifier(**{"labels": list(SOURCES), "encoder": builtin, "calibration": calibrated} | changed)


def test_a_calibration_of_another_encoder_is_refused(untrained, calibrated):
    with pytest.raises(InputError, match=r"another encoder \(builtin:lite0, now open_clip:"):
        Classifier(list(SOURCES), encoder=untrained, calibration=calibrated)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 9}', '{"schema": 1, "interval": 3}'])
def test_what_is_no_calibration_is_refused(tmp_path, content):
    (tmp_path / "cal.json").write_text(content)
    with pytest.raises(InputError, match="is no calibration file of this version"):
        read_calibrations(tmp_path / "cal.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_calibrations(tmp_path / "gone.json")


def test_the_scorer_needs_no_encoder():
    """A classifier travels to a cluster's workers as its scorer."""
    scorer = LabelScorer(("a", "b", "c"), METHODS["clip"], ScoreConfig(logit_scale=1.0), None, others=1, threshold=0.5)
    predictions, reason = scorer.answer(torch.tensor([1.0, 3.0, 2.0]), 1)
    assert ([p.label for p in predictions], reason) == (["b"], None)
    assert scorer.answer(torch.tensor([1.0, 2.0, 3.0]))[1] == "other"
    assert scorer.answer(torch.tensor([1.0, 1.1, 1.0]))[1] == "unsure"


# The commands


@pytest.mark.slow
def test_evaluate_measures_examples_and_writes_a_calibration_that_classify_takes(crops, tmp_path):
    labelled = tmp_path / "labelled"
    for label, name in SOURCES.items():
        (labelled / label).mkdir(parents=True)
        shutil.copy(PHOTOS / name, labelled / label)
    cal, out = tmp_path / "cal.json", tmp_path / "results.json"
    words = ("--encoder", "builtin", "--runtime", "torch", "--views", 4, "--store", tmp_path / "store")
    data = ("evaluate", "--dataset", "folder", "--data-path", labelled, *words)
    done = run(*data, "--examples", crops, "--calibration-file", cal, "--output", out)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["results"]
    assert [row["side"] for row in rows] == ["texts", "examples", "together"]
    assert "are right (95 % interval" in done.stdout
    for labels in ((), ("--labels", ",".join(SOURCES))):
        answered = run(
            "classify", PHOTOS / "coffee.png", *labels, "--examples", crops, *words, "--json", "--calibration", cal
        )
        assert answered.returncode == 0, answered.stderr
        (result,) = json.loads(answered.stdout)
        assert (result["label"], result["reason"]) in (("cup of coffee", None), (None, "unsure"))
        assert "examples: score = " in answered.stderr
    other = fails("classify", PHOTOS / "coffee.png", "--labels", "cat,dog", *words, "--calibration", cal)
    assert "made with another set of" in other


def test_evaluate_refuses_to_test_on_the_examples(crops):
    data = ("evaluate", "--dataset", "folder", "--data-path", crops, "--encoder", "builtin")
    assert "9 images of the dataset are examples, too" in fails(*data, "--examples", crops)
    assert "--runs means nothing there" in fails(*data, "--examples", crops, "--runs", 3)
    assert "name one" in fails(*data, "--examples", crops, "--methods", "wca,clip")
