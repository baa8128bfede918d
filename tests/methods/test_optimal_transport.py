"""Optimal transport against POT, where it has converged; its stopping rule."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods.optimal_transport import GAP, ByClass, mass_above_mean, sinkhorn, transport_scores


def masses(generator, count, length, zeros):
    m = generator.random((count, length)) + 0.05
    for row in m:
        row[generator.permutation(length)[:zeros]] = 0
    return m / m.sum(1, keepdims=True)


def pot(cost, rows, columns, epsilon=0.1):
    """Solve one problem in float64; POT gets no empty rows or columns, which it cannot divide by."""
    plan = np.zeros_like(cost)
    r, c = rows > 0, columns > 0
    plan[np.ix_(r, c)] = ot.sinkhorn(rows[r], columns[c], cost[np.ix_(r, c)], epsilon, numItermax=20000, stopThr=1e-13)
    return plan


def tensors(*arrays):
    return [torch.from_numpy(array).float() for array in arrays]


def solve(cost, rows, columns, **options):
    """Solve (B, V, L) problems as one image's classes."""
    similarity, rows, columns = 1 - cost[None], rows[None], columns[None]
    return sinkhorn(similarity, rows, columns, columns > 0, stop_per="class", **options)[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.data())
@pytest.mark.slow
def test_converged_plans_agree_with_pot(seed, rows, columns, data):
    generator = np.random.default_rng(seed)
    cost = 1 + 0.3 * generator.standard_normal((4, rows, columns)).clip(-3, 3)
    a = masses(generator, 4, rows, data.draw(st.integers(0, rows - 1)))
    b = masses(generator, 4, columns, data.draw(st.integers(0, columns - 1)))
    plans = solve(*tensors(cost, a, b), iterations=2000, tolerance=-1)
    assert plans.dtype == torch.float32
    for plan, problem in zip(plans.numpy(), zip(cost, a, b, strict=True), strict=True):
        expected = pot(*problem)
        np.testing.assert_allclose(plan, expected, atol=1e-5)
        assert (plan[expected == 0] == 0).all()


def test_the_programs_stopping_rule_is_near_convergence_for_cosines():
    generator = np.random.default_rng(3)
    cost = 1 - 0.25 - 0.08 * generator.standard_normal((20, 61, 30))
    a, b = masses(generator, 20, 61, 31), masses(generator, 20, 30, 4)
    plans = solve(*tensors(cost, a, b))
    for plan, problem in zip(plans.numpy(), zip(cost, a, b, strict=True), strict=True):
        np.testing.assert_allclose(plan, pot(*problem), atol=1e-4)
    torch.testing.assert_close(plans.sum(1), tensors(b)[0], atol=1e-6, rtol=0)
    assert (plans.sum(2) - tensors(a)[0]).abs().max() > 1e-6


@pytest.mark.parametrize("stop_per", ["image", "class"])
def test_no_problem_stops_for_its_neighbours(stop_per):
    generator = torch.Generator().manual_seed(0)
    similarity = (
        torch.rand(5, 3, 6, 4, generator=generator) * torch.tensor([0.1, 1, 0.5, 0.02, 1.5])[:, None, None, None] - 0.5
    )
    rows, columns = (torch.rand(5, 3, size, generator=generator) for size in (6, 4))
    rows, columns = (m / m.sum(-1, keepdim=True) for m in (rows, columns))
    present = torch.ones_like(columns, dtype=torch.bool)
    together = sinkhorn(similarity, rows, columns, present, stop_per=stop_per)
    for image in range(5):
        own = slice(image, image + 1)
        alone = sinkhorn(similarity[own], rows[own], columns[own], present[own], stop_per=stop_per)
        torch.testing.assert_close(alone, together[own], atol=1e-7, rtol=0)
        for c in range(3):
            part = (own, slice(c, c + 1))
            of_class = sinkhorn(similarity[part], rows[part], columns[part], present[part], stop_per=stop_per)
            same = torch.allclose(of_class, together[part], atol=1e-7, rtol=0)
            assert same or stop_per == "image"
    assert not torch.allclose(
        together, sinkhorn(similarity, rows, columns, present, stop_per=stop_per, tolerance=1e-6), atol=1e-5
    )


def test_descriptions_lie_class_after_class():
    layout = ByClass.of(torch.tensor([2, 1, 3]))
    assert layout.rows.tolist() == [[0, 1, 0], [2, 0, 0], [3, 4, 5]]
    assert layout.present.tolist() == [[True, True, False], [True, False, False], [True] * 3]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_classes_that_are_not_transported_keep_their_order_below(count):
    generator = torch.Generator().manual_seed(0)
    coarse, similarity = torch.randn(6, 5, generator=generator), torch.randn(6, count, 4, 3, generator=generator)
    chosen = coarse.topk(count, dim=1).indices
    scores = transport_scores(coarse, chosen, similarity, torch.rand(6, count, 4, 3, generator=generator))
    for row, rough in zip(scores, coarse, strict=True):
        order = rough.argsort(descending=True)
        assert row[order[:count]].min() - row[order[count:]].max() >= GAP * 0.9
        assert (row[order[count:]].diff() < 0).all()


def test_only_views_as_similar_as_the_mean_have_mass():
    generator = torch.Generator().manual_seed(1)
    x0s, views = torch.randn(5, 6, generator=generator), torch.randn(5, 9, 6, generator=generator)
    for mass, x0, xs in zip(mass_above_mean(views, x0s), x0s, views, strict=True):
        similarity = [float(x @ x0) for x in xs]
        above = [value >= sum(similarity) / 9 for value in similarity]
        assert mass.tolist() == pytest.approx([flag / sum(above) for flag in above])
    same = views[:2, :1].expand(2, 5, 6)
    torch.testing.assert_close(mass_above_mean(same, x0s[:2]), torch.full((2, 5), 0.2))
