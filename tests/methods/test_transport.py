"""Optimal transport against POT."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods.optimal_transport import GAP, ByClass, sinkhorn, transport_scores


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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.data())
def test_plans_agree_with_pot(seed, rows, columns, data):
    generator = np.random.default_rng(seed)
    cost = 1 + 0.3 * generator.standard_normal((4, rows, columns))
    a = masses(generator, 4, rows, data.draw(st.integers(0, rows - 1)))
    b = masses(generator, 4, columns, data.draw(st.integers(0, columns - 1)))
    plans = sinkhorn(*tensors(cost, a, b), iterations=2000)
    assert plans.dtype == torch.float32
    for plan, one in zip(plans.numpy(), map(pot, cost, a, b), strict=True):
        np.testing.assert_allclose(plan, one, atol=1e-5)
        assert (plan[one == 0] == 0).all()


def test_cosines_converge_within_the_iterations():
    generator = np.random.default_rng(3)
    cost = 1 - 0.25 - 0.08 * generator.standard_normal((20, 61, 30))
    a, b = masses(generator, 20, 61, 31), masses(generator, 20, 30, 4)
    plans = sinkhorn(*tensors(cost, a, b))
    for plan, one in zip(plans.numpy(), map(pot, cost, a, b), strict=True):
        np.testing.assert_allclose(plan, one, atol=1e-5)
    torch.testing.assert_close(plans.sum(2), tensors(a)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(plans.sum(1), tensors(b)[0], atol=1e-5, rtol=0)


def test_large_costs_do_not_underflow():
    cost = np.array([[[0.0, 60.0], [60.0, 120.0]]])
    half = np.array([[0.5, 0.5]])
    plan = sinkhorn(*tensors(cost, half, half))
    torch.testing.assert_close(plan.sum(2), torch.tensor([[0.5, 0.5]]), atol=1e-4, rtol=0)


def test_descriptions_lie_class_after_class():
    layout = ByClass.of(torch.tensor([2, 1, 3]))
    assert layout.rows.tolist() == [[0, 1, 0], [2, 0, 0], [3, 4, 5]]
    assert layout.present.tolist() == [[True, True, False], [True, False, False], [True] * 3]


@pytest.mark.parametrize("refined", [1, 2, 4])
def test_classes_that_are_not_refined_keep_their_order_below(refined):
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        x = torch.randn(*shape, generator=generator)
        return x / x.norm(dim=-1, keepdim=True)

    counts = torch.tensor([2, 3, 1, 2, 4])
    layout = ByClass.of(counts)
    coarse = torch.randn(6, 5, generator=generator)
    scores = transport_scores(
        unit(6, 8),
        unit(6, 4, 8),
        torch.full((6, 4), 0.25),
        unit(12, 8),
        layout,
        coarse,
        lambda classes, of_whole, present: present / present.sum(-1, keepdim=True),
        view_share=1.0,
        refined=refined,
    )
    for row, rough in zip(scores, coarse, strict=True):
        order = rough.argsort(descending=True)
        assert row[order[:refined]].min() - row[order[refined:]].max() >= GAP * 0.9
        assert (row[order[refined:]].diff() < 0).all()
