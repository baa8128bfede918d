"""The vote and the mode of views against plain loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods import view_selection as selection
from crossalign.methods.method import ScoreConfig, TextFeatures


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True)).float()


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def entropy(logits):
    return -sum(p * math.log(p) for p in softmax(logits) if p > 0)


def confident(views, classes, scale):
    """The views, the most confident one first."""
    return sorted(views, key=lambda view: entropy([scale * dot(view, c) for c in classes]))


def ballots(views, classes, scale):
    """Each view's best class, the most confident view first."""
    cosines = [[dot(view, c) for c in classes] for view in confident(views, classes, scale)]
    return [row.index(max(row)) for row in cosines]


def texts_of(classes):
    """One text per class."""
    counts = torch.ones(len(classes), dtype=torch.long)
    return TextFeatures(("",) * len(classes), classes, counts, torch.ones(len(classes)), classes)


def loop_votes(views, classes, scale, gamma):
    """Count the votes, then ask the next confident views; at last do as the program does."""
    votes, labels = ballots(views, classes, scale), len(classes)
    voters = int(gamma * len(views))
    tally = [votes[:voters].count(c) for c in range(labels)]
    tied = [c for c, count in enumerate(tally) if count == max(tally)]
    if len(tied) > 1 and votes[voters:]:
        winner = next((c for c in votes[voters:] if c in tied), None)
        if winner is None:
            cosines = [dot(confident(views, classes, scale)[voters], c) for c in classes]
            allowed = [c for c in range(labels) if labels - 1 - c not in tied]
            winner = max(allowed, key=lambda c: cosines[c])
        tally[winner] += 1
    return tally


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 9), st.sampled_from([0.3, 0.3, 0.1, 0.75, 1.0]))
def test_votes_are_the_programs(seed, count, labels, gamma):
    views, classes = unit(3, count, 5, seed=seed), unit(labels, 5, seed=seed + 1)
    cosines = views @ classes.T
    voters = int(gamma * count)
    votes = selection.zero_votes(cosines, selection.confident_first(cosines, 7.0), voters)
    scores = selection.zero(texts_of(classes), views[:, 0], views, ScoreConfig(logit_scale=7.0), {"gamma": gamma})
    for row, score, of_image in zip(votes.tolist(), scores.tolist(), views.double().tolist(), strict=True):
        assert row == loop_votes(of_image, classes.double().tolist(), 7.0, gamma)
        share = [value * max(1, voters) for value in score]
        assert [math.floor(value + 1e-5) for value in share] == row
        assert row[share.index(max(share))] == max(row)


def test_equal_classes_share_a_vote():
    classes = unit(4, 6, seed=1)[[0, 1, 2, 2]]
    views = (classes[2] + 0.1 * unit(5, 6, seed=2))[None]
    cosines = views @ classes.T
    votes = selection.zero_votes(cosines, selection.confident_first(cosines, 7.0), 4)
    # They tie, and the next view is for the first of them.
    assert votes.tolist() == [[0, 0, 3, 2]]


def test_classes_that_nobody_votes_for_are_ranked_by_mean_similarity():
    views, classes = unit(1, 10, 6, seed=4), unit(40, 6, seed=5)
    (scores,) = selection.zero(texts_of(classes), views[:, 0], views, ScoreConfig(logit_scale=7.0), {"gamma": 0.3})
    votes = ballots(views[0].double().tolist(), classes.double().tolist(), 7.0)[:4]
    unloved = [c for c in range(40) if c not in votes]
    assert len(unloved) > 25
    cosines = views[0] @ classes.T
    sure = selection.entropies(7 * cosines).argsort()[:3]
    mean = cosines[sure].mean(0)
    assert [c for c in scores.argsort(descending=True).tolist() if c in unloved] == sorted(unloved, key=lambda c: -mean[c])
    assert len(set(scores.tolist())) == 40


def loop_mode(views, classes, scale, rho=0.3, lam=4.0, lambda_y=0.2):
    """MTA's alternation, one number at a time."""
    count = len(views)
    distance = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in views] for a in views]
    near = max(1, int(rho * (count - 1)))
    h = [sum(sorted(row[:p] + row[p + 1 :])[:near]) / near for p, row in enumerate(distance)]
    guesses = [softmax([scale * dot(view, c) for c in classes]) for view in views]
    mode, y = views[0], [1 / count] * count

    def kernel(p):
        return math.exp(-sum((x - m) ** 2 for x, m in zip(views[p], mode, strict=True)) / h[p])

    for _ in range(5):
        density = [kernel(p) for p in range(count)]
        for _ in range(5):
            agree = [sum(dot(guesses[p], guesses[q]) * y[q] for q in range(count)) for p in range(count)]
            y = softmax([(density[p] + lam * agree[p]) / lambda_y for p in range(count)])
        for _ in range(5):
            w = [y[p] * kernel(p) for p in range(count)]
            mode = [sum(w[p] * views[p][d] for p in range(count)) for d in range(len(mode))]
            length = math.sqrt(dot(mode, mode))
            mode = [x / length for x in mode]
    return mode


OF_MTA = {"neighbours": "rho", "affinity": "lam", "entropy": "lambda_y"}


@pytest.mark.parametrize("options", [{}, {"neighbours": 0.8}, {"affinity": 0.5}, {"entropy": 1.5}], ids=str)
@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_mode_is_mtas(count, options):
    views = unit(3, 1, 6, seed=1) + 0.8 * unit(3, count, 6, seed=2)
    views /= views.norm(dim=2, keepdim=True)
    classes = unit(4, 6, seed=3)
    modes, _ = selection.mta_mode(views, classes, 9.0, **options)
    named = {OF_MTA[name]: value for name, value in options.items()}
    for mode, of_image in zip(modes, views, strict=True):
        expected = loop_mode(of_image.double().tolist(), classes.double().tolist(), 9.0, **named)
        torch.testing.assert_close(mode.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_mode_leaves_outliers_out():
    centre = unit(1, 8, seed=1)
    good = centre + 0.2 * unit(20, 8, seed=2)
    views = torch.cat([good, -centre + 0.2 * unit(5, 8, seed=3)])[None]
    views /= views.norm(dim=2, keepdim=True)
    modes, inlierness = selection.mta_mode(views, unit(3, 8, seed=4), 20.0)
    assert modes[0] @ centre[0] > 0.95
    assert inlierness[0, 20:].sum() < 0.01


def test_equal_views_have_a_mode():
    views = unit(1, 1, 6).expand(2, 5, 6)
    modes, inlierness = selection.mta_mode(views, unit(3, 6, seed=1), 9.0)
    torch.testing.assert_close(modes, views[:, 0])
    torch.testing.assert_close(inlierness, torch.full((2, 5), 0.2))


def test_the_mode_of_one_view_is_that_view():
    views = unit(2, 1, 6)
    assert torch.equal(selection.mta_mode(views, unit(3, 6, seed=1), 9.0)[0], views[:, 0])
