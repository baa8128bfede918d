"""What is typed into the page's fields, and the HTML and images that it shows."""

import base64
import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from conftest import PHOTOS
from crossalign.classifier import Classification, Classifier
from crossalign.errors import InputError
from crossalign.explanation import explain
from crossalign.images.decoding import read_image
from crossalign.text.labels import joined_labels, split_labels
from crossalign.web.label_sets import ExampleFile, Question
from crossalign.web.question import Typed, as_lines, question_of
from crossalign.web.results import Shown, answer_html, files_html, heat_image, legend_html, reasons_html
from crossalign.web.thumbnails import SIDE, reduced

EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat, dog", ["cat", "dog"]),
        ("cat\ndog\n\n  fox  \n", ["cat", "dog", "fox"]),
        ("cat, dog,\nfox", ["cat", "dog", "fox"]),
        ('"cat, tabby", dog', ["cat, tabby", "dog"]),
        ("", []),
    ],
)
def test_labels_are_split_as_people_write_them(text, labels):
    assert split_labels(text) == labels
    assert split_labels(joined_labels(labels)) == labels


def test_a_label_without_end_is_refused():
    with pytest.raises(InputError, match="cannot be split"):
        split_labels("cat, " + "d" * 200_000)


def test_descriptions_are_read_from_lines_and_json():
    wanted = Question.of(["cat", "ratio 1:2"], {"cat": ["soft", "has ears"], "ratio 1:2": ["long"]}, views=3)

    def asked(labels, descriptions):
        return question_of(Typed(labels, descriptions, views=3))

    assert asked("cat, ratio 1:2", "cat: soft; has ears;\n\nratio 1:2: long") == wanted
    assert asked("cat, ratio 1:2", '{"cat": ["soft", "has ears"], "ratio 1:2": ["long"]}') == wanted
    assert asked("cat, ratio 1:2", as_lines(dict(wanted.descriptions))) == wanted
    assert asked("cat, dog", "  ").descriptions == ()


def test_the_servers_own_labels_are_meant_while_their_field_is_unchanged():
    file = ExampleFile("a.png", "1", b"")
    own = ("cat", "dog, wild")
    assert question_of(Typed('cat, "dog, wild"'), {}, own) == Question()
    assert question_of(Typed('cat, "dog, wild"', threshold=0.3), {}, own) == Question(threshold=0.3)
    assert question_of(Typed("cat, dog"), {}, own).labels == ("cat", "dog")
    assert question_of(Typed('cat, "dog, wild"'), {"cat": [file]}, own).labels == own
    assert question_of(Typed("", other="owl, fox"), {"cat": [file]}).other == ("owl", "fox")
    with pytest.raises(InputError, match="there are no labels yet; type two or more, or add classes by examples"):
        question_of(Typed(" "), {}, own)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("cat: soft\ndog has ears", "line 2"),
        ('{"cat": ', "are none"),
        ('{"cat": "soft", "dog": ["loud"]}', "'cat'"),
        ("[" * 9, "no colon"),
    ],
)
def test_descriptions_that_cannot_be_read_say_why(typed, words):
    with pytest.raises(InputError, match=words):
        question_of(Typed("cat, dog", typed))


@pytest.fixture(scope="module")
def shown(builtin):
    classify = Classifier(["cat", "dog", EVIL], encoder=builtin, views=5)
    pixels = read_image(PHOTOS / "chelsea.png")
    (result,) = classify([pixels])
    return Shown(replace(result, image="<b>a.png</b>"), reduced(pixels, SIDE), explain(classify, pixels))


def test_html_holds_no_markup_of_others(shown):
    html = answer_html(shown) + reasons_html(shown.reasons, EVIL) + legend_html(shown.reasons, EVIL)
    html += answer_html(Shown(Classification(None, None, None, (), "<script>")))
    assert "<img" not in html
    assert "<b>a" not in html
    assert "<script" not in html
    assert "&lt;img" in html


def test_the_heat_map_is_yellow_where_most_speaks_for_and_purple_where_most_speaks_against(shown):
    pixels = np.asarray(heat_image(shown, "cat")).astype(int)
    assert pixels.shape == (300, 451, 3)
    heat = shown.reasons.heat_map(0, 1)
    yellow = pixels[..., 0] + pixels[..., 1] - 2 * pixels[..., 2]
    strong, weak = heat >= np.quantile(heat, 0.9), (heat > 0) & (heat <= np.quantile(heat[heat > 0], 0.1))
    assert yellow[strong].mean() > 0 > yellow[weak].mean()
    names = [evidence.label for evidence in shown.reasons.classes]
    against = np.asarray(heat_image(shown, names[1])).astype(int)
    assert (against[strong][:, 2] - against[strong][:, 1]).mean() > 20, "purple: more blue than green"


def test_places_that_no_view_sees_stay_grey(shown):
    pixels, unseen = np.asarray(heat_image(shown, "cat")), shown.reasons.heat_map(0, 1) == 0
    assert unseen.any()
    assert (pixels[unseen].max(-1) == pixels[unseen].min(-1)).all()


def test_a_view_is_framed(shown):
    plain, framed = (np.asarray(heat_image(shown, "cat", view)).astype(int) for view in (None, 2))
    changed = np.abs(plain - framed).max(-1) > 0
    rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
    left, top, right, bottom = shown.reasons.boxes[2]
    assert [columns[0], rows[0]] == pytest.approx([left, top], abs=3)
    assert [columns[-1], rows[-1]] == pytest.approx([min(right, 450), min(bottom, 299)], abs=3)


def test_files_hold_all_images_as_the_command_prints_them(shown):
    failed = Shown(Classification('b,"c".png', None, None, (), "it is broken"))
    contents = re.findall(r"download='(\S+)' href='data:\S+?;base64,(\S+)'", files_html([shown, failed]))
    files = {name: base64.b64decode(content).decode() for name, content in contents}
    as_json, rows = json.loads(files["labels.json"]), list(csv.DictReader(io.StringIO(files["labels.csv"])))
    assert [one["image"] for one in as_json] == ["<b>a.png</b>", 'b,"c".png']
    assert [row["label"] for row in rows] == [*(p.label for p in shown.result.predictions), ""]
    assert [row["label"] for row in rows[:3]] == [p["label"] for p in as_json[0]["predictions"]]
    assert (rows[-1]["image"], rows[-1]["error"]) == ('b,"c".png', "it is broken")
