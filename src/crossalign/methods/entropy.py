"""Entropies of predictions, and weights that favour confident predictions.

Letters as in alignment.py. Entropies are in nats, of softmax(logit_scale * similarity) over the classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AWT_TEMPERATURE = 0.5
"""Of both softmaxes over negative entropies in AWT (Zhu et al., NeurIPS 2024), for views and for texts."""


def entropies(logits: Tensor) -> Tensor:
    """Compute the entropy of each prediction: (..., C) logits to (...,)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def view_weights(views: Tensor, classes: Tensor, logit_scale: float, temperature: float = AWT_TEMPERATURE) -> Tensor:
    """Weight each view by the confidence of its own prediction: w = softmax_m(-H_m / temperature).

    Source: AWT, Zhu et al., NeurIPS 2024, arXiv 2407.04603, its image-side weights.

    Args:
        views: (N, V, D) features.
        classes: (C, D) mean of the text features of each class, not normalised.
        logit_scale: of the class probabilities.
        temperature: of the weights.

    Returns:
        (N, V) weights that sum to one.
    """
    return (-entropies(logit_scale * views.float() @ classes.T) / temperature).softmax(-1)


def replaced_entropies(base: Tensor, classes: Tensor, replacements: Tensor) -> Tensor:
    """Compute the entropy of a prediction after the logit of one class was replaced, for many replacements at once.

    By the chain rule of entropy it is h(q) + (1 - q) H_rest: q is the probability of the replaced class, h the entropy of
    the choice "this class or another", and H_rest the entropy among the others, which no replacement changes. So one softmax
    per class suffices, instead of one per text.

    Args:
        base: (N, C) logits.
        classes: (N, T) the replaced classes, each on its own.
        replacements: (N, T, L) the logits that replace theirs.

    Returns:
        (N, T, L) entropies; zero if there is one class only.
    """
    if base.shape[1] == 1:
        return torch.zeros_like(replacements)
    others = base[:, None].repeat(1, classes.shape[1], 1).scatter(2, classes[:, :, None], -torch.inf)
    log_rest = others.logsumexp(-1, keepdim=True)
    # The replaced class has probability zero among the others; base, unlike others, is finite there, so it adds zero.
    rest = -((others - log_rest).exp() * (base[:, None] - log_rest)).sum(-1, keepdim=True)
    log_q, log_other = -F.softplus(log_rest - replacements), -F.softplus(replacements - log_rest)
    q, other = log_q.exp(), log_other.exp()
    return other * rest - q * log_q - other * log_other


def text_weights(
    base: Tensor, classes: Tensor, logits: Tensor, present: Tensor, temperature: float = AWT_TEMPERATURE
) -> Tensor:
    """Weight texts by the confidence of the global view's prediction when one text stands for its class.

    Source: AWT, Zhu et al., NeurIPS 2024, arXiv 2407.04603, its text-side weights.

    Args:
        base: (N, C) logits of the global view by the mean text feature of each class.
        classes: (N, T) the classes whose texts are weighted.
        logits: (N, T, L) of the global view by each of these texts.
        present: (N, T, L) false where a class has fewer than L texts.
        temperature: of the weights.

    Returns:
        (N, T, L) weights that sum to one in each class, zero where absent.
    """
    confidence = -replaced_entropies(base, classes, logits) / temperature
    return confidence.masked_fill(~present, -torch.inf).softmax(-1)
