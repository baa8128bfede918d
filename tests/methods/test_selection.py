"""The vote and the mode of views against plain loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods import view_selection as selection


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


def ballots(views, classes, scale):
    """Each view's best class, the surest view first."""
    cosines = [[dot(view, c) for c in classes] for view in views]
    order = sorted(range(len(views)), key=lambda v: entropy([scale * s for s in cosines[v]]))
    return [cosines[v].index(max(cosines[v])) for v in order]


def loop_winner(views, classes, scale, gamma):
    """Count the votes, then ask the next surest views."""
    votes = ballots(views, classes, scale)
    voters = max(1, int(gamma * len(views)))
    tally = [votes[:voters].count(c) for c in range(len(classes))]
    tied = [c for c, count in enumerate(tally) if count == max(tally)]
    return tally, next((c for c in votes[voters:] if c in tied), None) if len(tied) > 1 else tied[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 6), st.sampled_from([0.3, 0.3, 0.1, 0.75, 1.0]))
def test_votes_come_first_and_the_next_surest_view_breaks_ties(seed, count, labels, gamma):
    views, classes = unit(3, count, 5, seed=seed), unit(labels, 5, seed=seed + 1)
    scores = selection.vote(views, classes, 7.0, gamma)
    voters = max(1, int(gamma * count))
    for row, of_picture in zip((scores * voters).tolist(), views.double().tolist(), strict=True):
        tally, winner = loop_winner(of_picture, classes.double().tolist(), 7.0, gamma)
        assert [math.floor(score + 1e-5) for score in row] == tally
        assert winner is None or row.index(max(row)) == winner


def test_classes_that_nobody_votes_for_are_ranked_by_mean_similarity():
    views, classes = unit(1, 10, 6, seed=4), unit(40, 6, seed=5)
    (scores,) = selection.vote(views, classes, 7.0)
    votes = ballots(views[0].double().tolist(), classes.double().tolist(), 7.0)
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
    weights = selection.mode_weights(views, classes, 9.0, **options)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    named = {OF_MTA[name]: value for name, value in options.items()}
    for w, of_picture in zip(weights, views, strict=True):
        mode = torch.nn.functional.normalize(w @ of_picture, dim=0)
        expected = loop_mode(of_picture.double().tolist(), classes.double().tolist(), 9.0, **named)
        torch.testing.assert_close(mode.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_mode_leaves_outliers_out():
    good = unit(1, 8, seed=1) + 0.2 * unit(20, 8, seed=2)
    views = torch.cat([good, -unit(1, 8, seed=1) + 0.2 * unit(5, 8, seed=3)])[None]
    views /= views.norm(dim=2, keepdim=True)
    (weights,) = selection.mode_weights(views, unit(3, 8, seed=4), 20.0)
    assert weights[20:].sum() < 0.01


def test_equal_views_have_a_mode():
    views = unit(1, 1, 6).expand(2, 5, 6)
    weights = selection.mode_weights(views, unit(3, 6, seed=1), 9.0)
    assert weights.isfinite().all()
    mass = selection.mass_above_mean(views, unit(2, 6, seed=2))
    torch.testing.assert_close(mass, torch.full((2, 5), 0.2))


def test_only_views_as_like_as_the_mean_have_mass():
    whole, views = unit(5, 6, seed=1), unit(5, 9, 6, seed=2)
    for mass, x0, xs in zip(selection.mass_above_mean(views, whole), whole, views, strict=True):
        likeness = [dot(x.tolist(), x0.tolist()) for x in xs]
        kept = [value >= sum(likeness) / 9 for value in likeness]
        assert mass.tolist() == pytest.approx([flag / sum(kept) for flag in kept])
