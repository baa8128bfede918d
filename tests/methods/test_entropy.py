"""Entropies against loops, and the closed form of a replaced class against doing it."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods import entropy
from crossalign.methods.text_weighting import template_weights


def loop_entropy(logits):
    powers = [math.exp(value - max(logits)) for value in logits]
    return -sum(p / sum(powers) * math.log(p / sum(powers)) for p in powers if p > 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7), st.floats(0.1, 40))
def test_a_replaced_class_changes_the_entropy_as_if_it_were_done(seed, classes, spread):
    generator = torch.Generator().manual_seed(seed)
    base = spread * torch.randn(3, classes, generator=generator)
    replacements = spread * torch.randn(3, classes, 4, generator=generator)
    which = torch.arange(classes).expand(3, -1)
    found = entropy.replaced_entropies(base, which, replacements)
    for n in range(3):
        for c in range(classes):
            for i in range(4):
                logits = base[n].tolist()
                logits[c] = replacements[n, c, i].item()
                assert abs(found[n, c, i].item() - loop_entropy(logits)) < 1e-4


def test_a_class_that_outweighs_all_others_is_replaced_exactly():
    base = torch.tensor([[90.0, 1.0, 1.0, 1.0]])
    found = entropy.replaced_entropies(base, torch.tensor([[0]]), torch.tensor([[[-50.0, 1.0, 95.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[math.log(3), math.log(4), 0.0]]]))


def test_absent_descriptions_have_no_weight():
    base, which = torch.randn(2, 3), torch.tensor([[0, 2], [1, 0]])
    present = torch.tensor([[True, True, False], [True, False, False]]).expand(2, -1, -1)
    weights = entropy.text_weights(base, which, torch.randn(2, 2, 3), present)
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 2))


def test_sure_views_weigh_more():
    classes = torch.eye(3)
    views = torch.tensor([[[1.0, 0.0, 0.0], [0.6, 0.6, 0.52]]])
    (weights,) = entropy.view_weights(views, classes, 10.0)
    difference = loop_entropy([6, 6, 5.2]) - loop_entropy([10, 0, 0])
    assert abs(math.log(weights[0] / weights[1]) - difference / 0.5) < 1e-4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 80), st.floats(1e-2, 0.3))
def test_template_weights_nearly_have_the_entropy_asked_for(seed, count, size):
    """The program's bisection stops a hundredth of the step, plus 0.01, from the right one; so does ours."""
    cosines = size * torch.randn(4, 9, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = template_weights(cosines, 0.85)
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=torch.float64))
    for row in weights.tolist():
        assert abs(-sum(w * math.log(w) for w in row if w > 0) / math.log(count) - 0.85) < 0.02


def test_templates_that_are_alike_get_equal_weights():
    cosines = torch.rand(2, 4, 1, dtype=torch.float64).expand(-1, -1, 5)
    torch.testing.assert_close(template_weights(cosines), torch.full((2, 5), 0.2, dtype=torch.float64))


def test_one_class_has_no_entropy():
    logits = torch.randn(2, 1, 3)
    assert (entropy.replaced_entropies(torch.randn(2, 1), torch.zeros(2, 1, dtype=torch.long), logits) == 0).all()
