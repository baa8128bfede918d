"""Per-image choices on the side of the texts: soft matching of descriptions and tuned templates.

Letters as in alignment.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crossalign.errors import InputError
from crossalign.methods.alignment import similarity_matrix

ABS_TEMPERATURE = 0.03
"""Of the softmax over all descriptions in ABS (Cai et al., ICML 2025)."""
AUTOCLIP_BETA = 0.85
"""The entropy that AutoCLIP leaves its template weights, as a share of the greatest one (Metzen et al., TMLR 2024)."""
BISECTIONS = 60


def soft_match(views: Tensor, descriptions: Tensor, temperature: float = ABS_TEMPERATURE) -> Tensor:
    """Let each view choose among all descriptions of all classes: the mean over views of softmax(S / temperature) * S.

    Source: ABS, Cai et al., "From Local Details to Global Context: Advancing Vision-Language Models with Attention-Based
    Selection", ICML 2025, arXiv 2505.13233, its soft matching.

    Args:
        views: (N, M, D) features.
        descriptions: (K, D) features of the descriptions of all classes.
        temperature: of the softmax over all K.

    Returns:
        (N, K) what each description adds; a class's score is the sum over its descriptions.
    """
    similarity = similarity_matrix(views, descriptions)
    return (similarity / temperature).softmax(-1).mul_(similarity).mean(1)


def tuned_template_scores(whole: Tensor, prompts: Tensor, counts: Tensor, beta: float = AUTOCLIP_BETA) -> Tensor:
    """Score classes with templates weighed for each image.

    Source: AutoCLIP, Metzen et al., "AutoCLIP: Auto-tuning Zero-Shot Classifiers for Vision-Language Models", TMLR 2024,
    arXiv 2309.16414. With e_ij the image's cosine with template i of class j, weights w = softmax(rho) and scores
    s_j = sum_i w_i e_ij, one step from rho = 0 follows the gradient of logsumexp_j(s_j),

        g_i = (1 / K) sum_j softmax(s)_j (e_ij - s_j),     rho = alpha g,

    and alpha > 0 is such that the entropy of the weights is beta log K. The cosines go into the logsumexp as they are.

    Args:
        whole: (N, D) features of the whole images.
        prompts: (C * K, D) features, class after class, the same K templates in each.
        counts: (C,) all K.
        beta: share of the greatest entropy.

    Returns:
        (N, C) scores.

    Raises:
        InputError: the classes have different numbers of prompts.
    """
    if (counts != counts[0]).any():
        raise InputError(
            f"autoclip weighs templates, the same for all classes, but classes have {int(counts.min())} to "
            f"{int(counts.max())} prompts; give it prompts of equal number, such as templates"
        )
    cosines = (whole.float() @ prompts.float().T).view(len(whole), len(counts), -1)
    means = cosines.mean(2)
    gradient = (means.softmax(1)[:, :, None] * (cosines - means[:, :, None])).sum(1) / cosines.shape[2]
    return (cosines * entropy_targeted(gradient, beta)[:, None]).sum(2)


def entropy_targeted(direction: Tensor, beta: float) -> Tensor:
    """Find the softmax along a direction that has a given entropy.

    Args:
        direction: (N, K).
        beta: share of the greatest entropy, log K.

    Returns:
        (N, K) weights softmax(alpha * direction) whose entropy is beta log K; a flat direction gives equal weights.
    """
    low, high = direction.double().aminmax(dim=1, keepdim=True)
    flat = high == low
    unit = (direction.double() - high) / (high - low).masked_fill(flat, 1.0)
    # The entropy falls with alpha; its logarithm is halved, since alpha may span magnitudes.
    lower, upper = torch.full_like(high, -20.0), torch.full_like(high, 20.0)
    for _ in range(BISECTIONS):
        middle = (lower + upper) / 2
        log_w = (middle.exp() * unit).log_softmax(1)
        above = -(log_w.exp() * log_w).sum(1, keepdim=True) > beta * math.log(direction.shape[1])
        lower, upper = torch.where(above, middle, lower), torch.where(above, upper, middle)
    return (lower.exp() * unit).softmax(1).float()
