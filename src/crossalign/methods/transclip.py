"""Judging all pictures of a set together: those that lie near each other, in one class's cloud, come to share its label.

Source: TransCLIP in its zero-shot form, Zanella, Gérin and Ben Ayed, "Boosting Vision-Language Models with Transduction",
NeurIPS 2024, arXiv 2406.01837; written from its formulas. Letters: N pictures, C classes, D the width of the joint space,
J neighbours of a picture. f_i is a whole image's feature, of unit length; y_i its class probabilities by the texts; z_i, on
the simplex, its assignment, which is sought. Each class is a Gaussian p_k with a mean m_k of its own and the diagonal
covariance S of all. Minimised, block by block, is

    - sum_i z_i . log p_i  -  sum_ij w_ij z_i . z_j  +  sum_i (z_i . log z_i - z_i . log y_i)

No tensor is larger than (N, C) or (N, D), and CHUNK numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 3
"""Of each picture, the likest others; all other pairs have no affinity."""
FIRST = 8
"""Pictures whose mean a class starts from: those that are most probably of it."""
ROUNDS, STEPS = 10, 5
"""Rounds over the blocks, and steps of the assignment in each."""
NOBODY = 1e-6
"""Mass, in pictures, below which a class keeps its mean."""
VARIANCE_FLOOR = 1e-5
"""Of 1 / D: what float32 leaves of a variance of zero, squares of features being 1 / D on average."""
CHUNK = 2**24
"""Numbers in the largest tensor of a chunk of pictures, 64 MiB in float32."""


@dataclass(frozen=True)
class Neighbours:
    """Who is near whom.

    Attributes:
        indices: (N, J) pictures.
        affinities: (N, J) w_ij, at least 0.
    """

    indices: Tensor
    affinities: Tensor


@dataclass(frozen=True)
class ClassModel:
    """A Gaussian a class.

    Attributes:
        means: (C, D).
        variances: (D,), the same for all.
    """

    means: Tensor
    variances: Tensor


def transclip(
    features: Tensor, logits: Tensor, neighbours: Neighbours, update: Callable[[int], object] = lambda n: None
) -> Tensor:
    """Assign all pictures to classes, together.

    What the formulas leave open: the three terms weigh alike; a round begins with z, which goes on from where the last
    round left it; "most confident for a class" is the highest y_ik, whichever class is that picture's best; w_ij counts
    if j is one of i's neighbours, whether or not i is one of j's. Normalising p over the classes would cancel when z is
    normalised, so it is left out.

    Args:
        features: (N, D) of unit length.
        logits: (N, C) of the class probabilities y, such as logit_scale * scores.
        neighbours: as `nearest` finds them.
        update: told after each of ROUNDS that one more is done.

    Returns:
        (N, C) assignments z, which sum to one.
    """
    # Gaussians can be moved together; around the origin, squares cancel least.
    features = features - features.mean(0)
    log_y = logits.log_softmax(1)
    model, z = start(features, log_y), log_y.exp()
    for turn in range(ROUNDS):
        if turn:
            model = fit(features, z, model)
        evidence = log_likelihoods(features, model).add_(log_y)
        for _ in range(STEPS):
            z = assign(z, evidence, neighbours)
        update(1)
    return z


def nearest(features: Tensor, update: Callable[[int], object] = lambda n: None) -> Neighbours:
    """Find each picture's NEIGHBOURS, or all others if they are fewer; w_ij = max(0, f_i . f_j).

    Args:
        features: (N, D) of unit length.
        update: told how many pictures more are done.
    """
    count = min(NEIGHBOURS, len(features) - 1)
    indices, affinities = [], []
    for rows in _chunks(len(features), len(features)):
        likeness = features[rows] @ features.T
        likeness.diagonal(rows.start).fill_(-torch.inf)
        best = likeness.topk(count, dim=1)
        indices.append(best.indices)
        affinities.append(best.values.clamp(min=0))
        update(len(likeness))
    return Neighbours(torch.cat(indices), torch.cat(affinities))


def start(features: Tensor, log_y: Tensor) -> ClassModel:
    """Begin with the mean of each class's FIRST pictures, or of all if they are fewer, and variances of 1 / D.

    Args:
        features: (N, D).
        log_y: (N, C) log-probabilities.
    """
    surest = log_y.topk(min(FIRST, len(log_y)), dim=0).indices
    means = torch.stack([features[of_class].mean(0) for of_class in surest.T])
    width = features.shape[1]
    return ClassModel(means, features.new_full((width,), 1 / width))


def fit(features: Tensor, z: Tensor, before: ClassModel) -> ClassModel:
    """Fit the Gaussians to assignments: m_k = sum_i z_ik f_i / sum_i z_ik, S = sum_ik z_ik (f_i - m_k)^2 / N.

    Args:
        features: (N, D).
        z: (N, C) assignments.
        before: whose means those classes keep that nobody is assigned to.
    """
    mass, sums = z.sum(0)[:, None], z.T @ features
    means = torch.where(mass < NOBODY, before.means, sums / mass.clamp(min=NOBODY))
    squares = torch.linalg.vector_norm(features, dim=0).square()
    spread = squares - 2 * (means * sums).sum(0) + (mass * means.square()).sum(0)
    return ClassModel(means, (spread / len(features)).clamp(min=VARIANCE_FLOOR / features.shape[1]))


def log_likelihoods(features: Tensor, model: ClassModel) -> Tensor:
    """Take log p_ik = -(f_i - m_k)^T S^-1 (f_i - m_k) / 2 without what is the same for all classes: (N, C)."""
    scaled = model.means / model.variances
    return torch.addmm((model.means * scaled).sum(1), features, scaled.T, beta=-0.5)


def assign(z: Tensor, evidence: Tensor, neighbours: Neighbours) -> Tensor:
    """Make one step of all assignments at once: z_i becomes proportional to y_i p_i exp(sum_j w_ij z_j).

    These steps belong to the objective that counts each pair once, half of sum_ij. As all pictures step at once, it can
    rise: two groups that are only each other's neighbours may swap their labels for ever. If w is symmetric, steps never
    raise  - sum_ij w_ij z_i . z'_j + KL(z | y p) + KL(z' | y p)  of the assignments z before and z' after a step; if it is
    positive semi-definite too, they never raise the objective. The affinities of nearest neighbours need be neither.

    Args:
        z: (N, C) assignments.
        evidence: (N, C) log y_i + log p_i.
        neighbours: of each picture.

    Returns:
        (N, C) assignments.
    """
    after = torch.empty_like(z)
    for rows in _chunks(len(z), z.shape[1]):
        logits = evidence[rows].clone()
        for of_rank, affinity in zip(neighbours.indices[rows].T, neighbours.affinities[rows].T, strict=True):
            logits.addcmul_(affinity[:, None], z[of_rank])
        after[rows] = logits.softmax(1)
    return after


def _chunks(count: int, width: int) -> Iterator[slice]:
    """Cut `count` rows of `width` numbers into slices of at most CHUNK numbers, or one row."""
    step = max(1, CHUNK // width)
    return (slice(first, first + step) for first in range(0, count, step))
