"""How sure a prediction is: entropies, and weights that favour what makes the prediction sure.

Letters as in alignment.py. Entropies are in nats, of softmax(logit_scale * scores) over the classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AWT_TEMPERATURE = 0.5
"""Of both softmaxes over negative entropies in AWT (Zhu et al., NeurIPS 2024), for views and for descriptions."""


def entropies(logits: Tensor) -> Tensor:
    """Take the entropy of each prediction: (..., C) logits to (...,)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def view_weights(views: Tensor, classes: Tensor, logit_scale: float, temperature: float = AWT_TEMPERATURE) -> Tensor:
    """Weigh each view by how sure its own prediction is: w = softmax_m(-H_m / temperature).

    Source: AWT, Zhu et al., NeurIPS 2024, arXiv 2407.04603, its image-side weights.

    Args:
        views: (N, V, D) features.
        classes: (C, D) each class's mean description.
        logit_scale: of the class probabilities.
        temperature: of the weights.

    Returns:
        (N, V) weights that sum to one.
    """
    return (-entropies(logit_scale * views.float() @ classes.T) / temperature).softmax(-1)


def replaced_entropies(base: Tensor, classes: Tensor, replacements: Tensor) -> Tensor:
    """Take the entropy of a prediction after one class's logit was replaced, for many replacements at once.

    By the chain rule of entropy it is h(q) + (1 - q) H_rest: q is the probability of the replaced class, h the entropy of
    the question "this class or another", and H_rest the entropy among the others, which no replacement changes. So there is
    one softmax a class and none a description.

    Args:
        base: (N, C) logits, at least two classes.
        classes: (N, T) which classes are replaced, each on its own.
        replacements: (N, T, L) the logits that stand in for them.

    Returns:
        (N, T, L) entropies.
    """
    others = base[:, None].repeat(1, classes.shape[1], 1).scatter(2, classes[:, :, None], -torch.inf)
    log_rest = others.logsumexp(-1, keepdim=True)
    # An entry of -inf has probability zero, and zero times any finite number is what it adds.
    energy = ((others - log_rest).exp() * base[:, None]).sum(-1, keepdim=True)
    log_q, log_other = -F.softplus(log_rest - replacements), -F.softplus(replacements - log_rest)
    q, other = log_q.exp(), log_other.exp()
    return other * (log_rest - energy) - q * log_q - other * log_other


def text_weights(
    base: Tensor, classes: Tensor, logits: Tensor, present: Tensor, temperature: float = AWT_TEMPERATURE
) -> Tensor:
    """Weigh descriptions by how sure the prediction of the whole image is when one stands for its class.

    Source: AWT, Zhu et al., NeurIPS 2024, arXiv 2407.04603, its text-side weights.

    Args:
        base: (N, C) logits of the whole image by each class's mean description.
        classes: (N, T) which classes' descriptions are weighed.
        logits: (N, T, L) of the whole image by each of these descriptions.
        present: (N, T, L) false where a class has fewer than L descriptions.
        temperature: of the weights.

    Returns:
        (N, T, L) weights that sum to one in each class, zero where absent.
    """
    certainty = -replaced_entropies(base, classes, logits) / temperature
    return certainty.masked_fill(~present, -torch.inf).softmax(-1)
