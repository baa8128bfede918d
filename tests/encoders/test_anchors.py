"""The built-in encoder says which labels it probably cannot recognise."""

import warnings

import pytest

from crossalign import Classifier
from crossalign.datasets.class_lists import class_list
from crossalign.encoders._anchors import warn_of_unknown

KNOWN = ["cat", "dog", "cup of coffee", "school bus"]
UNKNOWN = ["fritillary", "mallow", "columbine", "sword lily", "windflower", "sweet william"]


def test_an_anchors_own_name_is_as_near_as_can_be(builtin):
    names = class_list("imagenet").names[:20]
    cosines = builtin.nearest_anchor(builtin.encode_texts([*names, *UNKNOWN]))
    assert cosines[:20].tolist() == pytest.approx([1.0] * 20, abs=1e-5)
    assert cosines[20:].max() < builtin.least_anchor


def test_nothing_is_said_of_labels_near_imagenets(builtin):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier(KNOWN, encoder=builtin, method="clip")


def test_labels_far_from_imagenets_are_named_with_the_ways_out(builtin):
    with pytest.warns(UserWarning, match="probably cannot recognise") as caught:
        Classifier([*KNOWN, *UNKNOWN[:2]], encoder=builtin, method="clip")
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("encoder builtin:lite0 probably cannot recognise 2 of 6 labels ('fritillary', 'mallow'), since")
    assert "--encoder clip" in text
    assert "--examples DIR" in text
    assert "\n" not in text
    assert warning.filename == __file__


def test_many_labels_are_counted_and_some_named(builtin):
    with pytest.warns(UserWarning, match=r"6 of 6 labels \('fritillary', 'mallow', .*, 'windflower', \.\.\.\), since"):
        warn_of_unknown(UNKNOWN, builtin, builtin.encode_texts)


@pytest.mark.slow
def test_encoders_without_a_list_of_names_know_every_label(untrained):
    def encode(texts):
        raise AssertionError("nothing has to be encoded")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unknown(UNKNOWN, untrained, encode)
