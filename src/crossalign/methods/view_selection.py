"""Choosing among views: the vote of the surest ones, and the robust mode of all. Letters as in alignment.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.methods.entropy import entropies

ZERO_SHARE = 0.3
"""Of the views that vote in ZERO (gamma; Farina et al., NeurIPS 2024)."""
MTA_NEIGHBOURS = 0.3
"""Share of the other views whose distances make a view's bandwidth (rho; Zanella and Ben Ayed, CVPR 2024)."""
MTA_AFFINITY = 4.0
"""Weight of the agreement between views' predictions (lambda)."""
MTA_ENTROPY = 0.2
"""Weight of the entropy of the inlierness scores (lambda_y)."""
MTA_ROUNDS = 5
"""Of the alternation, and of the fixed-point steps in either half of it, as in the authors' program."""


def mass_above_mean(views: Tensor, whole: Tensor) -> Tensor:
    """Spread the mass evenly over the views that resemble the whole image at least as much as the mean view does.

    Source: LaZSL, Chen et al., ICCV 2025, arXiv 2506.23822.

    Args:
        views: (N, M, D) features.
        whole: (N, D) features of the whole images.

    Returns:
        (N, M) masses that sum to one, zero for the views below the mean.
    """
    likeness = torch.einsum("nmd,nd->nm", views.float(), whole.float())
    # Equal views may all fall below their own mean by a rounding; the likest view always stays.
    bar = torch.minimum(likeness.mean(1, keepdim=True), likeness.amax(1, keepdim=True))
    kept = (likeness >= bar).float()
    return kept / kept.sum(1, keepdim=True)


def vote(views: Tensor, classes: Tensor, logit_scale: float, share: float = ZERO_SHARE) -> Tensor:
    """Let the surest views vote for their best class.

    Source: ZERO, Farina et al., "Frustratingly Easy Test-Time Adaptation of Vision-Language Models", NeurIPS 2024, arXiv
    2405.18330: among classes with equal votes, the next surest view that is for one of them decides.

    Args:
        views: (N, V, D) features, the whole image among them.
        classes: (C, D) features.
        logit_scale: of the class probabilities.
        share: of the views that vote, floor(share * V) and at least one: those of the lowest entropy.

    Returns:
        (N, C) votes as a share of all votes. To this less than one vote is added, (r + m / 2) / (R + 1): R views did not
        vote, r is R for the class that the surest of them is for, R - 1 for the next one's, ..., 0 for a class that none is
        for; m orders the rest: the mean similarity with the voting views, from 0 for the worst class to 1 for the best.
    """
    cosines = views.float() @ classes.T
    order = entropies(logit_scale * cosines).argsort(dim=1, stable=True)
    voters = max(1, int(share * views.shape[1]))
    choices = cosines.argmax(-1).gather(1, order)
    votes = torch.zeros_like(cosines[:, 0])
    ones = torch.ones_like(order, dtype=votes.dtype)
    tally = votes.scatter_add(1, choices[:, :voters], ones[:, :voters])
    idle = views.shape[1] - voters
    rank = torch.arange(idle, 0, -1, device=votes.device, dtype=votes.dtype).expand(len(views), -1)
    deciding = votes.scatter_reduce(1, choices[:, voters:], rank, "amax")
    voting = votes.new_zeros(order.shape).scatter(1, order[:, :voters], ones[:, :voters])
    mean = (voting[:, None] @ cosines)[:, 0]
    low, high = mean.aminmax(dim=1, keepdim=True)
    rest = (mean - low) / (high - low).clamp(min=1e-12)
    return (tally + (deciding + rest / 2) / (idle + 1)) / voters


def mode_weights(
    views: Tensor,
    classes: Tensor,
    logit_scale: float,
    *,
    neighbours: float = MTA_NEIGHBOURS,
    affinity: float = MTA_AFFINITY,
    entropy: float = MTA_ENTROPY,
) -> Tensor:
    """Weigh views so that their weighted sum points at the robust mode of their features.

    Source: MTA, Zanella and Ben Ayed, CVPR 2024, arXiv 2405.02266. The mode m and the inlierness scores y of the views
    are updated in turn, m by mean shift with the kernel K(f_p - m) = exp(-|f_p - m|^2 / h_p^2), h_p^2 the mean squared
    distance of view p to its nearest of the others, a share rho of them, and

        m = normalise(sum_p y_p K(f_p - m) f_p),     y = softmax((K(f_p - m) + lambda sum_q a_pq y_q) / lambda_y)

    with a_pq the product of both views' class probabilities; it starts at the whole image and at equal scores. Like the
    authors' program it makes five rounds of five steps each and keeps m on the unit sphere.

    Args:
        views: (N, V, D) features, the whole image first.
        classes: (C, D) features.
        logit_scale: of the class probabilities.
        neighbours: rho, the share of the others whose distances make h_p.
        affinity: lambda.
        entropy: lambda_y.

    Returns:
        (N, V) weights y_p K(f_p - m), made to sum to one.
    """
    points = views.float()
    count = points.shape[1]
    lengths = points.square().sum(2)
    squared = (lengths[:, :, None] + lengths[:, None] - 2 * points @ points.transpose(1, 2)).clamp(min=0)
    # The nearest one of all is the view itself.
    nearest = squared.diagonal_scatter(squared.new_zeros(squared.shape[:2]), dim1=1, dim2=2).sort(2).values
    bandwidths = nearest[:, :, 1 : 1 + max(1, int(neighbours * (count - 1)))].mean(2).clamp(min=1e-12)
    predictions = (logit_scale * points @ classes.T).softmax(-1)
    likeness = predictions @ predictions.transpose(1, 2)

    def kernel(mode: Tensor) -> Tensor:
        return (-(points - mode[:, None]).square().sum(2) / bandwidths).exp()

    mode, scores = points[:, 0], points.new_full(points.shape[:2], 1 / count)
    weights = scores
    for _ in range(MTA_ROUNDS):
        density = kernel(mode)
        for _ in range(MTA_ROUNDS):
            agreement = (likeness @ scores[:, :, None])[:, :, 0]
            scores = ((density + affinity * agreement) / entropy).softmax(1)
        for _ in range(MTA_ROUNDS):
            weights = kernel(mode) * scores
            mode = F.normalize((weights[:, None] @ points)[:, 0], dim=1)
    return weights / weights.sum(1, keepdim=True)
