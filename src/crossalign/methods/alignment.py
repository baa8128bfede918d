"""The equations of weighted visual-text cross alignment: tensors in, tensors out, no I/O, no model.

Source: Li et al., "Visual-Text Cross Alignment: Refining the Similarity Score in Vision-Language Models", ICML 2024,
arXiv 2406.02915. Letters: N images, M views, R resampled runs, C classes, K descriptions of all classes together (each
class has its own number, `counts`), D the width of the joint space; x_0 is the global view. All features are L2-normalised.
Sums are accumulated in float32, in whatever dtype the features are stored.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["released", "paper"]
FORMS: tuple[Form, ...] = get_args(Form)


def view_weights(views: Tensor, x0: Tensor, scale: float, run_counts: Tensor | None = None) -> Tensor:
    """Weight each view by its similarity to the global view: w = softmax_m(exp(scale) cos(f(x_m), f(x_0))).

    Args:
        views: (N, M, D) features of the local views.
        x0: (N, D) features of the global views.
        scale: the paper's image_scale; the softmax's inverse temperature is exp(scale).
        run_counts: (R, M), or (N, R, M) if images differ: how often each resampled run took each view. A view that was taken
            twice counts twice; one that was not taken has weight zero.

    Returns:
        (N, M) weights that sum to one, or (N, R, M) if `run_counts` is given.
    """
    # Product and sum are faster and more exact here than a matrix product, which has one column per image.
    similarity = (views.float() * x0.float()[:, None]).sum(-1)
    logits = math.exp(scale) * (similarity - similarity.amax(-1, keepdim=True))
    if run_counts is None:
        return logits.softmax(-1)
    return (logits[:, None] + run_counts.float().log()).softmax(-1)


def uniform_view_weights(views: Tensor, run_counts: Tensor | None = None) -> Tensor:
    """Give all views the same weight; shapes as in `view_weights`."""
    images, count = views.shape[:2]
    if run_counts is None:
        return torch.full((images, count), 1 / count, device=views.device)
    return (run_counts.float() / run_counts.sum(-1, keepdim=True)).expand(images, -1, -1)


def text_weights(descriptions: Tensor, prompts: Tensor, counts: Tensor, scale: float) -> Tensor:
    """Weight each description by its similarity to its class prompt: v_c = softmax_n(exp(scale) cos(g(y_cn), g(y_c0))).

    Args:
        descriptions: (K, D) features of the descriptions, class after class.
        prompts: (C, D) features of "a photo of a {name}."
        counts: (C,) how many descriptions each class has.
        scale: the paper's text_scale; the softmax's inverse temperature is exp(scale).

    Returns:
        (K,) weights that sum to one in each class.
    """
    owner = _owners(counts)
    logits = math.exp(scale) * (descriptions.float() * prompts.float()[owner]).sum(-1)
    highest = torch.full((len(counts),), -math.inf, device=logits.device).scatter_reduce(0, owner, logits, "amax")
    powers = (logits - highest[owner]).exp()
    return powers / class_sums(powers, counts)[owner]


def uniform_text_weights(counts: Tensor) -> Tensor:
    """Give all descriptions of a class the same weight: (C,) counts to (K,) weights that sum to one in each class."""
    return (1.0 / counts.float())[_owners(counts)]


def pool_views(views: Tensor, weights: Tensor) -> Tensor:
    """Sum views by their weights: (N, M, D) and (N, M) or (N, R, M) to (N, D) or (N, R, D), not normalised."""
    if weights.dim() == 2:
        return torch.einsum("nmd,nm->nd", views.float(), weights)
    return weights @ views.float()


def pool_texts(descriptions: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Sum descriptions by their weights, class by class: (K, D), (K,), (C,) to (C, D), not normalised."""
    return class_sums(descriptions.float() * weights[:, None], counts)


def similarity_matrix(views: Tensor, descriptions: Tensor) -> Tensor:
    """Compare every view with every description: (N, M, D) and (K, D) to (N, M, K) cosines.

    WCA's score does not need it, since its double sum factorises; explanations and other methods do.
    """
    return views.float() @ descriptions.float().T


def scores(pooled_views: Tensor, pooled_texts: Tensor, form: Form = "released") -> Tensor:
    """Score every class for every image.

    Args:
        pooled_views: (..., D) what `pool_views` returns, or features of global views.
        pooled_texts: (C, D) what `pool_texts` returns.
        form: "paper" is the double sum  sum_m sum_n w_m v_cn S_c[m, n]  (its equation 6); "released" is the cosine of
            the two pooled features, as in the program that gave the published figures.

    Returns:
        (..., C) scores.
    """
    if form == "released":
        pooled_views, pooled_texts = F.normalize(pooled_views.float(), dim=-1), F.normalize(pooled_texts, dim=-1)
    return pooled_views.float() @ pooled_texts.T


def class_sums(values: Tensor, counts: Tensor) -> Tensor:
    """Sum the values of each class: (K, ...) values, class after class, and (C,) counts to (C, ...)."""
    sums = torch.zeros((len(counts), *values.shape[1:]), device=values.device)
    return sums.index_add_(0, _owners(counts), values)


def _owners(counts: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
