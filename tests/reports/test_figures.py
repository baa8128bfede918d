"""Figures by their structure: what is drawn, written and left out, and that nothing overlaps or is cut off."""

import io
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from conftest import PHOTOS
from crossalign.errors import InputError
from crossalign.explanation import ClassEvidence, Explanation
from crossalign.images.crops import ViewRecipe
from crossalign.reports.figures import FORMATS, explanation_figure, figure_bytes, matrix_figure
from crossalign.reports.figures._bars import FIRST_COLOUR, RIVAL_COLOUR
from crossalign.reports.figures._page import text_width, wrap

CHELSEA = PHOTOS / "chelsea.png"
LONG = (
    "A {} is a thing number {} with whiskers, paws, $x^2$, and_underscores and a tail around it while it sleeps on a sofa."
)


def made(labels=("cat", "dog"), sentences=3, method="wca", views=12, size=(451, 300), text="A {} has property {}.", seed=0):
    """An explanation of random features, best label first."""
    draw = np.random.default_rng(seed)
    views = views if method == "wca" else 1
    weights = draw.dirichlet(np.ones(views))
    classes = []
    for rank, label in enumerate(labels):
        similarity = draw.uniform(0.1, 0.5, (views, sentences)) / (1 + rank / 4)
        text_weights = draw.dirichlet(np.ones(sentences))
        contributions = weights[:, None] * text_weights * similarity
        texts = tuple(text.format(label, number) for number in range(sentences))
        classes.append(
            ClassEvidence(label, contributions.sum(), 0.8 / 2**rank, texts, similarity, text_weights, contributions)
        )
    boxes = ViewRecipe(views, (0.1, 0.9), 0).boxes(*size[::-1]) if method == "wca" else np.array([[0, 0, *size]])
    return Explanation(method, "paper", size, boxes, weights, tuple(classes))


def picture(size=(451, 300)):
    with Image.open(CHELSEA) as image:
        return image.convert("RGB").resize(size)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def bars(axes):
    return [p for p in axes.patches if isinstance(p, Rectangle)]


def bar_axes(figure):
    return [axes for axes in figure.axes if axes.get_xlabel() == "similarity (cosine)" and axes.patches]


def dashes(axes):
    return {to_hex(line.get_color()).upper(): line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"}


SITUATIONS = {
    "two short": (made(sentences=2), made(sentences=2, method="clip-d"), (451, 300)),
    "twelve": (made(sentences=12), made(("dog", "cat"), 12, "cupl", seed=1), (451, 300)),
    "many long": (made(sentences=20, text=LONG), made(("dog", "cat"), 20, "clip-d", text=LONG), (451, 300)),
    "long labels": (made(("x" * 90, "many words " * 9)), made(("many words " * 9, "x" * 90), 8, "clip-e"), (451, 300)),
    "portrait": (made(size=(100, 900)), None, (100, 900)),
    "panorama": (made(size=(900, 100)), made(("dog", "cat"), 1, "clip"), (900, 100)),
    "one pixel": (made(size=(1, 1)), None, (1, 1)),
    "one view": (made(views=1), None, (451, 300)),
    "no views": (made(("cat", "dog", "x" * 90), method="clip-d"), made(("dog", "cat"), 3, "wca"), (451, 300)),
}


@pytest.mark.parametrize(("ours", "rival", "size"), SITUATIONS.values(), ids=SITUATIONS)
@pytest.mark.slow
def test_no_text_overlaps_another_or_leaves_the_page(ours, rival, size):
    for figure in (explanation_figure(picture(size), ours, rival), matrix_figure(picture(size), ours)):
        with matplotlib.rc_context({"text.hinting": "none"}):
            figure.canvas.draw()
            # Numbers in a picture stand on their boxes, wherever those are.
            inside = {text for axes in figure.axes if axes.images for text in axes.texts}
            written = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in inside]
            boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in written]
        assert boxes
        for text, box in boxes:
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width, text
            assert 0 <= box.y0 < box.y1 <= figure.bbox.height, text
        for (one, first), (two, second) in combinations(boxes, 2):
            assert not first.overlaps(second), (one, two)


@pytest.mark.slow
def test_both_predictions_head_the_figure():
    figure = explanation_figure(CHELSEA, made(), made(("dog", "cat"), method="clip-d"))
    written = texts(figure)
    assert "WCA: cat (80\N{NO-BREAK SPACE}%), then dog (40\N{NO-BREAK SPACE}%)" in written
    assert "CLIP-D: dog (80\N{NO-BREAK SPACE}%), then cat (40\N{NO-BREAK SPACE}%)" in written
    assert "Similarity of the image to the descriptions of “cat”, the label of WCA" in written
    assert "Similarity of the image to the descriptions of “dog”, the label of CLIP-D" in written


def test_bars_and_dashes_are_similarities_and_their_means():
    ours, rival = made(), made(("dog", "cat"), method="cupl", seed=1)
    panels = bar_axes(explanation_figure(CHELSEA, ours, rival))
    assert len(panels) == 2
    for axes, label in zip(panels, ("cat", "dog"), strict=True):
        for side, colour in ((ours, FIRST_COLOUR), (rival, RIVAL_COLOUR)):
            similarities = side.view_weights @ side.evidence(label).similarity
            drawn = [bar.get_width() for bar in bars(axes) if to_hex(bar.get_facecolor()).upper() == colour]
            assert sorted(drawn) == pytest.approx(sorted(similarities))
            assert dashes(axes)[colour] == pytest.approx(similarities @ side.evidence(label).text_weights)
    assert panels[0].get_xlim() == panels[1].get_xlim()


def test_a_row_holds_the_same_description_under_both_methods():
    ours, rival = made(sentences=4), made(sentences=4, method="cupl", seed=1)
    (axes,) = bar_axes(explanation_figure(CHELSEA, ours, rival))
    rows = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    places = [ours.classes[0].descriptions.index(text) for text in rows]
    widths = [bar.get_width() for bar in bars(axes)]
    assert widths[::2] == pytest.approx(list(ours.similarities("cat")[places]))
    assert widths[1::2] == pytest.approx(list(rival.similarities("cat")[places]))
    assert widths[::2] == sorted(widths[::2], reverse=True)


def test_descriptions_of_other_kinds_have_their_own_rows():
    (axes,) = bar_axes(explanation_figure(CHELSEA, made(), made(sentences=1, method="clip", text="a photo of a {}.")))
    assert axes.get_yticklabels()[-1].get_text() == "a photo of a cat."
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars(axes)] == [FIRST_COLOUR] * 3 + [RIVAL_COLOUR]


def test_one_panel_where_both_agree_and_where_there_is_no_rival():
    assert len(bar_axes(explanation_figure(CHELSEA, made(), made(method="clip-d")))) == 1
    (axes,) = bar_axes(explanation_figure(CHELSEA, made()))
    assert set(dashes(axes)) == {FIRST_COLOUR}


def test_of_many_descriptions_the_strongest_are_shown_and_the_figure_says_so():
    ours = made(sentences=20)
    figure = explanation_figure(CHELSEA, ours)
    (axes,) = bar_axes(figure)
    best = ours.classes[0]
    strongest = {best.descriptions[row] for row in np.argsort(-best.by_description)[:12]}
    assert {label.get_text().replace("\n", " ") for label in axes.get_yticklabels()} == strongest
    assert "WCA: the strongest 12 of 20 descriptions." in texts(figure)
    assert not any("the strongest" in text for text in texts(explanation_figure(CHELSEA, made(sentences=12))))


def test_the_crops_are_the_views_that_add_most():
    ours = made()
    figure = explanation_figure(picture(), ours)
    original, *others = [axes for axes in figure.axes if axes.images]
    best = ours.classes[0]
    order = np.argsort(-best.by_description)
    marked = {tuple(np.round([*patch.get_xy(), patch.get_width()]).astype(int)) for patch in original.patches}
    left, top, right, _ = ours.boxes[best.contributions[:, order[0]].argmax()]
    assert (left, top, right - left) in marked
    assert [text.get_text() for text in original.texts] == ["1", "2", "3"]
    assert len(others) == 1 + 3, "the heat map and three crops"
    for row in order[:3]:
        assert f"adds {best.by_description[row]:.3f} to the score of {best.score:.3f}" in texts(figure)


def test_no_two_crops_show_nearly_the_same_if_there_are_others():
    ours = made(views=5)
    boxes = np.array([[0, 0, 300, 300], [3, 0, 303, 300], [6, 0, 296, 290], [310, 0, 410, 100], [310, 150, 450, 290]])
    strong = np.array([9.0, 8, 7, 2, 1])[:, None] * np.ones((5, 3))
    best = replace(ours.classes[0], contributions=strong, score=strong.sum())
    figure = explanation_figure(picture(), replace(ours, boxes=boxes, classes=(best, ours.classes[1])))
    original = next(axes for axes in figure.axes if axes.images)
    assert {patch.get_xy() for patch in original.patches} == {(0, 0), (310, 0), (310, 150)}


@pytest.mark.parametrize(("share", "colours"), [(0.5, "cividis"), (np.linspace(0, 1.9, 12)[:, None], "PuOr_r")])
def test_the_heat_map_is_laid_in_colours_that_everyone_can_tell_apart(share, colours):
    ours = made()
    best = ours.classes[0]
    less = best.contributions * share
    other = replace(best, label="dog", contributions=less, score=less.sum())
    ours = replace(ours, classes=(best, other))
    figure = explanation_figure(picture(), ours)
    (heat,) = [i for i in figure.findobj(AxesImage) if i.get_cmap().name == colours and i.get_array().shape == (170, 256)]
    values = ours.heat_map(shape=(170, 256))
    assert np.asarray(heat.get_array()) == pytest.approx(values)
    assert ((heat.get_alpha() > 0) == (values != 0)).all()
    low, high = heat.get_clim()
    assert (low, high) == pytest.approx((-high if colours == "PuOr_r" else 0, np.abs(values).max()))
    assert f"contribution per view to the margin of {ours.margin:.3f}" in texts(figure)


def test_a_method_without_views_shows_its_labels_instead():
    figure = explanation_figure(CHELSEA, made(("cat", "dog", "horse"), method="clip-d"))
    assert "CLIP-D uses the global view alone; its best labels" in texts(figure)
    assert {"cat", "dog", "horse", "80\N{NO-BREAK SPACE}%", "20\N{NO-BREAK SPACE}%"} <= set(texts(figure))
    assert len([axes for axes in figure.axes if axes.images]) == 1


def test_text_is_not_taken_for_a_formula():
    ours = made((r"$\frac{", "a_b^c"), text=r"{} costs $\alpha$ {} and $\nosuch{{$")
    written = " ".join(texts(explanation_figure(CHELSEA, ours, made(("a_b^c", r"$\frac{"), method="clip-d"))))
    assert r"costs $\alpha$ 0 and $\nosuch{$" in written
    assert figure_bytes(explanation_figure(CHELSEA, ours), "svg")
    assert figure_bytes(matrix_figure(CHELSEA, ours), "png", 50)


def test_methods_that_do_not_know_each_others_labels_are_refused():
    with pytest.raises(InputError, match=r"clip-d was not explained for 'cat'.*also=\['cat'\]"):
        explanation_figure(CHELSEA, made(), made(("dog", "horse"), method="clip-d"))
    with pytest.raises(InputError, match="does not exist"):
        explanation_figure("missing.png", made())


def test_the_matrix_is_whole_and_in_order():
    ours = made(sentences=5)
    figure = matrix_figure(CHELSEA, ours, label_index=1)
    found = ours.classes[1]
    (shown,) = [image for image in figure.findobj(AxesImage) if image.get_array().shape == (5, 12)]
    views, rows = np.argsort(-ours.view_weights), np.argsort(-found.by_description)
    assert np.asarray(shown.get_array()) == pytest.approx(found.similarity[np.ix_(views, rows)].T)
    assert shown.get_cmap().name == "cividis"
    assert [label.get_text() for label in shown.axes.get_yticklabels()] == [found.descriptions[row] for row in rows]
    assert len([axes for axes in figure.axes if axes.images]) >= 1 + 12
    assert "Views by weight, all 12; descriptions by contribution to the score, all 5." in texts(figure)


@pytest.mark.slow
def test_a_huge_matrix_says_what_it_leaves_out():
    figure = matrix_figure(CHELSEA, made(sentences=61, views=70))
    assert [image for image in figure.findobj(AxesImage) if image.get_array().shape == (60, 60)]
    assert "Views by weight, the first 60 of 70; descriptions by contribution to the score, the first 60 of 61." in texts(
        figure
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_opens_and_is_the_same_again(format):
    first, second = (figure_bytes(explanation_figure(CHELSEA, made()), format, 60) for _ in range(2))
    assert first == second
    if format == "png":
        with Image.open(io.BytesIO(first)) as image:
            image.load()
            assert image.size[0] == 600
    elif format == "svg":
        root = ElementTree.fromstring(first)
        assert root.tag.endswith("svg")
        assert len(list(root.iter("{http://www.w3.org/2000/svg}image"))) >= 6
    else:
        assert first.startswith(b"%PDF-")
        assert first.rstrip().endswith(b"%%EOF")
        assert b"/Type3" not in first


@pytest.mark.slow
def test_no_window_system_is_touched():
    check = "import sys, crossalign.reports.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=120).returncode == 0


@given(st.text("aWi é$", max_size=80), st.floats(0.2, 3))
@settings(deadline=None)
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_width(line) <= width or len(line) == 1 for line in lines)
    short = wrap(text, width, most=2)
    assert len(short) <= 2
    assert (short == lines) if len(lines) <= 2 else short[-1].endswith("…")
    assert all(text_width(line) <= width for line in short if len(line) > 1)
