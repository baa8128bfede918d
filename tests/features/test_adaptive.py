"""Adaptive views: the sequential test against its formula written plainly, and what a user sees of it."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from command import run
from conftest import PHOTOS
from crossalign.classifier import Classifier
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds, settled

LABELS = ("cat", "dog", "cup of coffee", "astronaut", "rocket")
PICTURES = [PHOTOS / name for name in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")]


def by_texts(views, weights, texts, rounds):
    return settled(views.double() @ texts.double().T, weights, rounds)


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)


def plainly(views, weights, texts, most, looks, confidence):
    """The test of the module's docstring, one picture, view and rival at a time in float64."""
    n = len(views)
    similar = [[float(np.dot(view, text)) for text in texts] for view in views]
    scores = [sum(weights[m] * similar[m][c] for m in range(n)) for c in range(len(texts))]
    leader = max(range(len(texts)), key=lambda c: scores[c])
    effective = 1 / sum(weight**2 for weight in weights)
    for rival in range(len(texts)):
        if rival == leader:
            continue
        differences = [similar[m][leader] - similar[m][rival] for m in range(n)]
        mean = sum(weight * d for weight, d in zip(weights, differences, strict=True))
        spread = sum(weight**2 * (d - mean) ** 2 for weight, d in zip(weights, differences, strict=True))
        error = math.sqrt(spread * effective / (effective - 1) * (1 - n / most))
        if mean <= stats.t.ppf(1 - (1 - confidence) / looks, effective - 1) * error:
            return False
    return True


@given(st.integers(0, 10_000), st.integers(3, 19), st.sampled_from([0.5, 0.9, 0.99]), st.floats(0.05, 0.6))
def test_the_test_is_its_formula(seed, n, confidence, lean):
    rounds = Rounds(20, confidence)
    texts = unit(4, 8, seed=seed)
    views = torch.nn.functional.normalize(unit(3, n, 8, seed=seed + 1) + lean * texts[0], dim=-1)
    weights = (5 * unit(3, n, seed=seed + 2)).softmax(-1)
    found = by_texts(views, weights, texts, rounds)
    looks = len(rounds.counts) - 1
    for row in range(3):
        of_row = (views[row].double().numpy(), weights[row].double().numpy(), texts.double().numpy())
        assert bool(found[row]) == plainly(*of_row, 20, looks, confidence)


def test_both_outcomes_occur():
    texts = unit(3, 8, seed=1)
    clear, open_one = texts[0].expand(6, 8), unit(6, 8, seed=2)
    weights = torch.full((2, 6), 1 / 6)
    assert by_texts(torch.stack([clear, open_one]), weights, texts, Rounds()).tolist() == [True, False]


def test_all_views_settle_everything():
    assert by_texts(unit(2, 6, 8, seed=1), torch.full((2, 6), 1 / 6), unit(3, 8, seed=2), Rounds(6)).all()


def test_one_effective_view_settles_nothing():
    texts = unit(3, 8, seed=1)
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert not by_texts(texts[0].expand(1, 6, 8), weights, texts, Rounds()).any()


@given(st.integers(1, 500))
def test_rounds_grow_to_the_most(most):
    counts = Rounds(most).counts
    assert counts[-1] == most
    assert counts[0] == min(6, most)
    assert all(before < after for before, after in pairwise(counts))


@pytest.mark.parametrize("wrong", [{"max_views": 0}, {"confidence": 1.0}, {"confidence": 0.2}])
def test_bad_rounds_are_refused(wrong):
    with pytest.raises(InputError, match=f"is {next(iter(wrong.values())):g}, but must be"):
        Rounds(**wrong)


@pytest.fixture(scope="module")
def pair(builtin):
    return [Classifier(LABELS, encoder=builtin, views=views) for views in ("adaptive", 60)]


@pytest.fixture(scope="module")
def encoded(pair):
    """The features of all pictures, taken adaptively and together."""
    return dict(pair[0].encode(PICTURES))


@pytest.mark.slow
def test_answers_are_those_of_all_views_for_less_work(pair):
    few, all_views = (classify(PICTURES, top_k=1) for classify in pair)
    assert [result.label for result in few] == [result.label for result in all_views]
    assert {result.views for result in all_views} == {60}
    assert sum(result.views for result in few) < 0.8 * 60 * len(PICTURES)
    assert {result.views for result in few} <= set(Rounds().counts)


@pytest.mark.slow
def test_each_picture_stops_by_its_own_test(pair, encoded):
    adaptive, _ = pair
    texts = torch.nn.functional.normalize(adaptive.scorer.texts.pooled, dim=-1)
    for features in encoded.values():
        whole, views = features[0], features[1:]
        seen = []
        for count in Rounds().counts:
            weights = (math.exp(adaptive.scorer.config.image_scale) * views[:count] @ whole).softmax(-1)
            seen.append(bool(by_texts(views[None, :count], weights[None], texts, Rounds())))
            if count == len(views):
                break
        assert seen == [False] * (len(seen) - 1) + [True]


@pytest.mark.slow
def test_neighbours_and_workers_change_nothing(builtin, encoded):
    for workers in (0, 3):
        alone = Classifier(LABELS, encoder=builtin, views="adaptive", num_workers=workers)
        for picture in reversed(PICTURES[1:3]):
            ((_, features),) = alone.encode([picture])
            assert torch.equal(features, encoded[picture])


@pytest.mark.slow
def test_all_the_views_are_the_first_of_all(pair, encoded):
    few = encoded[PICTURES[0]]
    ((_, all_views),) = pair[1].encode(PICTURES[:1])
    torch.testing.assert_close(few, all_views[: len(few)], rtol=1e-4, atol=1e-5)


def test_a_broken_picture_stops_nobody(pair, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    bad, good = pair[0]([tmp_path / "bad.jpg", PICTURES[0]])
    assert "cannot be read" in bad.error
    assert bad.views is None
    assert good.label == "cat"


def test_methods_without_a_weighted_mean_are_refused(builtin):
    with pytest.raises(InputError, match="method awt has no adaptive views"):
        Classifier(LABELS, encoder=builtin, views="adaptive", method="awt")


@pytest.mark.slow
def test_the_command_says_how_many_views_it_took(tmp_path):
    words = ("classify", PICTURES[1], "--labels", ",".join(LABELS), "--views", "adaptive", "--json")
    done = run(*words, "--max-views", 20, "--confidence", 0.9, "--report", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["predictions"][0]["label"] == "cup of coffee"
    assert result["views"] in Rounds(20).counts
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views", "0"], "'0' must be a whole number, at least 1, or adaptive"),
        (["--views", "many"], "'many' must be a whole number, at least 1, or adaptive"),
        (["--views", "9", "--max-views", "9"], "--max-views belongs to --views adaptive"),
        (["--views", "9", "--confidence", "0.9"], "--confidence belongs to --views adaptive"),
        (["--views", "adaptive", "--confidence", "1"], "1.0 is not in the range"),
    ],
)
def test_wrong_use_is_one_sentence(options, message):
    done = run("classify", PICTURES[0], "--labels", "cat,dog", *options)
    assert done.returncode == 2
    assert message in done.stderr
