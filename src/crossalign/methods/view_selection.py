"""Choosing among views: the vote of the most confident ones (ZERO), the robust mode of all (MTA), and the best one.

Letters as in alignment.py; V views with the global view first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.methods import alignment
from crossalign.methods.entropy import entropies
from crossalign.methods.method import ScoreConfig, TextFeatures

ZERO_SHARE = 0.3
"""Of the views that vote in ZERO (gamma; Farina et al., NeurIPS 2024)."""
ZERO_TEMPERATURE = torch.finfo(torch.float32).eps
"""Of the softmax that makes a vote of a view's cosines: one vote, unless cosines are equal to the last bits."""
ORDER = 1e-3
"""Of a vote: the most that is added to order classes with equal votes."""
MTA_NEIGHBOURS = 0.3
"""Share of the other views whose distances make a view's bandwidth (rho; Zanella and Ben Ayed, CVPR 2024)."""
MTA_AFFINITY = 4.0
"""Weight of the agreement between views' predictions (lambda)."""
MTA_ENTROPY = 0.2
"""Weight of the entropy of the inlierness scores (lambda_y)."""
MTA_ROUNDS = 5
"""Of the alternation, and of the fixed-point steps in either half of it, as in the authors' program."""
MTA_TOLERANCE = 1e-6
"""The steps of a half end early when they move less, as in the authors' program."""


def confident_first(cosines: Tensor, logit_scale: float) -> Tensor:
    """Sort the views of each image by the entropy of their predictions, lowest first: (N, V, C) to (N, V) indices."""
    return entropies(logit_scale * cosines).argsort(dim=1, stable=True)


def zero_votes(cosines: Tensor, order: Tensor, voters: int) -> Tensor:
    """Count the votes of the most confident views, with the tie-break of ZERO's program.

    Source: ZERO, Farina et al., "Frustratingly Easy Test-Time Adaptation of Vision-Language Models", NeurIPS 2024, arXiv
    2405.18330, and its program. If classes tie for most votes, the next confident view that is for one of them adds a vote
    to it. If no view is, the program takes the next confident view, leaves out the classes C - 1 - t for each tied class t
    (it inverts the indices bitwise), and adds a vote to the best of the rest, tied or not; this does the same. If all views
    have voted, where the program fails, the tie stays.

    Args:
        cosines: (N, V, C) of views and classes.
        order: (N, V) as `confident_first` gives it.
        voters: how many views vote; with none, all classes tie.

    Returns:
        (N, C) votes.
    """
    cosines = cosines.gather(1, order[:, :, None].expand_as(cosines))
    votes = (cosines[:, :voters] / ZERO_TEMPERATURE).softmax(2).sum(1)
    idle = cosines[:, voters:]
    tied = votes == votes.amax(1, keepdim=True)
    open_tie = tied.sum(1) > 1
    if idle.shape[1] == 0 or not open_tie.any():
        return votes
    choices = idle.argmax(2)
    for_tied = tied.gather(1, choices)
    # argmax of a bool is the first true one.
    decided = choices.gather(1, for_tied.int().argmax(1, keepdim=True))
    last_resort = idle[:, 0].masked_fill(tied.flip(1), -torch.inf).argmax(1, keepdim=True)
    winner = torch.where(for_tied.any(1, keepdim=True), decided, last_resort)
    return votes.scatter_add(1, winner, open_tie[:, None].to(votes.dtype))


def zero(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Let the most confident views vote for their best class; see `zero_votes`.

    A `Score` that sees "views+image"; option gamma, the share of the views that vote: floor(gamma * V). The score is the
    share of the votes, plus less than a thousandth of a vote that orders classes with equal votes by their mean similarity.
    """
    cosines = views @ F.normalize(texts.pooled, dim=-1).T
    voters = int(options["gamma"] * views.shape[1])
    order = confident_first(cosines, config.logit_scale)
    votes = zero_votes(cosines, order, voters)
    sure = order[:, : max(1, voters), None].expand(-1, -1, cosines.shape[2])
    mean = cosines.gather(1, sure).mean(1)
    low, high = mean.aminmax(dim=1, keepdim=True)
    return (votes + ORDER * (mean - low) / (high - low).clamp(min=1e-12)) / max(1, voters)


def mta_mode(
    views: Tensor,
    classes: Tensor,
    logit_scale: float,
    *,
    neighbours: float = MTA_NEIGHBOURS,
    affinity: float = MTA_AFFINITY,
    entropy: float = MTA_ENTROPY,
) -> tuple[Tensor, Tensor]:
    """Find the robust mode of the features of each image's views.

    Source: MTA, Zanella and Ben Ayed, CVPR 2024, arXiv 2405.02266. The mode m and the inlierness scores y of the views
    are updated in turn, m by mean shift with the kernel K(f_p - m) = exp(-|f_p - m|^2 / h_p^2), h_p^2 the mean squared
    distance of view p to its nearest others, a share rho of them, and

        m = normalise(sum_p y_p K(f_p - m) f_p),     y = softmax((K(f_p - m) + lambda sum_q a_pq y_q) / lambda_y)

    with a_pq the product of the class probabilities of both views. It starts at the global view with equal scores; as in
    the authors' program there are five rounds of at most five steps each.

    With fewer than five views rho leaves no neighbour and the program gives no number; here there is at least one neighbour,
    and the mode of a single view is that view. A bandwidth of zero, of a view that has a twin, counts as 1e-12: such views
    have density only while the mode is exactly there.

    Args:
        views: (N, V, D) features, the global view first.
        classes: (C, D) of unit length.
        logit_scale: of the class probabilities.
        neighbours: rho, the share of the other views whose distances make h_p.
        affinity: lambda.
        entropy: lambda_y.

    Returns:
        (N, D) modes of unit length, and (N, V) inlierness scores.
    """
    points, count = views.float(), views.shape[1]
    scores = points.new_full(points.shape[:2], 1 / count)
    if count == 1:
        return points[:, 0], scores
    lengths = points.square().sum(2)
    squared = (lengths[:, :, None] + lengths[:, None] - 2 * points @ points.transpose(1, 2)).clamp(min=0)
    # The nearest view of all is the view itself.
    nearest = squared.diagonal_scatter(squared.new_zeros(squared.shape[:2]), dim1=1, dim2=2).sort(2).values
    bandwidths = nearest[:, :, 1 : 1 + max(1, int(neighbours * (count - 1)))].mean(2).clamp(min=1e-12)
    predictions = (logit_scale * points @ classes.T).softmax(-1)
    agreement = predictions @ predictions.transpose(1, 2)

    def kernel(mode: Tensor) -> Tensor:
        return (-(points - mode[:, None]).square().sum(2) / bandwidths).exp()

    mode = points[:, 0]
    for _ in range(MTA_ROUNDS):
        density, moving = kernel(mode), torch.ones_like(mode[:, :1], dtype=torch.bool)
        for _ in range(MTA_ROUNDS):
            after = ((density + affinity * (agreement @ scores[:, :, None])[:, :, 0]) / entropy).softmax(1)
            scores, moving = _step(scores, after, moving)
        moving = torch.ones_like(moving)
        for _ in range(MTA_ROUNDS):
            after = F.normalize(((kernel(mode) * scores)[:, None] @ points)[:, 0], dim=1)
            mode, moving = _step(mode, after, moving)
    return mode, scores


def _step(before: Tensor, after: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Take a step for the images that still move: the values, and (N, 1) whether they moved on."""
    moved = (after - before).norm(dim=1, keepdim=True) >= MTA_TOLERANCE
    return torch.where(moving, after, before), moving & moved


def mta(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score classes by their cosine with the robust mode of the views; see `mta_mode`.

    A `Score` that sees "views+image"; options rho, lambda and lambda_y.
    """
    classes = F.normalize(texts.pooled, dim=-1)
    mode, _ = mta_mode(
        views,
        classes,
        config.logit_scale,
        neighbours=options["rho"],
        affinity=options["lambda"],
        entropy=options["lambda_y"],
    )
    return mode @ classes.T


def best_view(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score each class by the view that is most similar to its embedding: a control. A `Score` that sees "views"."""
    return alignment.scores(views, texts.pooled, config.form).amax(1)
