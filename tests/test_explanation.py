"""Contributions that sum to the score, maps of where they lie, and the command, on real photos."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import PHOTOS
from crossalign.classifier import Classifier
from crossalign.errors import InputError
from crossalign.explanation import ClassEvidence, Explanation, explain, explain_both
from crossalign.images.decoding import read_image

LABELS = ["dog", "cat", "cup of coffee", "page of text"]
DOC = Path(__file__).parents[1] / "docs" / "explain.md"


@pytest.fixture(scope="module")
def classifier(builtin):
    def make(method="wca", form="released", **settings):
        return Classifier(LABELS, "demo", encoder=builtin, method=method, form=form, **{"views": 9} | settings)

    return make


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("method", ["wca", "clip", "clip-d", "cupl"])
def test_contributions_sum_to_the_classifiers_scores(classifier, method, form):
    classify = classifier(method, form)
    found = explain(classify, PHOTOS / "chelsea.png", top_k=4)
    (result,) = classify(PHOTOS / "chelsea.png", top_k=4)
    assert [c.label for c in found.classes] == [p.label for p in result.predictions]
    assert (found.method, found.form, found.size) == (method, form, (451, 300))
    assert found.view_weights.sum() == pytest.approx(1, abs=1e-5)
    assert found.margin == pytest.approx(result.predictions[0].score - result.predictions[1].score)
    for of_class, expected in zip(found.classes, result.predictions, strict=True):
        assert (of_class.score, of_class.probability) == pytest.approx((expected.score, expected.probability), abs=1e-6)
        assert of_class.contributions.sum() == pytest.approx(expected.score, abs=1e-5)
        assert of_class.by_view.sum() == pytest.approx(expected.score, abs=1e-5)
        assert of_class.by_description.sum() == pytest.approx(expected.score, abs=1e-5)
        assert sum(reason.contribution for reason in of_class.reasons) == pytest.approx(expected.score, abs=1e-5)
        assert of_class.text_weights.sum() == pytest.approx(1, abs=1e-5)
        assert of_class.similarity.shape == (len(found.boxes), len(of_class.descriptions))


@pytest.mark.slow
def test_similarities_and_boxes_are_those_of_the_views(classifier):
    classify = classifier()
    pixels = read_image(PHOTOS / "coffee.png")
    found = explain(classify, PHOTOS / "coffee.png")
    assert (found.boxes == classify.views.recipe.boxes(400, 600)[: len(found.boxes)]).all()
    best = found.classes[0]
    left, top, right, bottom = found.boxes[4]
    view = classify.encoder.preprocessing.fit(pixels[:, top:bottom, left:right])
    texts = classify.encoder.encode_texts(best.descriptions)
    assert best.similarity[4] == pytest.approx((texts @ classify.encoder.encode_images(view[None])[0]).numpy(), abs=1e-4)
    assert found.similarities(best.label) @ best.text_weights == pytest.approx(
        explain(classifier(form="paper"), PHOTOS / "coffee.png").classes[0].score, abs=1e-5
    )


def test_a_method_without_views_has_the_picture_for_its_one_view(classifier):
    found = explain(classifier("clip-d"), PHOTOS / "chelsea.png")
    assert found.boxes.tolist() == [[0, 0, 451, 300]]
    assert found.view_weights.tolist() == [1]
    heat = found.heat_map()
    assert heat.shape == (300, 451)
    assert heat == pytest.approx(np.full((300, 451), found.margin), abs=1e-5)


def test_boxes_lie_in_the_picture_as_a_person_sees_it(classifier, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(PHOTOS / "chelsea.png") as image:
        image.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    found = explain(classifier(), tmp_path / "turned.jpg")
    assert found.size == (300, 451)
    assert (found.boxes[:, 2] <= 300).all()
    assert found.boxes[:, 3].max() > 300
    assert found.heat_map().shape == (451, 300)


@pytest.mark.slow
def test_known_features_are_used(classifier):
    classify = classifier()
    ((_, features),) = classify.encode([PHOTOS / "coffee.png"])
    again = explain(classify, PHOTOS / "coffee.png", features=features)
    assert again.to_dict() == explain(classify, PHOTOS / "coffee.png").to_dict()
    assert explain(classify, PHOTOS / "chelsea.png", features=features).classes[0].label == "cup of coffee"


@pytest.mark.slow
def test_labels_can_be_explained_whatever_their_rank(classifier):
    plain = explain(classifier(), PHOTOS / "chelsea.png", 2)
    more = explain(classifier(), PHOTOS / "chelsea.png", 2, also=["cup of coffee", "cat"])
    assert [c.label for c in more.classes][:2] == [c.label for c in plain.classes]
    assert more.classes[-1] is more.evidence("cup of coffee")
    assert len(more.classes) == 3
    assert (more.heat_map() == plain.heat_map()).all()
    with pytest.raises(KeyError):
        plain.evidence("cup of coffee")


@pytest.mark.slow
def test_two_methods_know_each_others_best_label(classifier):
    wca, rival = classifier(), classifier("clip-d")
    for picture in ("page.png", "chelsea.png"):
        ours, theirs = explain_both(wca, rival, PHOTOS / picture, 2)
        assert ours.evidence(theirs.classes[0].label)
        assert theirs.evidence(ours.classes[0].label)
        assert ours.classes[0].score == pytest.approx(explain(wca, PHOTOS / picture).classes[0].score, abs=1e-5)
        assert theirs.classes[0].score == pytest.approx(explain(rival, PHOTOS / picture).classes[0].score, abs=1e-5)


@pytest.mark.slow
def test_phrasings_of_one_description_are_one_reason(classifier):
    for domain in ("", "thing"):
        best = explain(classifier(domain=domain), PHOTOS / "chelsea.png").classes[0]
        assert [len(reason.rows) for reason in best.reasons] == [3, 3, 3, 3]
        assert best.reasons[0].text == "a cat, which has a round face with pointed ears."
        assert sorted(row for reason in best.reasons for row in reason.rows) == list(range(12))


def test_sentences_that_end_alike_stay_apart():
    texts = (
        "A male cat, which has fur.",
        "A kitten, which has fur.",
        "a cat, which has fur.",
        "a photo of a cat, which has fur.",
    )
    quarter = np.full(4, 0.25)
    found = ClassEvidence("cat", 1.0, 1.0, texts, quarter[None], quarter, quarter[None])
    assert [reason.rows for reason in found.reasons] == [(0,), (1,), (2, 3)]


def test_json_holds_the_numbers(classifier):
    found = explain(classifier(), PHOTOS / "chelsea.png")
    content = json.loads(json.dumps(found.to_dict()))
    assert content["classes"][0]["label"] == "cat"
    assert np.sum(content["classes"][0]["contributions"]) == pytest.approx(found.classes[0].score, abs=1e-5)
    assert np.shape(content["boxes"]) == (9, 4)


@pytest.mark.parametrize(
    ("picture", "top_k", "message"),
    [("chelsea.png", 1, "top_k is 1"), ("README.txt", 3, "cannot be read"), ("no", 3, "not exist")],
)
def test_what_cannot_be_explained_is_said(classifier, picture, top_k, message):
    with pytest.raises(InputError, match=message):
        explain(classifier("clip"), PHOTOS / picture, top_k)


def explanation(size, boxes, ours, theirs):
    def evidence(label, values):
        column = np.array(values, dtype=float)[:, None]
        return ClassEvidence(label, column.sum(), 0.5, (label,), column, np.ones(1), column)

    weights = np.full(len(boxes), 1 / len(boxes))
    return Explanation("wca", "paper", size, np.array(boxes), weights, (evidence("a", ours), evidence("b", theirs)))


@st.composite
def explanations(draw):
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    boxes, values = [], []
    for _ in range(draw(st.integers(1, 6))):
        side = draw(st.integers(1, min(width, height)))
        left, top = draw(st.integers(0, width - side)), draw(st.integers(0, height - side))
        boxes.append([left, top, left + side, top + side])
        values.append(draw(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))))
    ours, theirs = zip(*values, strict=True)
    return explanation((width, height), boxes, ours, theirs)


def touched(found, shape):
    height, width = shape
    cells = np.zeros(shape, dtype=bool)
    for left, top, right, bottom in found.boxes:
        rows = slice(int(top * height / found.size[1]), int(np.ceil(bottom * height / found.size[1])))
        cells[rows, int(left * width / found.size[0]) : int(np.ceil(right * width / found.size[0]))] = True
    return cells


@given(explanations(), st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(deadline=None)
def test_the_heat_map_lies_under_the_boxes_and_within_their_values(found, shape):
    heat = found.heat_map(against=None, shape=shape)
    assert heat.shape == shape
    assert ((heat != 0) == touched(found, shape)).all()
    values = found.classes[0].by_view
    assert heat[heat != 0].min() >= values.min() - 1e-9
    assert heat.max() <= values.max() + 1e-9
    other = found.heat_map(1, against=None, shape=shape)
    assert found.heat_map(shape=shape) == pytest.approx(heat - other, abs=1e-9)


def test_a_single_box_is_constant_inside_and_empty_outside():
    heat = explanation((30, 20), [[3, 4, 13, 14]], [0.7], [0.2]).heat_map()
    expected = np.zeros((20, 30))
    expected[4:14, 3:13] = 0.5
    assert heat == pytest.approx(expected)


def test_the_place_that_many_views_agree_on_is_the_hottest():
    boxes = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [20, 0, 30, 10]]
    heat = explanation((30, 10), boxes, [1, 1, 1, 0], [0, 0, 0, 1]).heat_map()
    assert 5 <= heat[5].argmax() < 13
    assert heat[5, 25] < 0 < heat[5, 9]
    steps = np.abs(np.diff(explanation((300, 100), np.array(boxes) * 10, [1, 1, 1, 0], [0, 0, 0, 1]).heat_map()[50, :180]))
    assert steps.max() < 0.02


def commands():
    lines = DOC.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("crossalign explain")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    (folder / "photos").mkdir()
    for name in ("page.png", "coffee.png"):
        shutil.copy(PHOTOS / name, folder / "photos")
    return folder


def run(words, folder):
    program = Path(sys.executable).with_name("crossalign")
    return subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("line", commands(), ids=["figure", "matrix"])
@pytest.mark.slow
def test_the_documented_commands_run(line, folder):
    words = shlex.split(line.split(" > ")[0])[1:]
    done = run(words, folder)
    assert done.returncode == 0, done.stderr
    name = words[words.index("-o") + 1]
    assert f"wrote {name}" in done.stderr
    written = [name, name.replace(".png", "-matrix.png")] if "--matrix" in words else [name]
    assert sorted(path.name for path in folder.glob(f"{name[:4]}*")) == sorted(written)
    for shown in (DOC.parent / "images").glob(f"{name[:4]}*"):
        assert shown.stat().st_size < 300_000
        with Image.open(folder / shown.name) as new, Image.open(shown) as old:
            assert new.size == old.size
    label = words[words.index("--labels") + 1].split(",")[0]
    if "--json" in words:
        content = json.loads(done.stdout)
        assert content["explanation"]["classes"][0]["label"] == label
        assert content["against"] is None
    else:
        assert f"wca: {label} 0." in done.stdout
        assert f"of {label!r} (wca)" in done.stdout


@pytest.mark.slow
def test_the_documented_python_runs(builtin, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = DOC.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names = {"builtin": builtin}
    exec(code.replace('"demo")', '"demo", encoder=builtin)'), names)
    assert capsys.readouterr().out == "cup of coffee (60, 12) True\n"
    assert names["heat"].shape == (40, 60)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.gif"], "output 'a.gif' has the ending '.gif'; name a .png, .svg or .pdf file"),
        (["-o", "no/a.png"], "cannot be written"),
        (["--matrix"], "--matrix writes a file beside the figure"),
        (["--against", "wca"], "'wca' was given twice"),
        (["--top-k", "1"], "1 is not in the range"),
    ],
)
def test_wrong_input_is_refused_in_words(words, message, folder):
    done = run(["explain", "photos/page.png", "--labels", "cat,dog", *words], folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("a.*"))
