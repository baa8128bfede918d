"""The equations against a plain double loop in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign.methods import alignment


def unit(*shape, seed=0, dtype=torch.float32):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True)).to(dtype)


def problem(seed=0, images=3, views=5, counts=(2, 1, 4), width=7, dtype=torch.float32):
    counts = torch.tensor(counts)
    return (
        unit(images, views, width, seed=seed, dtype=dtype),
        unit(images, width, seed=seed + 1, dtype=dtype),
        unit(int(counts.sum()), width, seed=seed + 2, dtype=dtype),
        unit(len(counts), width, seed=seed + 3, dtype=dtype),
        counts,
    )


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def loop_scores(views, x0, descriptions, prompts, counts, form, image_scale=4.0, text_scale=2.0):
    """The paper's formulas, one term at a time."""
    rows = []
    for local, of_image in zip(views.double(), x0.double(), strict=True):
        w = softmax([math.exp(image_scale) * dot(x, of_image) for x in local])
        row, start = [], 0
        for y0, n in zip(prompts.double(), counts.tolist(), strict=True):
            ys = descriptions.double()[start : start + n]
            start += n
            v = softmax([math.exp(text_scale) * dot(y, y0) for y in ys])
            double_sum = sum(w[i] * v[j] * dot(local[i], ys[j]) for i in range(len(w)) for j in range(n))
            if form == "released":
                image = sum(w[i] * local[i] for i in range(len(w)))
                text = sum(v[j] * ys[j] for j in range(n))
                double_sum /= math.sqrt(dot(image, image)) * math.sqrt(dot(text, text))
            row.append(double_sum)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def our_scores(views, x0, descriptions, prompts, counts, form):
    w = alignment.view_weights(views, x0, 4.0)
    v = alignment.text_weights(descriptions, prompts, counts, 2.0)
    pooled = alignment.pool_views(views, w), alignment.pool_texts(descriptions, v, counts)
    return alignment.scores(*pooled, form)


@pytest.mark.parametrize("form", alignment.FORMS)
@pytest.mark.parametrize("counts", [(2, 1, 4), (1, 1), (6, 3, 1, 2)])
def test_scores_are_the_double_sum(form, counts):
    inputs = problem(counts=counts)
    ours = our_scores(*inputs, form)
    assert ours.shape == (3, len(counts))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), loop_scores(*inputs, form), atol=2e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 9),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(2, 16),
)
def test_any_shape_agrees_with_the_loop(seed, images, views, counts, width):
    inputs = problem(seed, images, views, tuple(counts), width)
    for form in alignment.FORMS:
        torch.testing.assert_close(our_scores(*inputs, form).double(), loop_scores(*inputs, form), atol=5e-6, rtol=0)


def test_the_matrix_gives_the_same_double_sum():
    views, x0, descriptions, prompts, counts = problem()
    matrix = alignment.similarity_matrix(views, descriptions)
    assert matrix.shape == (3, 5, 7)
    w = alignment.view_weights(views, x0, 4.0)
    v = alignment.text_weights(descriptions, prompts, counts, 2.0)
    contributions = w[:, :, None] * matrix * v
    by_class = torch.stack([part.sum((1, 2)) for part in contributions.split(counts.tolist(), dim=2)], dim=1)
    torch.testing.assert_close(by_class, our_scores(views, x0, descriptions, prompts, counts, "paper"))


def test_weights_sum_to_one_and_follow_similarity():
    views, x0, descriptions, prompts, counts = problem(views=6)
    views[:, 2] = x0
    w = alignment.view_weights(views, x0, 4.0)
    torch.testing.assert_close(w.sum(1), torch.ones(3))
    assert (w.argmax(1) == 2).all()
    v = alignment.text_weights(descriptions, prompts, counts, 2.0)
    sums = torch.stack([part.sum() for part in v.split(counts.tolist())])
    torch.testing.assert_close(sums, torch.ones(3))
    uniform = alignment.uniform_text_weights(counts)
    assert uniform.tolist() == pytest.approx([1 / 2] * 2 + [1] + [1 / 4] * 4)


def test_a_sharp_text_scale_does_not_overflow():
    _, _, descriptions, prompts, counts = problem()
    v = alignment.text_weights(descriptions, prompts, counts, 8.0)
    assert torch.isfinite(v).all()
    torch.testing.assert_close(v.sum(), torch.tensor(3.0))


def test_resampled_runs_equal_the_views_they_took():
    views, x0, *_ = problem(views=4)
    taken = torch.tensor([[0, 0, 2, 3], [1, 1, 1, 1]])
    run_counts = torch.stack([run.bincount(minlength=4) for run in taken])
    for weigh in (lambda views, counts=None: alignment.view_weights(views, x0, 4.0, counts), alignment.uniform_view_weights):
        pooled = alignment.pool_views(views, weigh(views, run_counts))
        assert pooled.shape == (3, 2, 7)
        of_each_image = alignment.pool_views(views, weigh(views, run_counts.expand(3, -1, -1)))
        torch.testing.assert_close(of_each_image, pooled)
        for run, rows in enumerate(taken):
            expected = alignment.pool_views(views[:, rows], weigh(views[:, rows]))
            torch.testing.assert_close(pooled[:, run], expected)


def test_images_may_have_runs_of_their_own():
    views, x0, *_ = problem(images=2, views=4)
    run_counts = torch.tensor([[[2, 0, 1, 1]], [[0, 3, 1, 0]]])
    weights = alignment.view_weights(views, x0, 4.0, run_counts)
    for image, rows in enumerate(([0, 0, 2, 3], [1, 1, 1, 2])):
        alone = alignment.view_weights(views[image : image + 1, rows], x0[image : image + 1], 4.0)
        expected = torch.zeros(4).index_add_(0, torch.tensor(rows), alone[0])
        torch.testing.assert_close(weights[image, 0], expected)


def test_float16_features_are_summed_in_float32():
    inputs = problem(views=60, counts=(30, 30), width=64)
    half = problem(views=60, counts=(30, 30), width=64, dtype=torch.float16)
    for form in alignment.FORMS:
        ours = our_scores(*half, form)
        assert ours.dtype == torch.float32
        # Only the rounding of the stored features remains, not an error that grows with the number of terms.
        torch.testing.assert_close(ours.double(), loop_scores(*half, form), atol=3e-6, rtol=0)
        torch.testing.assert_close(ours.double(), loop_scores(*inputs, form), atol=2e-3, rtol=0)


def test_the_text_side_normalisation_can_change_the_answer():
    # Class 0's two descriptions nearly cancel: a small double sum, but a large cosine.
    views = torch.tensor([[[1.0, 0.0]]])
    descriptions = torch.tensor([[0.6, 0.8], [0.6, -0.8], [0.8, 0.6]])
    counts = torch.tensor([2, 1])
    pooled = alignment.pool_texts(descriptions, alignment.uniform_text_weights(counts), counts)
    assert alignment.scores(views[:, 0], pooled, "released").argmax() == 0
    assert alignment.scores(views[:, 0], pooled, "paper").argmax() == 1
