"""The equations of weighted visual-text cross alignment: tensors in, tensors out, no I/O, no model.

Source: Li et al., "Visual-Text Cross Alignment: Refining the Similarity Score in Vision-Language Models", ICML 2024,
arXiv 2406.02915. Letters: N images, M views, R runs, C classes, K descriptions of all classes together (a class has its
own number of them, `counts`), D the width of the joint space. All features are L2-normalised. Whatever dtype the features
are stored in, sums are accumulated in float32.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["released", "paper"]
FORMS: tuple[Form, ...] = get_args(Form)


def view_weights(views: Tensor, whole: Tensor, scale: float, draws: Tensor | None = None) -> Tensor:
    """Weigh each view by its likeness to the whole image: w = softmax_m(exp(scale) cos(f(x_m), f(x_0))).

    Args:
        views: (N, M, D) features of the local views.
        whole: (N, D) features of the whole images.
        scale: the paper's image_scale; the softmax's inverse temperature is exp(scale).
        draws: (R, M) how often each run drew each view; a view drawn twice counts twice, one not drawn has weight zero.

    Returns:
        (N, M) weights that sum to one, or (N, R, M) when `draws` is given.
    """
    logits = math.exp(scale) * torch.einsum("nmd,nd->nm", views.float(), whole.float())
    if draws is None:
        return logits.softmax(-1)
    return (logits[:, None] + draws.float().log()).softmax(-1)


def uniform_view_weights(views: Tensor, draws: Tensor | None = None) -> Tensor:
    """Weigh all views alike: (N, M, D) views, and if given (R, M) draws, to (N, M) or (N, R, M) weights that sum to one."""
    images, count = views.shape[:2]
    if draws is None:
        return torch.full((images, count), 1 / count, device=views.device)
    return (draws.float() / draws.sum(1, keepdim=True)).expand(images, -1, -1)


def text_weights(descriptions: Tensor, prompts: Tensor, counts: Tensor, scale: float) -> Tensor:
    """Weigh each description by its likeness to its class's prompt: v_c = softmax_n(exp(scale) cos(g(y_cn), g(y_c0))).

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
    """Weigh all descriptions of a class alike: (C,) counts to (K,) weights that sum to one in each class."""
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

    The scores do not need it, since their double sum factorises; explanations and later matchers do.
    """
    return views.float() @ descriptions.float().T


def scores(pooled_views: Tensor, pooled_texts: Tensor, form: Form = "released") -> Tensor:
    """Score every class for every image.

    Args:
        pooled_views: (..., D) what `pool_views` gave, or the features of whole images.
        pooled_texts: (C, D) what `pool_texts` gave.
        form: "paper" is the double sum  sum_m sum_n w_m v_cn S_c[m, n]  (its equation 6); "released" is the cosine of
            the two pooled features, as in the program that gave the published figures.

    Returns:
        (..., C) scores.
    """
    if form == "released":
        pooled_views, pooled_texts = F.normalize(pooled_views.float(), dim=-1), F.normalize(pooled_texts, dim=-1)
    return pooled_views.float() @ pooled_texts.T


def class_sums(values: Tensor, counts: Tensor) -> Tensor:
    """Add up what belongs to each class: (K, ...) values, class after class, and (C,) counts to (C, ...)."""
    sums = torch.zeros((len(counts), *values.shape[1:]), device=values.device)
    return sums.index_add_(0, _owners(counts), values)


def _owners(counts: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
