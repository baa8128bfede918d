"""Classes by example images: class embeddings, leave-one-out and mixtures against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossalign.methods.examples import (
    Mixture,
    accuracy,
    choose_mixture,
    class_embeddings,
    fit_logit_scale,
    leave_one_out,
    pool,
)


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)


def plain_pool(x0, views, image_scale):
    weights = [math.exp(math.exp(image_scale) * float(np.dot(view, x0))) for view in views]
    mean = sum(weight * view for weight, view in zip(weights, views, strict=True)) / sum(weights)
    return mean / np.linalg.norm(mean)


@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0, 3))
def test_pooling_is_a_plain_weighted_mean(seed, count, image_scale):
    x0, views = unit(2, 8, seed=seed), unit(2, count, 8, seed=seed + 1)
    pooled = pool(x0, views, image_scale)
    for row in range(2):
        expected = plain_pool(x0[row].double().numpy(), views[row].double().numpy(), image_scale)
        assert pooled[row].numpy() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(pool(x0, views[:, :0], image_scale), x0)


@given(st.integers(0, 1000), st.lists(st.integers(0, 2), min_size=4, max_size=9))
def test_leaving_one_out_is_making_the_classes_without_it(seed, labels):
    features, classes = unit(len(labels), 6, seed=seed), torch.tensor(labels)
    scores = leave_one_out(features, classes, 3)
    for row, label in enumerate(labels):
        rest = [other for other in range(len(labels)) if other != row]
        embeddings = class_embeddings(features[rest], classes[rest], 3)
        if labels.count(label) == 1:
            assert scores[row, label].isnan()
            embeddings[label] = 0
            scores[row, label] = 0
        assert scores[row].numpy() == pytest.approx((embeddings @ features[row]).numpy(), abs=1e-5)


def test_the_logit_scale_is_the_most_likely_one():
    scores, labels = unit(200, 5, seed=1), torch.randint(5, (200,), generator=torch.Generator().manual_seed(2))
    scores[torch.arange(200), labels] += 0.3

    def likelihood(scale):
        logs = (scale * scores.double()).log_softmax(1)
        true = logs[torch.arange(200), labels]
        return (201 / 202 * true + 1 / 202 / 4 * (logs.sum(1) - true)).sum().item()

    best = fit_logit_scale(scores, labels)
    assert all(likelihood(best) >= likelihood(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_few_examples_without_an_error_do_not_make_answers_certain():
    scores = torch.eye(3).repeat(2, 1)
    scale = fit_logit_scale(scores, torch.arange(6) % 3)
    assert (scale * scores).softmax(1).max().item() == pytest.approx(7 / 8, abs=0.01)


def noisy(labels, strength, seed):
    scores = 0.1 * unit(len(labels), 4, seed=seed)
    scores[torch.arange(len(labels)), labels] += strength
    return scores


def test_the_better_side_has_more_to_say_and_the_mixture_is_no_worse_than_either():
    labels = torch.arange(200) % 4
    weak, strong = noisy(labels, 0.02, 1), noisy(labels, 0.06, 2)
    for texts, examples in ((weak, strong), (strong, weak)):
        mixture = choose_mixture(texts, examples, labels)
        assert mixture.together >= max(mixture.texts, mixture.examples)
        assert (mixture.share > 0.5) == (mixture.texts > mixture.examples)
        mixed = mixture.share * texts + (1 - mixture.share) * examples
        assert mixture.together == accuracy(mixed, labels)


def test_a_side_that_knows_nothing_is_left_out():
    labels = torch.arange(40) % 4
    constant = torch.zeros(40, 4)
    constant[:, 0] = 0.5
    assert choose_mixture(constant, noisy(labels, 1.0, 3), labels).share < 0.3
    assert choose_mixture(None, noisy(labels, 1.0, 3), labels).share == 0


def test_single_examples_leave_nothing_to_choose():
    labels = torch.arange(3)
    scores = leave_one_out(unit(3, 6, seed=1), labels, 3)
    assert choose_mixture(unit(3, 3, seed=2), scores, labels) == Mixture(0.5, 20.0)
    assert "no class has two examples" in str(choose_mixture(None, scores, labels))
