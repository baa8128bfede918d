"""Optimal transport between weighted views and weighted descriptions, class by class.

Letters as in alignment.py; V are the views in play, T the classes that are refined, L the most descriptions of a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 0.1
"""Entropic regularisation of AWT (Zhu et al., NeurIPS 2024) and LaZSL (Chen et al., ICCV 2025)."""
LAZSL_SHARE = 0.8
"""Of a view's own similarity in LaZSL's (alpha of its program); the rest is the whole image's."""
ITERATIONS = 100
"""At most, in both."""
TOLERANCE = 1e-6
"""Iterations end when no potential, in units of epsilon, moves more."""
REFINED = 16
"""Classes a picture whose transport is solved; the others keep the order of their mean similarity, below these."""
GAP = 1e-4
"""How far the best class that is not refined stays below the worst that is."""


def sinkhorn(cost: Tensor, rows: Tensor, columns: Tensor, epsilon: float = EPSILON, iterations: int = ITERATIONS) -> Tensor:
    """Solve entropic optimal transport, many problems at once, in the log domain.

    Source: Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", NeurIPS 2013.

    Args:
        cost: (B, V, L), finite.
        rows: (B, V) masses that sum to one; a row of mass zero takes no part.
        columns: (B, L) likewise; so a problem with fewer columns is padded with columns of mass zero.
        epsilon: of the entropic term.
        iterations: at most.

    Returns:
        (B, V, L) plans T that minimise <T, cost> - epsilon H(T).
    """
    affinity = cost / -epsilon
    log_rows, log_columns = rows.log(), columns.log()
    g = torch.zeros_like(log_columns).masked_fill(columns == 0, -torch.inf)
    f = log_rows
    for _ in range(iterations):
        before = f
        f = log_rows - (affinity + g[:, None]).logsumexp(2)
        g = log_columns - (affinity + f[:, :, None]).logsumexp(1)
        # Where both are -inf their difference is no number, and it is no movement.
        if (f - before).nan_to_num(0.0).abs().max() < TOLERANCE:
            break
    return (affinity + f[:, :, None] + g[:, None]).exp()


@dataclass(frozen=True)
class ByClass:
    """Where each class's descriptions lie, padded to the longest.

    Attributes:
        rows: (C, L) rows of the descriptions, zero where there is none.
        present: (C, L) whether there is one.
    """

    rows: Tensor
    present: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> ByClass:
        """Lay out descriptions that stand class after class: (C,) counts."""
        place = torch.arange(int(counts.max()), device=counts.device)
        present = place < counts[:, None]
        starts = counts.cumsum(0) - counts
        return cls((starts[:, None] + place) * present, present)


TextWeights = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Weighs (N, T, L) descriptions given the refined classes (N, T), the whole image's similarities and which are present."""


def transport_scores(
    whole: Tensor,
    views: Tensor,
    weights: Tensor,
    descriptions: Tensor,
    layout: ByClass,
    coarse: Tensor,
    text_weights: TextWeights,
    *,
    refined: int,
    view_share: float = 1.0,
    epsilon: float = EPSILON,
) -> Tensor:
    """Score classes by the similarity that the optimal plan carries, sum_mn T[m, n] S[m, n], with cost 1 - S.

    Sources: AWT, Zhu et al., NeurIPS 2024 (`view_share` 1); LaZSL, Chen et al., ICCV 2025, whose S mixes a view's
    similarity with the whole image's (`view_share` 0.8).

    Args:
        whole: (N, D) features of the whole images.
        views: (N, V, D) features.
        weights: (N, V) mass of the views.
        descriptions: (K, D) features, class after class.
        layout: of the descriptions.
        coarse: (N, C) scores that choose which classes are refined, and order the others.
        text_weights: gives the mass of the descriptions.
        refined: how many classes a picture; all others lie below them, in the order of `coarse`.
        view_share: S[m, n] = view_share * view_m . y_n + (1 - view_share) * whole . y_n.
        epsilon: of the entropic term.

    Returns:
        (N, C) scores.
    """
    images, classes = coarse.shape
    top = coarse.topk(min(refined, classes), dim=1).indices
    rows, present = layout.rows[top], layout.present[top]
    texts = descriptions.float()[rows.flatten(1)].transpose(1, 2)
    of_whole = (whole.float()[:, None] @ texts).view(rows.shape)
    similarity = (views.float() @ texts).view(images, views.shape[1], *rows.shape[1:]).transpose(1, 2)
    similarity = (1 - view_share) * of_whole[:, :, None] + view_share * similarity
    mass = weights[:, None].expand(-1, top.shape[1], -1)
    problems = similarity.flatten(0, 1)
    columns = text_weights(top, of_whole, present).flatten(0, 1)
    plan = sinkhorn(1 - problems, mass.flatten(0, 1), columns, epsilon)
    fine = (plan * problems).sum((1, 2)).view(top.shape)
    if top.shape[1] == classes:
        return coarse.scatter(1, top, fine)
    best_other = coarse.scatter(1, top, -torch.inf).amax(1)
    lowered = coarse + (fine.amin(1) - best_other - GAP).clamp(max=0)[:, None]
    return lowered.scatter(1, top, fine)
