"""How methods are picked by name, changed and listed."""

import math
import re

import pytest
from click.testing import CliRunner
from loops import (
    ALONE,
    CONFIG,
    INPUTS,
    LATER,
    NAMES,
    SIX,
    TRANSDUCTIVE,
    WIDTH,
    encode,
    method_of,
    unit,
)

from crossalign.cli import main
from crossalign.errors import InputError
from crossalign.methods.registry import METHODS, pick_method, pick_methods, with_prompts
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.text.prompts import CONTROLS, PromptInputs


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
