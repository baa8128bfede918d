"""Classes by example images, other labels, thresholds and the server's own classes: the engine and the API."""

import base64
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from conftest import PHOTOS
from crossalign.classifier import Classifier
from crossalign.classifier.calibration import Calibration, Calibrations, made_with
from crossalign.encoders import load_encoder
from crossalign.errors import InputError
from crossalign.explanation import explain
from crossalign.web.api import create_app
from crossalign.web.engine import Engine, Limits
from crossalign.web.label_sets import Defaults, ExampleFile, Question, size_of


def part(name, box, kind="PNG"):
    """A part of a photo, in shares of its size, as a file."""
    image = Image.open(PHOTOS / name).convert("RGB")
    width, height = image.size
    left, top, right, bottom = box
    file = io.BytesIO()
    image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height))).save(file, kind)
    return file.getvalue()


PARTS = ((0, 0, 0.8, 0.8), (0.2, 0.1, 1, 0.9))
EXAMPLES = {
    "tom": [part("chelsea.png", box) for box in PARTS],
    "mug": [part("coffee.png", box, "JPEG") for box in PARTS],
    "ship": [part("rocket.jpg", box) for box in PARTS],
}
CAT = part("chelsea.png", (0.1, 0.1, 0.9, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for label, contents in EXAMPLES.items():
        (folder / label).mkdir()
        for number, content in enumerate(contents):
            (folder / label / f"{number}.png").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def client(builtin):
    engine = Engine(builtin, Limits(examples=8, megapixels=1))
    with TestClient(create_app(engine)) as client:
        client.engine = engine
        yield client
    engine.close()


def as_base64(content):
    return base64.b64encode(content).decode()


IN_JSON = {label: [as_base64(content) for content in contents] for label, contents in EXAMPLES.items()}


def in_json(client, **body):
    return client.post("/v1/classify", json={"images": [as_base64(CAT)], "views": 4} | body)


def in_form(client, examples, *more, **fields):
    files = [(f"examples.{label}", (f"{n}.png", content)) for label, of in examples.items() for n, content in enumerate(of)]
    return client.post("/v1/classify", files=[("images", ("a.png", CAT)), *files, *more], data={"views": "4"} | fields)


def refused(response):
    assert response.status_code == 422, response.text
    return response.json()["reason"]


# What is answered


def test_examples_alone_are_the_labels_and_answer_as_the_library_does(client, builtin):
    by_json, by_form = in_json(client, examples=IN_JSON).json(), in_form(client, EXAMPLES).json()
    (expected,) = Classifier(examples=EXAMPLES, encoder=builtin, views=4)(CAT)
    for answer in (by_json, by_form):
        (result,) = answer["results"]
        assert (result["label"], result["reason"]) == ("tom", None)
        assert [p["label"] for p in result["predictions"]] == [p.label for p in expected.predictions]
        for prediction, wanted in zip(result["predictions"], expected.predictions, strict=True):
            assert prediction["score"] == pytest.approx(wanted.score, abs=1e-6)
        assert answer["mixture"].startswith("score = 0.00 texts + 1.00 examples (leave-one-out on 6 examples: ")


def test_labels_and_examples_answer_together(client, builtin):
    labels = ["mug", "ship", "tom"]
    answer = in_json(client, labels=labels, examples=IN_JSON).json()
    classify = Classifier(labels, examples=EXAMPLES, encoder=builtin, views=4)
    (expected,) = classify(CAT)
    assert answer["mixture"] == str(classify.scorer.examples.mixture)
    assert answer["results"][0]["predictions"][0]["score"] == pytest.approx(expected.predictions[0].score, abs=1e-5)
    assert in_json(client, labels=labels).json()["mixture"] is None


def test_adaptive_views_are_the_default_with_examples_too(client, builtin):
    answer = in_json(client, examples=IN_JSON, views=None).json()
    (expected,) = Classifier(examples=EXAMPLES, encoder=builtin)(CAT)
    assert answer["results"][0]["views"] == expected.views < 60


def test_other_labels_and_the_threshold_leave_no_label(client):
    (other,) = in_json(client, labels=["dog", "car"], other=["cat"]).json()["results"]
    assert (other["label"], other["reason"]) == (None, "other")
    assert {p["label"] for p in other["predictions"]} == {"dog", "car"}
    (unsure,) = in_form(client, {}, labels="dog, wolf", threshold="0.99").json()["results"]
    assert (unsure["label"], unsure["reason"]) == (None, "unsure")
    assert max(p["probability"] for p in unsure["predictions"]) < 0.99
    (sure,) = in_form(client, {}, labels="dog, wolf", threshold="0.01", other="teapot, car").json()["results"]
    assert (sure["label"], sure["reason"]) == (sure["predictions"][0]["label"], None)


def test_labels_of_their_own_probability_need_a_sigmoid(client):
    reason = refused(in_json(client, labels=["cat", "dog"], multi_label=True))
    assert reason.startswith("multi_label needs an encoder that was trained with a sigmoid")
    assert refused(in_form(client, {}, labels="cat,dog", multi_label="true")) == reason


class Sigmoid:
    """The real encoder, with a bias as those have that were trained with a sigmoid."""

    logit_bias = -8.0

    def __init__(self, encoder):
        self._encoder = encoder

    def __getattr__(self, name):
        return getattr(self._encoder, name)


def test_labels_of_their_own_probability_share_the_texts_of_the_others(builtin):
    engine = Engine(Sigmoid(builtin))
    plain, several = (engine.classifier(Question.of(["cat", "dog"], multi_label=value)).scorer for value in (False, True))
    engine.close()
    assert plain.texts is several.texts
    assert (plain.threshold, several.threshold) == (0, 0.5)
    assert (plain.logit_bias, several.logit_bias) == (None, -8)


# What is refused

SECOND = as_base64(EXAMPLES["tom"][1])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"examples": {"tom": [SECOND], "mug": [SECOND]}},
            "the same image is an example of 'tom' ('number 1') and",
        ),
        (
            {"examples": {"tom": [as_base64(b"%!PS-Adobe-3.0 EPSF-3.0")], "mug": [SECOND]}},
            "an example cannot be used",
        ),
        ({"examples": {"tom": ["/etc/passwd"], "mug": [SECOND]}}, "example number 1 of 'tom' is no base64"),
        ({"examples": {"tom": [SECOND]}}, "1 label given, but classifying takes two or more"),
        ({"examples": {"tom": [SECOND], "mug": []}}, "there are no examples for mug"),
        ({"examples": IN_JSON, "labels": ["tom", "mug"]}, "there are examples for ship, which is no label"),
        ({"examples": IN_JSON, "labels": ["tom", "mug", "ship", "owl"]}, "there are no examples for owl"),
        (
            {"examples": {label: texts * 2 for label, texts in IN_JSON.items()}},
            "12 example images were given, but 8 are",
        ),
        ({"examples": {}}, "examples: "),
        ({"examples": IN_JSON, "multi_label": True}, "multi_label"),
        ({"labels": ["cat", "dog"], "threshold": 2}, "threshold: "),
        ({"labels": ["cat", "dog"], "other": ["dog"]}, "more than once"),
        ({"labels": ["cat", "dog"], "other": ["d" * 2000]}, "2000 characters"),
        ({}, "no labels were given, and the server has none of its own"),
    ],
)
def test_bad_questions_get_one_sentence(client, body, words):
    reason = refused(in_json(client, **body))
    assert words in reason
    assert client.engine.waiting == 0


def test_examples_in_a_form_are_files(client):
    assert refused(in_form(client, {}, **{"examples.tom": "/etc/passwd"})) == "examples.tom must be image files"
    broken = ("examples.tom", ("9.png", EXAMPLES["tom"][0][:500]))
    assert "image '9.png' cannot be read" in refused(in_form(client, EXAMPLES, broken))
    other = ("other", ("a.txt", b"dog"))
    assert refused(in_form(client, EXAMPLES, other)) == "other must be text, not a file"


def test_large_examples_are_refused_as_large_images_are(client):
    file = io.BytesIO()
    Image.new("1", (1200, 1000)).save(file, "PNG")
    reason = refused(in_json(client, examples=IN_JSON | {"tom": [as_base64(file.getvalue())]}))
    assert "1200000 pixels" in reason
    assert "1000000 are the limit" in reason


# What is cached


def files(contents):
    return [ExampleFile.of(f"{number}.png", content) for number, content in enumerate(contents)]


def example_question(**settings):
    return Question.of(examples={label: files(contents) for label, contents in EXAMPLES.items()}, **settings)


def test_examples_are_encoded_once_by_their_content(builtin):
    engine = Engine(builtin)
    first = engine.classifier(example_question())
    again = engine.classifier(example_question(views=30, threshold=0.5))
    assert first.examples is again.examples
    assert (first.scorer.threshold, again.scorer.threshold) == (0, 0.5)
    assert engine.label_sets == 1
    swapped = {"tom": files(EXAMPLES["mug"]), "mug": files(EXAMPLES["tom"])}
    assert engine.classifier(Question.of(examples=swapped)).examples is not first.examples
    assert engine.classifier(example_question(views=3)).examples.features.shape[1] == 4, "as many views as images have"
    assert engine.label_sets == 3
    engine.close()


def test_what_is_cached_of_examples_is_small_and_counts(builtin, monkeypatch):
    engine = Engine(builtin)
    classify = engine.classifier(example_question())
    for question in engine._label_sets._cached:
        assert all(file.source == b"" for _, of_class in question.examples for file in of_class)
    copies = [image.fetch() for image in classify.examples.images]
    assert all(max(Image.open(io.BytesIO(copy)).size) <= 480 for copy in copies)
    assert size_of(classify) > sum(map(len, copies)) + classify.examples.features.nbytes
    monkeypatch.setattr("crossalign.web.label_sets.CACHED_BYTES", size_of(classify) // 2)
    engine.classifier(Question.of(["cat", "dog"], method="clip"))
    assert engine.label_sets == 1
    engine.close()


def test_explanations_show_the_small_copies(builtin):
    engine = Engine(builtin)
    classify = engine.classifier(example_question(views=4))
    (features,) = engine.encode([("cat.png", io.BytesIO(CAT))], classify)
    engine.close()
    best = explain(classify, "cat.png", 2, features=features, size=Image.open(io.BytesIO(CAT)).size).classes[0]
    assert (best.label, best.descriptions) == ("tom", ("example 0.png", "example 1.png"))
    match = max(best.matches, key=lambda match: match.similarity)
    view = classify.examples.view(match.image, match.view)
    assert view.dtype == torch.uint8
    assert max(view.shape) <= 480


# The server's own classes


def calibration_of(classify, **changes):
    settings = {"logit_scale": 7.0, "threshold": 0.9, "wanted": 0.95, "precision": 1.0, "interval": (0.8, 1.0)}
    made = made_with(classify.encoder, classify.scorer)
    return Calibrations((Calibration(**settings | changes, answered=0.5, images=10, made_with=made),))


def test_a_question_without_labels_is_about_the_servers_examples(builtin, folder):
    library = Classifier(examples=folder, encoder=builtin)
    engine = Engine(builtin, defaults=Defaults(examples=str(folder), calibration=calibration_of(library)))
    engine.check_defaults()
    own = engine.classifier(Question.of())
    assert own.labels == ("mug", "ship", "tom")
    assert (own.scorer.threshold, own.scorer.config.logit_scale) == (0.9, 7.0)
    assert torch.equal(own.scorer.examples.embeddings, library.scorer.examples.embeddings)
    assert engine.classifier(Question.of(threshold=0.3)).scorer.threshold == 0.3
    assert engine.classifier(Question.of(["cat", "dog"])).scorer.threshold == 0
    for changed in ({"method": "clip"}, {"domain": "pet"}, {"multi_label": True}, {"other": ["owl"]}, {"views": 3}):
        with pytest.raises(InputError, match="the server's own labels are calibrated as they are; leave out"):
            engine.classifier(Question.of(**changed))
    engine.close()


def test_a_calibration_of_something_else_is_told_at_the_start(builtin):
    cats = Classifier(["cat", "dog"], encoder=builtin)
    engine = Engine(builtin, defaults=Defaults(("cat", "owl"), calibration=calibration_of(cats)))
    with pytest.raises(InputError, match="the calibration was made with another set of labels"):
        engine.check_defaults()
    engine.close()


def test_the_servers_threshold_holds_where_a_question_has_none(builtin):
    engine = Engine(builtin, defaults=Defaults(("cat", "dog"), threshold=0.4))
    thresholds = [
        engine.classifier(question).scorer.threshold
        for question in (Question.of(), Question.of(["owl", "fox"]), Question.of(["owl", "fox"], threshold=0.0))
    ]
    engine.close()
    assert thresholds == [0.4, 0.4, 0.0]


# Two threads encode: one the images of clients, one their examples


def test_openvino_gives_each_thread_its_own_features():
    encoder = load_encoder("builtin", "cpu", runtime="openvino", precision="f32")
    images = [torch.randint(0, 255, (8, 3, *encoder.preprocessing.size), dtype=torch.uint8) for _ in range(4)]
    expected = [encoder.encode_images(pixels) for pixels in images]
    start = threading.Barrier(len(images))

    def encode(pixels):
        start.wait(30)
        return [encoder.encode_images(pixels) for _ in range(8)]

    with ThreadPoolExecutor(len(images)) as threads:
        for repeated, wanted in zip(threads.map(encode, images), expected, strict=True):
            assert all(torch.equal(features, wanted) for features in repeated)


def test_examples_and_images_are_encoded_at_the_same_time():
    encoder = load_encoder("builtin", "cpu", runtime="openvino", precision="f32")
    engine = Engine(encoder)
    alone = Classifier(examples=EXAMPLES, encoder=encoder).scorer.examples.embeddings
    words = engine.classifier(Question.of(["cat", "dog"], views=30))
    (expected,) = engine.encode([("cat.png", io.BytesIO(CAT))], words)
    with ThreadPoolExecutor(2) as clients:
        examples = clients.submit(engine.classifier, example_question())
        images = clients.submit(lambda: list(engine.encode([("cat.png", io.BytesIO(CAT)) for _ in range(4)], words)))
        assert all(torch.equal(features, expected) for features in images.result(60))
        assert torch.equal(examples.result(60).scorer.examples.embeddings, alone)
    engine.close()
