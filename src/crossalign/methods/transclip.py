"""TransCLIP: all images of a set are classified together, by a Gaussian per class and by their nearest neighbours.

Source: its zero-shot form, Zanella, Gérin and Ben Ayed, "Boosting Vision-Language Models with Transduction", NeurIPS 2024,
arXiv 2406.01837, and its program, where they differ. Letters: N images, C classes, D width; f_i is the feature of an image;
t_c of unit length the embedding of a class; y_i = softmax(logit_scale * f_i . t) the class probabilities by the texts; z_i,
on the simplex, the assignment that is sought. Minimised, block by block, is about

    - sum_i z_i . log p_i  -  sum_ij w_ij z_i . z_j  +  sum_i (z_i . log z_i - z_i . log y_i)

where p_i are Gaussian likelihoods. No tensor is larger than (N, C) or (N, D), of which a few are alive at once, or CHUNK
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from crossalign.methods.method import ScoreConfig, TextFeatures

NEIGHBOURS = 3
"""Of each image; all other pairs have no affinity."""
MOST_CONFIDENT = 8
"""Images that the mean of a class starts from: those with the highest probability of it."""
ROUNDS, STEPS = 11, 5
"""Updates of the assignments, with one of the Gaussians between two of them; and steps in each."""
LIKELIHOOD_SHARE = 50
"""What the program divides the Gaussian log-likelihood by."""
NEIGHBOUR_SHARE = 6
"""What the program divides the sum over neighbours in both directions by."""
LEAST_MASS = 1e-6
"""Mass, in images, below which a class keeps its mean."""
VARIANCE_FLOOR = 1e-5
"""Of 1 / D: what float32 leaves of a variance of zero, since squares of features are 1 / D on average."""
CHUNK = 2**24
"""Numbers in the largest tensor of a chunk of images, 64 MiB in float32."""


@dataclass(frozen=True)
class ClassModel:
    """A Gaussian per class, with one diagonal covariance.

    Attributes:
        means: (C, D) of unit length.
        variances: (D,), the same for all classes.
    """

    means: Tensor
    variances: Tensor


def transclip(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score classes by the assignments of TransCLIP: (N, C) that sum to one for each image.

    A `Score` that sees a "set". The program fails with fewer than eight images, or if no image of the set has the label of
    some class; here the number of classes is that of the texts, and a mean starts from all images if there are fewer than
    eight.
    """
    features = x0.float()
    log_y = class_log_probabilities(texts, features, config.logit_scale)
    affinities = neighbour_affinities(features)
    model, z = start(features, log_y), log_y.exp()
    for turn in range(ROUNDS):
        if turn:
            model = fit(features, z, model)
        z = assign(z, log_likelihoods(features, model).div_(LIKELIHOOD_SHARE).add_(log_y), affinities)
    return z


def class_log_probabilities(texts: TextFeatures, features: Tensor, logit_scale: float) -> Tensor:
    """Compute log y: (N, D) features to (N, C)."""
    return (logit_scale * features @ F.normalize(texts.pooled, dim=-1).T).log_softmax(1)


def neighbour_affinities(features: Tensor) -> Any:
    """Build W + W^T, w_ij = f_i . f_j for the three nearest other images j of each image i.

    As in the program, the first of the four nearest is taken for the image itself, which copies of an image can upset.

    Args:
        features: (N, D) of unit length.

    Returns:
        (N, N) sparse array.
    """
    count = len(features)
    nearest = [(features[rows] @ features.T).topk(min(1 + NEIGHBOURS, count), dim=1) for rows in chunks(count, count)]
    columns = torch.cat([best.indices[:, 1:] for best in nearest]).numpy()
    values = torch.cat([best.values[:, 1:] for best in nearest]).numpy()
    rows = np.arange(count).repeat(columns.shape[1])
    w = csr_array((values.ravel(), (rows, columns.ravel())), shape=(count, count))
    return (w + w.T).tocsr()


def start(features: Tensor, log_y: Tensor) -> ClassModel:
    """Start each class at the mean of its most confident images, weighted by y, with variances of 1 / D.

    Args:
        features: (N, D).
        log_y: (N, C).
    """
    best = log_y.topk(min(MOST_CONFIDENT, len(log_y)), dim=0)
    sums = torch.stack(
        [weights @ features[images] for weights, images in zip(best.values.exp().T, best.indices.T, strict=True)]
    )
    width = features.shape[1]
    return ClassModel(F.normalize(sums, dim=1), features.new_full((width,), 1 / width))


def fit(features: Tensor, z: Tensor, before: ClassModel) -> ClassModel:
    """Fit the Gaussians to assignments: m_c = normalise(sum_i z_ic f_i), s = sum_ic z_ic (f_i - m_c)^2 / sum_ic z_ic.

    Args:
        features: (N, D).
        z: (N, C) assignments.
        before: the classes without assignments keep its means; the program's are no numbers then.
    """
    mass, sums = z.sum(0)[:, None], z.T @ features
    means = torch.where(mass < LEAST_MASS, before.means, F.normalize(sums, dim=1))
    # The squares are summed in float64, since their differences are small.
    squares = torch.linalg.vector_norm(features, dim=0).double().square()
    exact, weight = means.double(), mass.double()
    spread = squares - 2 * (exact * sums.double()).sum(0) + (weight * exact.square()).sum(0)
    variances = (spread / weight.sum()).to(features.dtype)
    return ClassModel(means, variances.clamp(min=VARIANCE_FLOOR / features.shape[1]))


def log_likelihoods(features: Tensor, model: ClassModel) -> Tensor:
    """Compute -1/2 sum_d (f_id - m_cd)^2 / s_d, without what is the same for all classes: (N, C)."""
    scaled = model.means / model.variances
    return torch.addmm((model.means * scaled).sum(1), features, scaled.T, beta=-0.5)


def assign(z: Tensor, evidence: Tensor, affinities: Any) -> Tensor:
    """Take STEPS steps of all assignments at once: z_i proportional to exp(evidence_i + sum_j (w_ij + w_ji) z_j / 6).

    Args:
        z: (N, C) assignments.
        evidence: (N, C) log y_i, and the log-likelihoods divided by 50.
        affinities: (N, N) W + W^T.

    Returns:
        (N, C) assignments.
    """
    for _ in range(STEPS):
        after = torch.empty_like(z)
        for rows in chunks(len(z), z.shape[1]):
            agreement = torch.from_numpy(affinities[rows] @ z.numpy())
            after[rows] = (evidence[rows] + agreement / NEIGHBOUR_SHARE).softmax(1)
        z = after
    return z


def chunks(count: int, width: int) -> Iterator[slice]:
    """Split `count` rows of `width` numbers into slices of at most CHUNK numbers, or one row."""
    step = max(1, CHUNK // width)
    return (slice(first, first + step) for first in range(0, count, step))
