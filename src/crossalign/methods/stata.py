"""StatA: TransCLIP with a covariance per class, held near what the texts say of each class.

Source: Zanella, Fuchs, De Vleeschouwer and Ben Ayed, "Realistic Test-Time Adaptation of Vision-Language Models", CVPR 2025,
arXiv 2501.03729, and its program. Letters as in transclip.py; S_c (D,) is the diagonal covariance of class c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.methods.method import ScoreConfig, TextFeatures
from crossalign.methods.transclip import (
    LEAST_MASS,
    LIKELIHOOD_SHARE,
    ROUNDS,
    assign,
    class_log_probabilities,
    neighbour_affinities,
)

ALPHA = 1.0
"""How many images' worth the texts count in the statistics of a class."""
LEAST_VARIANCE = 1e-10
"""Below it, rounding is all that a sum of squared differences holds; the program divides by such numbers, even by zero."""
PROGRAM_CHUNK = 2500
"""Images in a chunk of the program's first covariance."""


@dataclass(frozen=True)
class ClassModel:
    """A Gaussian per class, with a diagonal covariance of its own.

    Attributes:
        means: (C, D) of unit length.
        variances: (C, D).
    """

    means: Tensor
    variances: Tensor


def stata(texts: TextFeatures, x0: Tensor, views: Tensor, config: ScoreConfig, options: Mapping[str, float]) -> Tensor:
    """Score classes by the assignments of StatA: (N, C) that sum to one for each image.

    A `Score` that sees a "set"; options alpha and soft_beta.
    """
    features, anchors = x0.float(), F.normalize(texts.pooled, dim=-1)
    log_y = class_log_probabilities(texts, features, config.logit_scale)
    affinities = neighbour_affinities(features)
    z = log_y.exp()
    first = first_variances(features, z, anchors)
    model = ClassModel(anchors, first.expand_as(anchors))
    for turn in range(ROUNDS):
        if turn:
            model = fit(features, z, anchors, first, options["alpha"], bool(options["soft_beta"]))
        z = assign(z, log_likelihoods(features, model).div_(LIKELIHOOD_SHARE).add_(log_y), affinities)
    return z


def first_variances(features: Tensor, z: Tensor, means: Tensor) -> Tensor:
    """Compute sum_ic y_ic (f_i - t_c)^2 / N as the program does: (D,).

    The program divides by N after each chunk of 2500 images, not once at the end, so with several chunks the first ones all
    but vanish. Its published figures were made so.
    """
    total = features.new_zeros(features.shape[1], dtype=torch.float64)
    for chunk, weights in zip(features.split(PROGRAM_CHUNK), z.split(PROGRAM_CHUNK), strict=True):
        total = (total + squared_distances(chunk, weights, means).sum(0)) / len(features)
    return total.to(features.dtype)


def squared_distances(features: Tensor, z: Tensor, means: Tensor) -> Tensor:
    """Compute sum_i z_ic (f_id - m_cd)^2 in float64, since the differences are small: (C, D)."""
    squares, sums, mass = z.T @ features.square(), z.T @ features, z.sum(0)[:, None]
    exact = means.double()
    return (squares.double() - 2 * exact * sums.double() + mass.double() * exact.square()).clamp(min=0)


def fit(features: Tensor, z: Tensor, anchors: Tensor, first: Tensor, alpha: float, soft_beta: bool = False) -> ClassModel:
    """Fit the Gaussians to assignments, and mix them with what the texts say.

    With n_c the number of images whose best class is c, beta_c = n_c / (alpha + n_c) is the share of the images:

        m_c = normalise(beta_c normalise(sum_i z_ic f_i) + (1 - beta_c) t_c)
        S_c = beta_c sum_i z_ic (f_i - m_c)^2 / sum_i z_ic + (1 - beta_c) (S_0 + (t_c - m_c)^2)

    Args:
        features: (N, D).
        z: (N, C) assignments.
        anchors: (C, D) t_c.
        first: (D,) S_0.
        alpha: weight of the texts, in images.
        soft_beta: n_c is the sum of z_ic instead.
    """
    counts = z.sum(0) if soft_beta else torch.bincount(z.argmax(1), minlength=z.shape[1]).to(z.dtype)
    counts = counts[:, None]
    beta = counts / (alpha + counts + 1e-12)
    means = F.normalize(beta * F.normalize(z.T @ features, dim=1) + (1 - beta) * anchors, dim=1)
    mass = z.sum(0)[:, None].clamp(min=LEAST_MASS)
    spread = squared_distances(features, z, means).to(z.dtype) / mass
    return ClassModel(means, beta * spread + (1 - beta) * (first + (anchors - means).square()))


def log_likelihoods(features: Tensor, model: ClassModel) -> Tensor:
    """Compute -1/2 sum_d (f_id - m_cd)^2 / S_cd - 1/2 sum_d log S_cd: (N, C)."""
    # Gaussians can be moved together; around the mean, the squares cancel least.
    centre = features.mean(0)
    features, means = features - centre, model.means - centre
    variances = model.variances.clamp(min=LEAST_VARIANCE)
    scaled = means / variances
    constant = (means * scaled + variances.log()).sum(1)
    return torch.addmm(features.square() @ (1 / variances).T + constant, features, scaled.T, beta=-0.5)
