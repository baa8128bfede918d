"""Optimal transport between weighted views and weighted texts of each class: AWT and LaZSL.

Letters as in alignment.py; V views, T classes that are transported, L texts of the class that has most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crossalign.methods import alignment, entropy
from crossalign.methods.method import ScoreConfig, TextFeatures

EPSILON = 0.1
"""Entropic regularisation of AWT (Zhu et al., NeurIPS 2024) and LaZSL (Chen et al., ICCV 2025)."""
LEAST_EPSILON = 0.025
"""Costs are at most 2, and exp(-2 / epsilon) must not underflow in float32."""
LAZSL_SHARE = 0.8
"""Share of a view's own similarity in LaZSL's (alpha of its program); the rest is the global view's."""
ITERATIONS = 100
"""Of Sinkhorn's algorithm at most, in both programs."""
TOLERANCE = 1e-2
"""Iterations stop when the row scaling changes less on average, in both programs."""
TRANSPORTED = 16
"""Classes per image that are transported under the shared protocol; see `transport_scores`."""
GAP = 1e-4
"""How far the best class that is not transported stays below the worst that is."""


def sinkhorn(
    similarity: Tensor,
    rows: Tensor,
    columns: Tensor,
    present: Tensor,
    *,
    epsilon: float = EPSILON,
    stop_per: Literal["image", "class"],
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Run Sinkhorn's algorithm on many problems at once, with the stopping rule of the programs of AWT and LaZSL.

    Source: Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", NeurIPS 2013. With the kernel
    K = exp(-(1 - S) / epsilon), r = rows / (K c) and c = columns / (K^T r) are updated in turn from ones. A problem stops
    when the mean absolute change of r is below the tolerance, whatever its neighbours in the batch do.

    Args:
        similarity: (N, T, V, L) in [-1, 1].
        rows: (N, T, V) masses that sum to one; zeros are allowed.
        columns: (N, T, L) masses that sum to one.
        present: (N, T, L) false for padding, which has mass zero and takes no part.
        epsilon: of the entropic term, at least `LEAST_EPSILON`.
        stop_per: whether the mean is over the V rows of each "class", which then stops on its own, or over all classes and
            rows of each "image".
        iterations: at most.
        tolerance: of the stopping rule.

    Returns:
        (N, T, V, L) plans diag(r) K diag(c). Their column sums are exact; their row sums as close as the rule asks for.
    """
    kernel = ((similarity - 1) / epsilon).exp()
    r, c = torch.ones_like(rows), present.expand_as(columns).to(rows.dtype)
    running = torch.ones_like(rows[:, :, :1], dtype=torch.bool)
    for _ in range(iterations):
        next_r = rows / (kernel @ c[..., None])[..., 0]
        next_c = columns / (next_r[..., None, :] @ kernel)[..., 0, :]
        change = (next_r - r).abs().mean(dim=2 if stop_per == "class" else (1, 2), keepdim=True)
        r, c = torch.where(running, next_r, r), torch.where(running, next_c, c)
        running = running & (change >= tolerance)
        if not running.any():
            break
    return kernel.mul_(r[..., None]).mul_(c[..., None, :])


@dataclass(frozen=True)
class ByClass:
    """Where the texts of each class are, padded to the class that has most.

    Attributes:
        rows: (C, L) rows of the text features; zero for padding.
        present: (C, L) false for padding.
    """

    rows: Tensor
    present: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> ByClass:
        """Lay out texts that stand class after class: (C,) counts."""
        place = torch.arange(int(counts.max()), device=counts.device)
        present = place < counts[:, None]
        starts = counts.cumsum(0) - counts
        return cls((starts[:, None] + place) * present, present)


@dataclass(frozen=True)
class Candidates:
    """The classes of each image that are transported, with the similarities of their texts.

    Attributes:
        classes: (N, T) indices.
        present: (N, T, L) or (1, T, L); false for padding.
        x0: (N, T, L) similarity of the global view with their texts.
        views: (N, T, V, L) similarity of the views with their texts.
    """

    classes: Tensor
    present: Tensor
    x0: Tensor
    views: Tensor


def candidates(texts: TextFeatures, x0: Tensor, views: Tensor, coarse: Tensor, count: float) -> Candidates:
    """Choose the `count` classes with the highest `coarse` (N, C) scores, or all if there are no more."""
    layout, (images, classes) = ByClass.of(texts.counts), coarse.shape
    if count >= classes:
        chosen = torch.arange(classes, device=coarse.device)[None]
    else:
        chosen = coarse.topk(int(count), dim=1).indices
    rows, present = layout.rows[chosen], layout.present[chosen]
    features = texts.features.float()[rows.flatten(1)].transpose(1, 2)
    of_x0 = (x0[:, None] @ features).view(images, *rows.shape[1:])
    of_views = (views @ features).view(images, views.shape[1], *rows.shape[1:]).transpose(1, 2)
    return Candidates(chosen.expand(images, -1), present, of_x0, of_views)


def transport_scores(coarse: Tensor, classes: Tensor, similarity: Tensor, plan: Tensor) -> Tensor:
    """Score classes by the similarity that their plan carries, sum_ml T[m, l] S[m, l].

    The released programs transport all classes. Under the shared protocol only the `TRANSPORTED` best by their mean
    similarity are, which takes a fraction of the time: the others keep the order of their mean similarity, below these.

    Args:
        coarse: (N, C) mean similarities.
        classes: (N, T) the transported classes.
        similarity: (N, T, V, L).
        plan: (N, T, V, L).

    Returns:
        (N, C) scores.
    """
    scores = (plan * similarity).sum((2, 3))
    if classes.shape[1] == coarse.shape[1]:
        return scores
    best_other = coarse.scatter(1, classes, -torch.inf).amax(1)
    lowered = coarse + (scores.amin(1) - best_other - GAP).clamp(max=0)[:, None]
    return lowered.scatter(1, classes, scores)


def awt(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Transport views to texts, both weighted by the entropy of predictions.

    Source: AWT, Zhu et al., NeurIPS 2024, arXiv 2407.04603. A `Score` that sees "views+image"; options image_temperature,
    text_temperature, epsilon and transported. With one class all weights are equal.
    """
    weights = entropy.view_weights(views, texts.pooled, config.logit_scale, options["image_temperature"])
    coarse = alignment.scores(alignment.pool_views(views, weights), texts.pooled, "paper")
    chosen = candidates(texts, x0, views, coarse, options["transported"])
    base = config.logit_scale * alignment.scores(x0, texts.pooled, "paper")
    logits = config.logit_scale * chosen.x0
    text_mass = entropy.text_weights(base, chosen.classes, logits, chosen.present, options["text_temperature"])
    view_mass = weights[:, None].expand(-1, text_mass.shape[1], -1)
    plan = sinkhorn(chosen.views, view_mass, text_mass, chosen.present, epsilon=options["epsilon"], stop_per="image")
    return transport_scores(coarse, chosen.classes, chosen.views, plan)


def mass_above_mean(views: Tensor, x0: Tensor) -> Tensor:
    """Spread the mass evenly over the views that are at least as similar to the global view as the mean view is.

    Source: LaZSL, Chen et al., ICCV 2025, arXiv 2506.23822. Its program leaves no view, and gives no score, where equal
        views
    fall below their own mean by rounding; here the most similar view always stays.

    Args:
        views: (N, M, D) features.
        x0: (N, D) features of the global views.

    Returns:
        (N, M) masses that sum to one, zero for the views below the mean.
    """
    similarity = (views.float() * x0.float()[:, None]).sum(-1)
    threshold = torch.minimum(similarity.mean(1, keepdim=True), similarity.amax(1, keepdim=True))
    above = (similarity >= threshold).float()
    return above / above.sum(1, keepdim=True)


def lazsl(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Transport the views above the mean to the texts of each class, S = alpha * view . text + (1 - alpha) * x_0 . text.

    Source: LaZSL, Chen et al., ICCV 2025, arXiv 2506.23822. A `Score` that sees "views"; options alpha, epsilon and
        transported.
    """
    weights = mass_above_mean(views, x0)
    coarse = alignment.scores(alignment.pool_views(views, weights), texts.pooled, "paper")
    chosen = candidates(texts, x0, views, coarse, options["transported"])
    alpha = options["alpha"]
    similarity = alpha * chosen.views + (1 - alpha) * chosen.x0[:, :, None]
    view_mass = weights[:, None].expand(-1, similarity.shape[1], -1)
    text_mass = (chosen.present / chosen.present.sum(-1, keepdim=True)).expand_as(chosen.x0)
    plan = sinkhorn(similarity, view_mass, text_mass, chosen.present, epsilon=options["epsilon"], stop_per="class")
    return transport_scores(coarse, chosen.classes, similarity, plan)


OPTIONS = {"epsilon": EPSILON, "transported": float(TRANSPORTED)}
LIMITS = {"epsilon": (LEAST_EPSILON, math.inf), "transported": (1.0, math.inf), "alpha": (0.0, 1.0)}
